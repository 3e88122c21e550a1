"""The program `stacker-fuse`: it mounts directories as one tree, for podman and mount(8).

A command line comes in; a mount and exit code 0 go out, or a line on stderr and exit code 1.  This
module must not use an image, the store or the mount table.
"""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from stacker.cli.exit import open_standard_streams
from stacker.cli.output import flush, printable, writing
from stacker.cli.stacker_fuse_options import (
    DESCRIPTION,
    EXAMPLES,
    IGNORED,
    OPTIONS,
    SWITCHES,
    SYNOPSIS,
    Arguments,
    parse,
)
from stacker.errors import MountError, StackerError, path_of
from stacker.fuse.options import FuseOptions, Owners, overflow_ids
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.linux import process, safe_path
from stacker.mount.plan import Plan
from stacker.mount.target import refuse_overlap

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

NAME: Final = "stacker-fuse"
_UPPER_PAUSES: Final = (0.01, 0.05, 0.2, 0.5, 1.0, 2.0)
"""Seconds between attempts to lock an upper directory: podman restarts a container before the
server of its last mount has exited."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program.

    :param argv: the words after the program's name; those of the process by default.
    :returns: the exit code: 0 or 1.
    """
    open_standard_streams()
    try:
        return _run(parse(sys.argv[1:] if argv is None else argv))
    except StackerError as error:
        _say(f"error: {error.message}")
        if error.hint:
            _say(f"hint: {error.hint}")
    except OSError as error:
        where = f"{path}: " if (path := path_of(error)) else ""
        _say(f"error: {where}{error.strerror or error}")
    return 1


def _run(arguments: Arguments) -> int:
    if arguments.show:
        with writing():
            print(_version() if arguments.show == "version" else help_text())
        flush()
        return 0
    privileged = process.has_capability(process.CAP_SYS_ADMIN)
    plan = plan_of(arguments, privileged=privileged)
    ignored = list(arguments.unknown)
    if arguments.allow_other is False and not privileged:
        ignored.append("allow_root")
    if ignored:
        _say(f"warning: options ignored: {', '.join(ignored)}")
    if arguments.debug:
        _describe(plan)
    _set_process_name(NAME)
    if arguments.foreground:
        _run_in_foreground(plan)
    else:
        _run_in_background(plan)
    return 0


def plan_of(arguments: Arguments, *, privileged: bool) -> Plan:
    """Return the plan of the mount.

    :param privileged: whether this process has CAP_SYS_ADMIN.
    :raises MountError: a directory cannot be used.
    :raises OSError: the work directory cannot be created.
    """
    target = _directory("mount point", arguments.target)
    lowers = tuple(dict.fromkeys(map(_lower_directory, arguments.lowers)))
    upper, work = _upper_and_work(arguments, target)
    trusted = privileged and process.in_initial_user_namespace() and not arguments.userxattr
    return Plan(
        id=NAME,
        target=target,
        layers=lowers,
        whiteout_format=WhiteoutFormat.TRUSTED if trusted else WhiteoutFormat.USER,
        read_only=arguments.read_only or upper is None,
        upper=upper,
        work=work,
        volatile=arguments.volatile,
        fuse=_fuse_options(arguments),
    )


def _fuse_options(arguments: Arguments) -> FuseOptions:
    user, group = overflow_ids()
    return FuseOptions(
        source=arguments.source,
        subtype=NAME,
        mount_options=frozenset(arguments.options),
        allow_other=arguments.allow_other,
        foreign=True,
        acls=arguments.acls,
        users=Owners(arguments.users, arguments.squashed_user, user),
        groups=Owners(arguments.groups, arguments.squashed_group, group),
    )


def _lower_directory(name: str) -> Path:
    """Return a lower directory, with every symlink resolved.

    podman names its layers by symlinks of the container's mapped user; `safe_path` refuses these.
    """
    return _directory("lower directory", name, follow=os.path.realpath)


def _directory(
    what: str, name: str, *, follow: Callable[[Path], Path | str] = safe_path.resolve
) -> Path:
    try:
        path = Path(follow(Path(name)))
        os.scandir(path).close()
    except OSError as error:
        raise MountError(f"cannot use {what}: {name}: {error.strerror}") from error
    return path


def _upper_and_work(arguments: Arguments, target: Path) -> tuple[Path | None, Path | None]:
    if not arguments.upper:
        return None, None
    upper = _directory("upper directory", arguments.upper)
    if arguments.read_only:
        return upper, None
    with suppress(FileExistsError):
        os.mkdir(arguments.work, 0o700)
    work = _directory("work directory", arguments.work)
    refuse_overlap("work directory", work, "the upper directory", upper)
    for what, path in (("upper directory", upper), ("work directory", work)):
        if path.is_relative_to(target):
            raise MountError(
                f"{what} is under the mount point: {path}: the mount point is {target}",
                hint="choose a directory elsewhere",
            )
    if upper.stat().st_dev != work.stat().st_dev:
        raise MountError(
            f"work directory is on another filesystem: {work}: got another than that of {upper}, "
            "want the same",
            hint="choose a workdir beside the upperdir",
        )
    return upper, work


def _locked_upper(plan: Plan) -> AbstractContextManager[None]:
    """Lock the upper directory, so that no other mount writes to it."""
    from stacker.mount.upper_directory import exclusive_upper

    if plan.read_only or plan.upper is None:
        return nullcontext()
    return exclusive_upper(plan.upper, pauses=_UPPER_PAUSES)


def _run_in_background(plan: Plan) -> None:
    from stacker.mount.drivers.fuse import FuseDriver

    driver = FuseDriver()
    refusal = driver.refusal(plan)
    if refusal is not None:
        raise refusal
    with _locked_upper(plan):
        driver.mount(plan)


def _run_in_foreground(plan: Plan) -> None:
    from stacker.fuse.daemon import Daemon
    from stacker.mount.drivers.fuse import served_tree

    daemon = Daemon(served_tree(plan))
    with _locked_upper(plan):
        daemon.mount()
    daemon.start_workers()
    daemon.supervise()


def _set_process_name(name: str) -> None:
    """Set the name that ps(1) shows for this process (proc_pid_comm(5))."""
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
    """Return the text of ``--help``."""
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
