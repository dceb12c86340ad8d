"""argv -> command."""

from __future__ import annotations

import sys

from extproc.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
