"""`stacker-fuse`: plain directories as one tree, as a mount program and as a helper of mount(8).

In come words (`fuse_options`), out goes a mount and 0, or a line on stderr and 1.  What the mount
is, `stacker.mount` knows.  No image, no store and no table of mounts is involved.
"""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from stacker.cli.output import printable
from stacker.cli.stacker_fuse_options import (
    DESCRIPTION,
    EXAMPLES,
    IGNORED,
    OPTIONS,
    SWITCHES,
    SYNOPSIS,
    Wanted,
    parse,
)
from stacker.errors import MountError, StackerError
from stacker.fuse.options import FuseOptions, Owners, overflow_ids
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.linux import process
from stacker.mount.plan import Plan
from stacker.mount.target import refuse_overlap

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

NAME: Final = "stacker-fuse"
_PATIENCE: Final = (0.01, 0.05, 0.2, 0.5, 1.0, 2.0)
"""Seconds between attempts at an upper directory: a container is started again as it stops."""


def main(argv: Sequence[str] | None = None) -> int:
    """Make one mount.

    :param argv: its words; those of the process when left out.
    :returns: the exit code: 0 or 1.
    """
    try:
        return _run(parse(sys.argv[1:] if argv is None else argv))
    except StackerError as error:
        _say(f"error: {error.message}")
        if error.hint:
            _say(f"hint: {error.hint}")
    except OSError as error:
        where = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        _say(f"error: {where}{error.strerror or error}")
    return 1


def _run(wanted: Wanted) -> int:
    if wanted.show:
        print(_version() if wanted.show == "version" else help_text())
        return 0
    privileged = process.has_capability(process.CAP_SYS_ADMIN)
    plan = plan_of(wanted, privileged=privileged)
    unheard = list(wanted.unknown)
    if wanted.to_all is False and not privileged:
        unheard.append("allow_root")
    if unheard:
        _say(f"warning: ignored: {', '.join(unheard)}")
    if wanted.debug:
        _describe(plan)
    _call_self(NAME)
    if wanted.foreground:
        _stay(plan)
    else:
        _leave(plan)
    return 0


def plan_of(wanted: Wanted, *, privileged: bool) -> Plan:
    """Lay the mount out.

    :param privileged: whether this process mounts by itself.
    :raises MountError: a directory cannot be what it shall be.
    :raises OSError: the work directory cannot be made.
    """
    target = _directory("mount point", wanted.target)
    lowers = tuple(dict.fromkeys(_directory("lower directory", each) for each in wanted.lowers))
    upper, work = _writing(wanted, target)
    trusted = privileged and process.in_initial_user_namespace() and not wanted.user_xattrs
    return Plan(
        id=NAME,
        target=target,
        layers=lowers,
        whiteout_format=WhiteoutFormat.TRUSTED if trusted else WhiteoutFormat.USER,
        read_only=wanted.read_only or upper is None,
        upper=upper,
        work=work,
        volatile=wanted.volatile,
        fuse=_fuse_options(wanted),
    )


def _fuse_options(wanted: Wanted) -> FuseOptions:
    user, group = overflow_ids()
    return FuseOptions(
        source=wanted.source,
        subtype=NAME,
        mount_options=frozenset(wanted.options),
        allow_other=wanted.to_all,
        foreign=True,
        users=Owners(wanted.users, wanted.squashed_user, user),
        groups=Owners(wanted.groups, wanted.squashed_group, group),
    )


def _directory(what: str, name: str) -> Path:
    path = Path(os.path.realpath(name))
    try:
        os.scandir(path).close()
    except OSError as error:
        raise MountError(f"cannot use {what}: {name}: {error.strerror}") from error
    return path


def _writing(wanted: Wanted, target: Path) -> tuple[Path | None, Path | None]:
    if not wanted.upper:
        return None, None
    upper = _directory("upper directory", wanted.upper)
    if wanted.read_only:
        return upper, None
    with suppress(FileExistsError):
        os.mkdir(wanted.work, 0o700)
    work = _directory("work directory", wanted.work)
    refuse_overlap("work directory", work, "the upper directory", upper)
    for what, path in (("upper directory", upper), ("work directory", work)):
        if path.is_relative_to(target):
            raise MountError(f"{what} is under the mount point: {path}: want it elsewhere")
    if upper.stat().st_dev != work.stat().st_dev:
        raise MountError(f"work directory is on another filesystem: {work}: upperdir is {upper}")
    return upper, work


def _alone(plan: Plan) -> AbstractContextManager[None]:
    """Refuse an upper directory that another mount writes to."""
    from stacker.mount.upper_directory import exclusive_upper

    if plan.read_only or plan.upper is None:
        return nullcontext()
    return exclusive_upper(plan.upper, pauses=_PATIENCE)


def _leave(plan: Plan) -> None:
    from stacker.mount.drivers.fuse import FuseDriver

    driver = FuseDriver()
    refusal = driver.refusal(plan)
    if refusal is not None:
        raise refusal
    with _alone(plan):
        driver.mount(plan)


def _stay(plan: Plan) -> None:
    from stacker.fuse.daemon import Daemon
    from stacker.mount.drivers.fuse import served_tree

    daemon = Daemon(served_tree(plan))
    with _alone(plan):
        daemon.mount()
    daemon.start_workers()
    daemon.supervise()


def _call_self(name: str) -> None:
    """Be known by a name to ps(1) and the like, whatever ran this (proc_pid_comm(5))."""
    with suppress(OSError):
        Path("/proc/self/comm").write_text(name)


def _describe(plan: Plan) -> None:
    lines = [f"mount point: {plan.target}", *(f"lower: {layer}" for layer in plan.layers)]
    if not plan.read_only:
        lines += [f"upper: {plan.upper}", f"work: {plan.work}"]
        lines.append(f"marks: {plan.whiteout_format.value}.overlay.*")
    for line in lines:
        _say(line)


def _say(line: str) -> None:
    with suppress(OSError):
        print(f"{NAME}: {printable(line)}", file=sys.stderr, flush=True)


def _version() -> str:
    import stacker

    return f"{NAME} {stacker.__version__}"


def help_text() -> str:
    """Give what ``--help`` shows."""
    usage = "\n       ".join(SYNOPSIS)
    parts = (
        f"usage: {usage}",
        DESCRIPTION.rstrip(),
        f"switches:\n{_table(SWITCHES)}",
        f"options:\n{_table(OPTIONS)}",
        IGNORED.rstrip(),
        f"examples:\n{EXAMPLES.rstrip()}",
    )
    return "\n\n".join(parts)


def _table(rows: Sequence[tuple[str, str]]) -> str:
    return "\n".join(f"  {term}\n      {text}" for term, text in rows)


if __name__ == "__main__":
    sys.exit(main())
