"""``python -m stacker``."""

from __future__ import annotations

import sys

from stacker.cli import main

if __name__ == "__main__":
    sys.exit(main())
