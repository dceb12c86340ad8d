"""`python -m extproc.sim`."""

import sys

from extproc.sim.command import main

if __name__ == "__main__":
    sys.exit(main())
