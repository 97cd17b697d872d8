"""Whole models beside their peers: `regnet bench`, callable from a checkout.

    python benchmarks/models.py --models regnety_400mf --batch 1 --json benchmarks/results/run.json
"""

import sys

from regnet.cli import main

if __name__ == "__main__":
    sys.exit(main(["bench", *sys.argv[1:]]))
