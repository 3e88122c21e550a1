"""The part of `Store` that describes the processes of images.

An image and the changes of a caller come in; a bundle goes out.  Each method calls one function of
`stacker.operations`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stacker.api.maintenance import MaintainedStore
from stacker.api.mounts import Bundle, describe_mount
from stacker.api.options import ignore, text_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from stacker.api.images import Image
    from stacker.events import Emit
    from stacker.image.digest import ImageID
    from stacker.runtime.spec import Network


@dataclass(frozen=True, slots=True)
class ContainerStore(MaintainedStore):
    """A store whose images can become the root filesystems of processes."""

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
        :param driver: as for `mount`.
        :raises UsageError: the directory has files, or there is no command.
        :raises NotFoundError: the store lacks the image, or the image lacks the user.
        :raises IntegrityError: the image is unsafe for a runtime.
        :raises MountError: every driver fails.
        """
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
