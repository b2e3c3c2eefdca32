"""`python -m mgie` is the `mgie` command; `torchrun -m mgie train ...` comes in here."""

import sys

from mgie.cli import main

if __name__ == "__main__":
    sys.exit(main())
