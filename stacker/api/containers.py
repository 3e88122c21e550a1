"""The part of `Store` that describes and runs the processes of images.

An image and the changes of a caller come in; a bundle, or the exit code of a process, goes out.
Each method calls one function of `stacker.operations`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from stacker.api.maintenance import MaintainedStore
from stacker.api.options import ignore, text_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from stacker.api.images import Image
    from stacker.api.mounts import Bundle, Finished
    from stacker.events import Emit
    from stacker.image.digest import ImageID
    from stacker.runtime.spec import Network


class ContainerStore(MaintainedStore):
    """A store whose images can become the root filesystems of processes."""

    __slots__ = ()

    def bundle(
        self,
        image: Image | ImageID | str,
        directory: Path | str,
        *,
        command: Sequence[str] = (),
        entrypoint: Sequence[str] | None = None,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        working_dir: str | None = None,
        terminal: bool = False,
        read_only: bool = False,
        network: Network = "none",
        upper: Path | str | None = None,
        driver: str = "auto",
        on_event: Emit = ignore,
    ) -> Bundle:
        """Write a bundle that an OCI runtime can run; the end of a ``with`` block removes it.

        :param directory: missing or empty, and outside of the store.
        :param command: replaces the image's command; empty for the image's.
        :param entrypoint: replaces the image's, and omits the image's command.
        :param env: variables, which replace the image's.
        :param user: ``NAME``, ``UID``, ``NAME:GROUP`` or ``UID:GID``; ``None`` for the image's.
        :param working_dir: absolute in the image; ``None`` for the image's.
        :param terminal: give the process a terminal.
        :param read_only: refuse the writes of the process to the root filesystem.
        :param network: ``none`` or ``host``.
        :param upper: a directory that keeps the writes; ``None`` to discard them.
        :param driver: as for `mount`; or ``runtime``, which mounts nothing and describes the mount
            in ``config.json``, for a runtime that mounts on /, such as runc.
        :raises UsageError: the directory has files, or there is no command.
        :raises NotFoundError: the store lacks the image, or the image lacks the user.
        :raises IntegrityError: the image is unsafe for a runtime.
        :raises MountError: every driver fails.
        """
        from stacker.api.mounts import Bundle, describe_mount
        from stacker.operations.bundle import BundleRequest, write_bundle
        from stacker.runtime.process import Overrides
        from stacker.runtime.spec import Settings

        overrides = Overrides(
            entrypoint=None if entrypoint is None else tuple(entrypoint),
            command=tuple(command),
            env=env,
            working_dir=working_dir,
            user=user,
            terminal=terminal,
        )
        request = BundleRequest(
            overrides,
            Settings(network=network, read_only=read_only),
            driver,
            None if upper is None else Path(upper),
        )
        written = write_bundle(
            self._directory,
            text_of(image),
            Path(directory),
            request,
            restore=self._restore(on_event),
        )
        mounted = written.mounted
        mount = describe_mount(
            written.record, self._directory.mounts, mounted.reasons, mounted.note
        )
        return Bundle(written.path, mount, self._directory)

    def run(
        self,
        image: Image | ImageID | str,
        command: Sequence[str] = (),
        *,
        entrypoint: Sequence[str] | None = None,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        working_dir: str | None = None,
        volumes: Iterable[str] = (),
        tmpfs: Iterable[str] = (),
        read_only: bool = False,
        network: Network = "none",
        hostname: str = "",
        stdin: int | None = None,
        stdout: int = 1,
        stderr: int = 2,
        runtime: str = "auto",
        runtime_flags: Sequence[str] = (),
        driver: str = "auto",
        keep: bool = False,
        on_event: Emit = ignore,
    ) -> Finished:
        """Run a process in an image, wait for its end, and discard its writes.

        Threads can run processes at the same time.  Without an OCI runtime, the process ends with
        the thread that runs it.  If this process is killed, the next call of
        `run`, or the next command `run`, `mounts` or `gc`, removes the mount and the writes.

        :param command: as for `bundle`, as are `entrypoint`, `env`, `user`, `working_dir`,
            `read_only`, `network` and `driver`.
        :param volumes: ``SRC:DST[:ro]``, with absolute paths.
        :param tmpfs: ``DIR[:OPTION,...]``.
        :param hostname: empty for the short image ID.
        :param stdin: a descriptor; ``None`` for no input.
        :param stdout: a descriptor, as is `stderr`.
        :param runtime: ``runc``, ``crun``, ``chroot`` (no OCI runtime), or ``auto`` for the first
            of them that is installed.
        :param runtime_flags: global options of the OCI runtime, without their dashes.
        :param keep: keep the mount and its writes.
        :raises StartError: the image lacks the program, or the kernel cannot execute it.
        :raises UsageError: there is no command, or a value is malformed.
        :raises NotFoundError: the store lacks the image, the image the user, or the machine the
            runtime.
        :raises IntegrityError: the image is unsafe to run.
        :raises MountError: every driver fails, or the kernel refuses a namespace.
        """
        from contextlib import ExitStack

        from stacker.api.mounts import Finished, describe_mount
        from stacker.operations.run import RunRequest, run_image
        from stacker.runtime.mounts import name_service, parse_volume
        from stacker.runtime.mounts import tmpfs as parse_tmpfs
        from stacker.runtime.process import Overrides
        from stacker.runtime.spec import Settings

        overrides = Overrides(
            entrypoint=None if entrypoint is None else tuple(entrypoint),
            command=tuple(command),
            env=env,
            working_dir=working_dir,
            user=user,
        )
        binds = tuple(map(parse_volume, volumes))
        names = name_service(binds) if network == "host" else ()
        mounts = (*names, *map(parse_tmpfs, tmpfs), *binds)
        settings = Settings(hostname=hostname, network=network, read_only=read_only, mounts=mounts)
        request = RunRequest(overrides, settings, runtime, tuple(runtime_flags), driver, keep)
        with ExitStack() as held:
            if stdin is None:
                stdin = held.enter_context(open(os.devnull, "rb")).fileno()
            finished = run_image(
                self._directory,
                text_of(image),
                request,
                (stdin, stdout, stderr),
                restore=self._restore(on_event),
            )
        mount = describe_mount(finished.record, self._directory.mounts) if keep else None
        return Finished(finished.exit_code, mount)
