"""``stacker info``: what this machine and the store's filesystem can do."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

import stacker
from stacker.cli.output import print_item, print_table, print_text
from stacker.operations.info import machine_info

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from stacker.cli.session import Session
    from stacker.linux.probe import Answer
    from stacker.operations.info import Info

DESCRIPTION = """\
Show what this machine and the filesystem of the store can do, and why not: mount drivers, EROFS,
reflinks, xattrs.  `form auto` is the form that `stacker pull --form auto` takes.  stacker tries
each feature out and leaves nothing behind.  The store need not exist.  A feature that gives no
answer within 5 seconds, such as a mount that hangs, is shown as unknown.
"""
EXAMPLES = """\
  stacker info                        show the features as a table
  stacker info --store /srv/stacker   show those of another filesystem
  stacker info --json
"""
_WORKS = {True: "yes", False: "no", None: "unknown"}


def configure(parser: ArgumentParser) -> None:
    """Add no arguments."""
    del parser


def run(args: Namespace, session: Session) -> None:
    """Print the features."""
    del args
    info = machine_info(session.root)
    if session.json:
        print_item("info", _document(info))
        return
    for name, text in _lines(info).items():
        print_text(f"{name:<10}  {text}")
    print_text("")
    rows = [(name, _WORKS[each.works], each.reason) for name, each in info.answers.items()]
    print_table(("FEATURE", "WORKS", "REASON"), rows)


def _lines(info: Info) -> dict[str, str]:
    namespace = "the initial" if info.initial_user_namespace else "another"
    capable = "with" if info.cap_sys_admin else "without"
    packages = (f"{name} {version or '(missing)'}" for name, version in info.packages.items())
    return {
        "kernel": f"Linux {info.kernel}, {info.machine}, processors: {info.processors}",
        "user": f"UID {info.uid}, {namespace} user namespace, {capable} CAP_SYS_ADMIN",
        "python": f"{platform.python_version()}, stacker {stacker.__version__}",
        "packages": ", ".join(packages),
        "inflate": "isal for gzip, zstandard for zstd",
        "store": str(info.root),
        "form auto": f"{info.form.form}: {info.form.reason}",
    }


def _document(info: Info) -> dict[str, object]:
    return {
        "stacker": stacker.__version__,
        "python": platform.python_version(),
        "packages": dict(info.packages),
        "kernel": info.kernel,
        "machine": info.machine,
        "processors": info.processors,
        "uid": info.uid,
        "initial_user_namespace": info.initial_user_namespace,
        "cap_sys_admin": info.cap_sys_admin,
        "store": str(info.root),
        "form_auto": {"form": info.form.form, "reason": info.form.reason},
        "features": [_feature(name, each) for name, each in info.answers.items()],
    }


def _feature(name: str, answer: Answer) -> dict[str, object]:
    return {"name": name, "works": answer.works, "reason": answer.reason}
