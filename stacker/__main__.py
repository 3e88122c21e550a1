"""``python -m stacker``."""

from __future__ import annotations

from stacker.cli import command

if __name__ == "__main__":
    command()
