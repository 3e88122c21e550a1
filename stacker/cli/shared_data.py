"""Find the man pages and completion scripts that are installed with the package.

The name of a file goes in, and its path comes out.  A wheel installs the files below
``share/``; in a checkout they are in the directories ``man`` and ``completions``.  This module does
not read them.
"""

from __future__ import annotations

import sysconfig
from pathlib import Path

import stacker
from stacker.errors import NotFoundError

_CHECKOUT = Path(stacker.__file__).parents[1]
SCRIPTS = {
    "bash": ("bash-completion/completions/stacker", "stacker.bash"),
    "zsh": ("zsh/site-functions/_stacker", "_stacker"),
    "fish": ("fish/vendor_completions.d/stacker.fish", "stacker.fish"),
}
"""Each shell's completion script: its path below ``share/``, and its name in a checkout."""


def man_page(name: str) -> Path:
    """Return the path of a man page of section 1.

    :param name: such as ``stacker-pull``.
    :raises NotFoundError: it is not installed.
    """
    return _first(f"man/man1/{name}.1", f"man/{name}.1")


def completion_script(shell: str) -> Path:
    """Return the path of the completion script for a shell.

    :param shell: a key of `SCRIPTS`.
    :raises NotFoundError: it is not installed.
    """
    installed, name = SCRIPTS[shell]
    return _first(installed, f"completions/{name}")


def _first(installed: str, in_checkout: str) -> Path:
    path = Path(sysconfig.get_path("data"), "share", installed)
    for found in (_CHECKOUT / in_checkout, path):
        if found.exists():
            return found
    raise NotFoundError(
        f"not installed: {path}", hint="install stacker from its wheel or from a checkout"
    )
