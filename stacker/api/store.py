"""The class `Store`: the images of one directory, and what the command does with them.

Names, paths and options come in; values of `stacker.api` go out.  Each method calls one function
of `stacker.operations`.  A store holds no lock and no descriptor between two calls, so threads can
share it, and it can be pickled.
"""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from stacker.api.containers import ContainerStore
from stacker.api.options import (
    host_platform,
    ignore,
    image_name,
    jobs_or_all,
    platform_of,
    text_of,
    umask_or_own,
    unpack_options,
)
from stacker.api.registries import RegistryOptions, access_for, open_for
from stacker.errors import NotFoundError
from stacker.store.store import Store as StoreDirectory

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from typing import BinaryIO

    from stacker.api.images import Image
    from stacker.api.mounts import Mount
    from stacker.events import Emit
    from stacker.image.digest import ImageID
    from stacker.image.platform import Platform
    from stacker.layer.paths import Form
    from stacker.operations.export import Exported, ExportFormat
    from stacker.operations.push import Pushed
    from stacker.stream.compression import Compression
    from stacker.tar.limits import Limits


class Store(ContainerStore):
    """The images, layers and mounts in one directory; `open` returns one.

    Other threads, other processes and the command can use the same store at the same time.
    `image` is an `Image`, its ID, a unique prefix of the ID, or a name.  `on_event` gets every
    `Event` while a method runs, in the thread of the caller.  If it raises an exception, the method
    stops, removes its unfinished work, and raises the same exception.

    :param registries: how to reach registries.
    :param limits: the limits of `pull`, and of layers that are unpacked again.
    """

    __slots__ = ()

    @classmethod
    def open(
        cls,
        root: Path | str | None = None,
        *,
        registries: RegistryOptions | None = None,
        create: bool = True,
        additional_stores: Iterable[Path | str] = (),
        limits: Limits | None = None,
        run_directory: Path | str | None = None,
        on_damage: Callable[[str], object] = lambda _: None,
    ) -> Store:
        """Open a store.  A store that this process cannot write to is read-only.

        :param root: its directory; ``None`` for ``/var/lib/stacker`` of root, and for
            ``~/.local/share/stacker`` of other users.
        :param registries: how to reach registries; ``None`` for `RegistryOptions()`.
        :param create: create a missing store; if false, treat it as an empty one.
        :param additional_stores: directories of other stores, whose layers are used in place.
        :param limits: the limits of each layer; ``None`` for `Limits()`.
        :param run_directory: where a read-only store has its locks and mounts; ``None`` for
            ``/run/stacker`` of root, and for a directory of the user otherwise.
        :param on_damage: called with a message for each damaged or missing file of the store that
            this method writes again.
        :raises UsageError: a directory is not a store, or another user can replace it.
        :raises StackerError: the directory cannot be created or read.
        """
        from stacker.store.location import default_root
        from stacker.tar.limits import Limits

        path, others = default_root({}) if root is None else root, map(Path, additional_stores)
        run = None if run_directory is None else Path(run_directory)
        opened = StoreDirectory.open(
            Path(path), create=create, run=run, additional=others, report=on_damage
        )
        return cls(registries or RegistryOptions(), limits or Limits(), opened)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Store:
        """Open the store that the command uses without options.

        The variables are ``STACKER_STORE``, ``XDG_CONFIG_HOME``, ``XDG_DATA_HOME``,
        ``XDG_RUNTIME_DIR``, ``HOME``, and those of `RegistryOptions.from_environment`.  The
        configuration files set the store, the additional stores and the limits.

        :param environ: the variables; ``None`` for those of this process.
        :raises UsageError: a configuration file is malformed.
        """
        from stacker.api.config import read_config
        from stacker.store import location

        known = os.environ if environ is None else environ
        config = read_config(location.config_files(known))
        return cls.open(
            known.get("STACKER_STORE") or config.store or location.default_root(known),
            registries=RegistryOptions.from_environment(known),
            additional_stores=config.additional_stores or (),
            limits=config.limits(),
            run_directory=location.run_directory(known),
        )

    @property
    def root(self) -> Path:
        """The directory of the store, absolute."""
        return self._directory.root

    def images(self) -> list[Image]:
        """Return every image, in the order of the first pulls.

        Images with a damaged config are not among them; `verify` reports them.
        """
        from stacker.api.images import describe_image

        images = self._directory.images
        with images.read_lock():
            readable = [stored for stored, _ in images.with_configs()]
        return [describe_image(self._directory, stored) for stored in readable]

    def image(self, image: Image | ImageID | str) -> Image:
        """Return one image.

        :raises NotFoundError: the store lacks it.
        """
        from stacker.api.images import describe_image

        images = self._directory.images
        image_id = self.find(image)
        with images.read_lock():
            for stored in images.all():
                if stored.id == image_id:
                    return describe_image(self._directory, stored)
        raise NotFoundError(f"no such image: {image_id}")

    def pull(
        self,
        source: str,
        *,
        names: Iterable[str] | None = None,
        platform: Platform | str | None = None,
        form: Form | None = None,
        keep_blobs: bool = False,
        resume: bool = True,
        sync: bool = True,
        limits: Limits | None = None,
        jobs: int | None = None,
        on_event: Emit = ignore,
    ) -> Image:
        """Pull an image, unless the store has it.

        :param source: ``[docker://][HOST/]REPO[:TAG]``, ``oci:DIR[:TAG]``, ``oci-archive:FILE`` or
            ``docker-archive:FILE``.
        :param names: the names of the image in the store; ``None`` for those of the source.
        :param platform: ``OS/ARCH[/VARIANT]``; ``None`` for the best match for this machine.
        :param form: how to store new layers, ``tree`` or ``erofs``; ``None`` for the
            form that most of the image's layers have in the store.
        :param keep_blobs: keep the blobs of layers, too, for `push` and `repair`.
        :param resume: resume an interrupted download, and keep an interrupted one for later.
        :param sync: return after all layers are on disk.  Without it, a later `flush` writes them.
        :param limits: the limits of each layer; ``None`` for those of the store.
        :param jobs: layers to unpack at the same time; ``None`` for one for each processor.
        :raises NotFoundError: the source has no such image.
        :raises IntegrityError: a document or a layer differs from its digest.
        :raises LayerError: a layer is malformed, or exceeds a limit.
        :raises NetworkError: the registry cannot be reached.
        """
        from stacker.image.reference import complete_name
        from stacker.operations.pull import pull_image
        from stacker.source.identify import complete_source

        source, limits = complete_source(source), limits or self.limits
        options = unpack_options(limits, sync=sync, keep_blobs=keep_blobs, resume=resume, form=form)
        wanted = platform_of(platform)
        with open_for(self._directory, self.registries, limits, source) as opened:
            pulled = pull_image(
                self._directory,
                opened,
                platform=wanted or host_platform(),
                options=options,
                jobs=jobs_or_all(jobs),
                origin=source,
                emit=on_event,
                names=None if names is None else tuple(map(complete_name, names)),
                must_match=wanted is not None,
            )
        on_event(pulled)
        return self.image(pulled.image_id)

    def mount(
        self,
        image: Image | ImageID | str,
        target: Path | str,
        *,
        writable: bool = False,
        upper: Path | str | None = None,
        driver: str = "auto",
        flags: Collection[str] = (),
        on_event: Emit = ignore,
    ) -> Mount:
        """Mount the root filesystem of an image; the end of a ``with`` block unmounts it.

        The mount does not need this process.  Without privileges it also has the flags ``nosuid``
        and ``nodev``.

        :param target: an existing directory outside of the store.
        :param writable: accept writes, and discard them at unmount.
        :param upper: a directory that keeps the writes; it makes the mount writable.
        :param driver: ``overlay``, ``fuse``, ``copy`` or ``fuse-overlayfs``; ``auto`` tries
            ``overlay``, ``fuse`` and ``copy`` in this order.
        :param flags: any of ``nosuid``, ``nodev`` and ``noexec``.
        :raises NotFoundError: the store lacks the image or one of its layers.
        :raises MountError: the target cannot be used, or every driver fails.
        :raises LockedError: the target or the upper directory is in use.
        """
        from stacker.api.mounts import describe_mount
        from stacker.mount.plan import MountRequest
        from stacker.operations.mount import mount_flags, mount_image

        record, mounted = mount_image(
            self._directory,
            text_of(image),
            MountRequest(
                target=Path(target),
                driver=driver,
                read_only=not (writable or upper),
                upper=None if upper is None else Path(upper),
                flags=mount_flags(flags),
            ),
            restore=self._restore(on_event),
        )
        return describe_mount(record, self._directory.mounts, mounted.reasons, mounted.note)

    def mounts(self) -> list[Mount]:
        """Return the mounts of this store that processes can use, the oldest first."""
        from stacker.api.mounts import describe_mount
        from stacker.mount.table import Table

        table = self._directory.mounts
        entries = Table(table).entries()
        return [describe_mount(e.record, table) for e in entries if e.state == "mounted"]

    def unpack(
        self, image: Image | ImageID | str, directory: Path | str, *, on_event: Emit = ignore
    ) -> ImageID:
        """Write the root filesystem of an image to a directory, and return the ID of the image.

        :param directory: missing or empty, and outside of the store.
        :raises UsageError: the directory has files, or overlaps the store.
        """
        from stacker.operations.unpack import unpack_image

        restore = self._restore(on_event)
        return unpack_image(self._directory, text_of(image), Path(directory), restore=restore)

    def push(
        self,
        image: Image | ImageID | str,
        destination: str,
        *,
        compression: Compression = "gzip",
        level: int | None = None,
        umask: int | None = None,
        stdout: BinaryIO | None = None,
        jobs: int | None = None,
        on_event: Emit = ignore,
    ) -> Pushed:
        """Push an image; it keeps its ID.

        :param destination: ``[docker://][HOST/]REPO[:TAG]``, ``oci:DIR[:NAME]``,
            ``oci-archive:FILE[:NAME]`` or ``docker-archive:FILE[:NAME]``.
        :param compression: of layers whose original blob is missing.
        :param level: 1 to 9 for ``gzip``, 1 to 22 for ``zstd``.
        :param umask: the permissions that new files do not get; ``None`` for those of the process.
        :param stdout: receives an archive with the path ``-``.
        :param jobs: blobs to send at the same time; ``None`` for one for each processor.
        :raises IntegrityError: a file of a layer on disk has changed.
        :raises NetworkError: the registry cannot be reached.
        """
        from stacker.destination.open import open_destination
        from stacker.jobs.pack_layer import PackOptions
        from stacker.operations.push import push_image
        from stacker.source.identify import complete_destination
        from stacker.stream.compression import compression_level

        destination = complete_destination(destination)
        packing = PackOptions(compression, compression_level(compression, level))
        image_id = self.find(image)  # fail before the destination is opened
        with open_destination(
            destination,
            access=access_for(self.registries, destination),
            umask=umask_or_own(umask),
            stdout=stdout,
            image_name=image_name(image, image_id),
        ) as opened:
            return push_image(
                self._directory,
                text_of(image),
                opened,
                packing=packing,
                jobs=jobs_or_all(jobs),
                emit=on_event,
                restore=self._restore(on_event),
            )

    def export(
        self,
        image: Image | ImageID | str,
        file: Path | str | BinaryIO,
        *,
        kind: ExportFormat = "tar",
        layer: int | None = None,
        contents: bool = False,
        umask: int | None = None,
        jobs: int | None = None,
        on_event: Emit = ignore,
    ) -> Exported:
        """Write the root filesystem of an image, or one layer, to a file, and unpack nothing.

        :param file: replaced if it exists; only a tar can be written to an open file.
        :param kind: ``tar``, ``erofs`` or ``squashfs``.
        :param layer: the number of the only layer to write, from 1 for the base.
        :param contents: compare the contents of all files with their digests first, too.
        :param umask: the permissions that a new file does not get; ``None`` for those of the
            process.
        :param jobs: layers to compare at the same time; ``None`` for one for each processor.
        :raises IntegrityError: a file of a layer on disk has changed.
        :raises UnsupportedError: the format cannot hold a file, or its program is missing.
        """
        from stacker.destination.output_file import output_file
        from stacker.operations.export import ExportOptions, export_image

        options = ExportOptions(kind, layer, contents, jobs_or_all(jobs))
        self.find(image)  # fail before the file is created
        with (
            output_file(str(file), str(file), umask=umask_or_own(umask), replace=True)
            if isinstance(file, str | Path)
            else nullcontext(file)
        ) as out:
            return export_image(
                self._directory,
                text_of(image),
                out,
                options,
                emit=on_event,
                restore=self._restore(on_event),
            )

    def commit(
        self,
        path: Path | str,
        name: str,
        *,
        changes: Sequence[str] = (),
        author: str = "",
        message: str = "",
        epoch: int | None = None,
        on_event: Emit = ignore,
    ) -> Image:
        """Create an image from the writes of a mount; the mount stays.

        :param path: the target of a writable mount, or an upper directory.
        :param name: the name of the new image.
        :param changes: instructions of a Containerfile, such as ``ENV LANG=C``.
        :param author: who made the image.
        :param message: a comment for its history.
        :param epoch: seconds since the epoch: when the image was made, and the latest time of its
            files (SOURCE_DATE_EPOCH); ``None`` for now.
        :raises UsageError: the mount is read-only, or there is no mount and no upper directory.
        :raises UnsupportedError: a layer cannot hold a file, or another driver made the mount.
        """
        from stacker.operations.commit import CommitOptions, commit_image, parse_changes

        options = CommitOptions(parse_changes(changes), author, message, epoch)
        restore = self._restore(on_event)
        done = commit_image(
            self._directory, Path(path), name, options, emit=on_event, restore=restore
        )
        on_event(done)
        return self.image(done.image_id)
