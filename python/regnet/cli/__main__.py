"""`python -m regnet.cli`: the `regnet` command."""

import sys

from regnet.cli import main

sys.exit(main())
