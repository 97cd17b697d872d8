"""Single kernels beside oneDNN: `regnet bench ops`, callable from a checkout.

    python benchmarks/ops.py --models regnety_1.6gf --csv ops.csv --plot roofline.png
"""

import sys

from regnet.cli import main

if __name__ == "__main__":
    sys.exit(main(["bench", "ops", *sys.argv[1:]]))
