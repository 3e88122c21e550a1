"""``stacker info``: what this machine and the store's filesystem can do."""

from __future__ import annotations

import platform
import resource
from argparse import ArgumentParser
from pathlib import Path
from typing import TYPE_CHECKING

import stacker
from stacker.cli.options import add_archive_ratio, add_limits
from stacker.cli.output import print_item, print_table, print_text

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterable

    from stacker import Answer, IdRange, Info
    from stacker.cli.session import Session

DESCRIPTION = """\
Show which features this machine and the filesystem of the store support: mount drivers, EROFS,
namespaces, reflinks, xattrs.  If a feature does not work, stacker shows the reason.

`form auto` is the form that `stacker pull --form auto` takes.  `mount tree` and `mount erofs` are
the drivers that `stacker mount` takes for layers of each form.  The limits are those of overlayfs,
of open files, and of `stacker pull` without options.  The line `config` has each key of the
configuration files, its value and its file.

stacker tries each feature, and leaves nothing behind.  The store need not exist.  If a test takes
longer than 5 seconds, for example because a mount hangs, stacker shows the feature as unknown.
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
    info = stacker.machine_info(session.root)
    limits = _limits(info, session)
    if session.json:
        print_item("info", {**_document(info, limits), **_configured(session)})
        return
    for name, text in {**_lines(info, limits), "config": _config_line(session)}.items():
        print_text(f"{name:<11}  {text}")
    print_text("")
    rows = [(name, _WORKS[each.works], each.reason) for name, each in info.answers.items()]
    print_table(("FEATURE", "WORKS", "REASON"), rows)


def _lines(info: Info, limits: dict[str, int]) -> dict[str, str]:
    namespace = "the initial" if info.initial_user_namespace else "another"
    capable = "with" if info.cap_sys_admin else "without"
    packages = (f"{name} {version or '(missing)'}" for name, version in info.packages.items())
    return {
        "kernel": f"Linux {info.kernel}, {info.machine}, processors: {info.processors}",
        "user": f"UID {info.uid}, {namespace} user namespace, {capable} CAP_SYS_ADMIN",
        "id ranges": f"UIDs {_ranges(info.uids)}; GIDs {_ranges(info.gids)}",
        "python": f"{platform.python_version()}, stacker {stacker.__version__}",
        "packages": ", ".join(packages),
        "inflate": "isal for gzip, zstandard for zstd",
        "tools": ", ".join(path or f"{name} (missing)" for name, path in info.tools.items()),
        "limits": ", ".join(f"{name} {value}" for name, value in limits.items()),
        "store": str(info.root),
        "form auto": f"{info.form.form}: {info.form.reason}",
        **{
            f"mount {form}": f"{driver.name}: {driver.reason}"
            for form, driver in info.drivers.items()
        },
    }


def _ranges(ranges: Iterable[IdRange]) -> str:
    return ", ".join(f"{each.inside} to {each.inside + each.count - 1}" for each in ranges)


def _config_line(session: Session) -> str:
    """Return the keys that the configuration files set, each with its value and its file."""
    settings = _settings(session)
    if session.config is None:
        return "no configuration file"
    keys = [f"{key} = {value} ({path})" for key, value, path in settings]
    return ", ".join(keys) or ", ".join(f"no key in {path}" for path in session.config.files)


def _configured(session: Session) -> dict[str, object]:
    settings = _settings(session)
    return {
        "additional_stores": [str(path) for path in session.additional],
        "config": [{"key": key, "value": value, "file": path} for key, value, path in settings],
    }


def _settings(session: Session) -> list[tuple[str, object, str]]:
    """Return each key that the configuration files set, its value, and its file."""
    if session.config is None:
        return []
    from stacker.api.config import key_of

    found = []
    for name, path in session.config.sources.items():
        value = getattr(session.config, name)
        if isinstance(value, tuple):
            value = [str(each) for each in value]
        elif isinstance(value, Path):
            value = str(value)
        found.append((key_of(name), value, str(path)))
    return found


def _limits(info: Info, session: Session) -> dict[str, int]:
    """Return the limits of the kernel and those that `pull` has without options, by name."""
    parser = ArgumentParser(add_help=False)
    add_limits(parser)
    add_archive_ratio(parser)
    limits = vars(parser.parse_args([]))
    if session.config is not None:
        configured = session.config.defaults("pull")
        limits |= {name: value for name, value in configured.items() if name in limits}
    return {
        "overlay_layers": info.overlay_layers,
        "open_files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        **limits,
    }


def _document(info: Info, limits: dict[str, int]) -> dict[str, object]:
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
        "uids": [_range(each) for each in info.uids],
        "gids": [_range(each) for each in info.gids],
        "store": str(info.root),
        "form_auto": {"form": info.form.form, "reason": info.form.reason},
        "driver_auto": {
            form: {"driver": driver.name, "reason": driver.reason}
            for form, driver in info.drivers.items()
        },
        "tools": dict(info.tools),
        "limits": limits,
        "features": [_feature(name, each) for name, each in info.answers.items()],
    }


def _range(ids: IdRange) -> dict[str, object]:
    return {"inside": ids.inside, "outside": ids.outside, "count": ids.count}


def _feature(name: str, answer: Answer) -> dict[str, object]:
    return {"name": name, "works": answer.works, "reason": answer.reason}
