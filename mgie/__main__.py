"""`python -m mgie` and `torchrun -m mgie ...` are the `mgie` command."""

import sys

from mgie.cli import main

if __name__ == "__main__":
    sys.exit(main())
