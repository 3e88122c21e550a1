"""``stacker run``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from stacker.cli.container_options import (
    add_command,
    add_container,
    overrides_of,
    settings_of,
)
from stacker.cli.options import add_image
from stacker.cli.output import print_item
from stacker.cli.pulling import add_pull, pulled, restorer
from stacker.cli.verbs import FAILURES
from stacker.errors import StackerError, StartError, path_of, shell_word
from stacker.linux import process
from stacker.mount.plan import DRIVERS
from stacker.operations.run import RUNTIMES, RunRequest, enter_user_namespace, run_image

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from stacker.cli.session import Session
    from stacker.operations.run import Finished

DESCRIPTION = """\
Run a process in the root filesystem of an image, and wait for its end.  Without CMD, stacker runs
the command of the image.  stacker pulls the image if the store lacks it, mounts it read-write, and
discards the writes when the process has ended.

An OCI runtime starts the process: runc, else crun.  Without one, or with --runtime chroot, stacker
starts it itself, in new mount, PID, IPC and UTS namespaces.  Such a process has no cgroup of its
own and no seccomp filter.

Without root, stacker starts the process itself, in a user namespace where the user is root and has
no other IDs.  runc, crun and --keep require root.

The process is PID 1 of its PID namespace: it ignores signals that it does not handle, except
SIGKILL.  stacker forwards its own signals to the process.

stacker exits with the exit code of the process, with 128 + N if signal N ended it, with 127 if
there is no such program, with 126 if the program cannot be executed, and with 125 after any other
error.  If stacker is killed, the next `stacker run`, `stacker mounts` or `stacker gc` ends the
process, and removes the mount and the writes.
"""
EXAMPLES = """\
  stacker run alpine cat /etc/os-release
  stacker run -it alpine                       start a shell in a terminal
  echo text | stacker run -i app:1.0 wc -c
  stacker run -v /srv/data:/data:ro -e DEBUG=1 -u 1000:1000 app:1.0
  stacker run --read-only --tmpfs /tmp --network none app:1.0 make-report
  stacker run --keep app:1.0 make install      keep the writes for `stacker commit`
"""


def configure(parser: ArgumentParser) -> None:
    """Add the verb's arguments."""
    add = parser.add_argument
    add_image(parser)
    add_command(parser)
    add_pull(parser)
    add_container(parser)
    add("-i", "--interactive", action="store_true", help="pass stdin to the process")
    add(
        "--runtime",
        choices=RUNTIMES,
        default="auto",
        help="what starts the process (default: runc, else crun, else chroot)",
    )
    add(
        "--runtime-flag",
        metavar="FLAG",
        dest="runtime_flags",
        action="append",
        default=[],
        help="global option of runc or crun without its dashes, such as"
        " `cgroup-manager=disabled`; repeatable",
    )
    add(
        "--driver",
        choices=DRIVERS,
        default="auto",
        help="mount driver, as for `stacker mount` (default: auto)",
    )
    keep = parser.add_mutually_exclusive_group()
    keep.add_argument(
        "--rm", action="store_true", help="discard the writes when the process has ended (default)"
    )
    keep.add_argument(
        "--keep",
        action="store_true",
        help="keep the mount and its writes until `stacker umount` or a reboot, and print its path"
        " to stderr",
    )


def run(args: Namespace, session: Session) -> int:
    """Run the process, and return its exit code."""
    try:
        return _run(args, session)
    except StartError:
        raise
    except OSError as error:
        text = f"cannot run {args.image}: {path_of(error) or 'a system call'}: {error.strerror}"
        failure = StackerError(text)
        failure.exit_code = FAILURES["run"]
        raise failure from error
    except StackerError as error:
        error.exit_code = FAILURES["run"]
        raise


def _run(args: Namespace, session: Session) -> int:
    request = _request(args)
    image = pulled(args.image, args.pull, session.store().images.find, session)
    if not process.has_capability(process.CAP_SYS_ADMIN):
        request = enter_user_namespace(request)
    if args.interactive:
        finished = _execute(image, request, session, 0)
    else:
        with open(os.devnull, "rb") as null:
            finished = _execute(image, request, session, null.fileno())
    target = finished.record.target
    if args.keep:
        word = shell_word(target)
        session.say(session.with_store(f"kept {target}: `stacker umount {word}` discards it"))
    if session.json:
        print_item(
            "run",
            {
                "id": finished.record.id,
                "image_id": finished.record.image,
                "exit_code": finished.exit_code,
                "target": str(target) if args.keep else None,
            },
        )
    return finished.exit_code


def _execute(image: str, request: RunRequest, session: Session, stdin: int) -> Finished:
    return run_image(
        session.store(),
        image,
        request,
        (stdin, 1, 2),
        restore=restorer(session),
        forward_signals=True,
    )


def _request(args: Namespace) -> RunRequest:
    return RunRequest(
        overrides=overrides_of(args, os.environ),
        settings=settings_of(args),
        runtime=args.runtime,
        runtime_flags=tuple(args.runtime_flags),
        driver=args.driver,
        keep=args.keep,
    )
