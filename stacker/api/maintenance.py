"""The part of `Store` that checks, mends and empties it.

Images come in; what was found, replaced or removed goes out.  Each method calls one function of
`stacker.operations`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from stacker.api.options import ignore, jobs_or_all, text_of, unpack_options
from stacker.api.registries import RegistryOptions, open_for
from stacker.store.store import Store as StoreDirectory

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stacker.api.images import Image
    from stacker.events import Emit
    from stacker.image.digest import DiffID, ImageID
    from stacker.layer.paths import Form
    from stacker.operations.dedup import Shared
    from stacker.operations.durability import Restore
    from stacker.operations.forms import ChosenForm
    from stacker.operations.gc import Garbage
    from stacker.operations.names import Tagged
    from stacker.operations.remove import Removal
    from stacker.operations.repair import Repair, Repaired
    from stacker.operations.usage import ImageUsage, StoreUsage
    from stacker.operations.verify import Verification
    from stacker.tar.limits import Limits


@dataclass(frozen=True, slots=True)
class MaintainedStore:
    """A store without the methods that need a source, a destination or a mount."""

    registries: RegistryOptions
    limits: Limits
    _directory: StoreDirectory = field(repr=False)

    def verify(
        self,
        *images: Image | ImageID | str,
        contents: bool = True,
        jobs: int | None = None,
        on_event: Emit = ignore,
    ) -> Verification:
        """Compare images and their layers with their digests, and return every difference.

        :param images: the images; without any, all images and all layers of the store.
        :param contents: read the contents of all files, too; otherwise compare attributes only.
        """
        from stacker.operations.verify import verify_images

        return verify_images(
            self._directory,
            self._chosen(images),
            contents=contents,
            jobs=jobs_or_all(jobs),
            emit=on_event,
            unlisted=not images,
        )

    def repair(
        self,
        *images: Image | ImageID | str,
        contents: bool = True,
        jobs: int | None = None,
        on_event: Emit = ignore,
    ) -> Repaired:
        """Replace damaged layers and chains of images; mounts that use them keep the old ones.

        :param images: the images; without any, all images of the store.
        :param contents: read the contents of all files, too; otherwise compare attributes only.
        :raises IntegrityError: no source has the layers.
        """
        from stacker.operations.repair import repair_images

        repair = self._repair(jobs, on_event)
        return repair_images(self._directory, self._chosen(images), repair, contents=contents)

    def restore(
        self, image: Image | ImageID | str, layers: Sequence[DiffID], *, on_event: Emit = ignore
    ) -> str:
        """Unpack layers of an image again, and return the source that had them.

        A method that needs a missing or damaged layer does this itself.

        :param on_event: gets a `LayerRestored` for each layer.
        :raises IntegrityError: no source has the layers.
        """
        from stacker.events import LayerRestored
        from stacker.operations.repair import replace_layers

        origin = replace_layers(self._directory, self.find(image), layers, self._repair())
        for diff_id in layers:
            on_event(LayerRestored(diff_id, origin))
        return origin

    def seal(self, *images: Image | ImageID | str, jobs: int | None = None) -> int:
        """Enable fs-verity on the files of images, and return the number of these files.

        The kernel then compares each page with its hash when it reads the page from the disk.

        :param images: the images; without any, all images of the store.
        :raises UnsupportedError: the filesystem or the kernel has no fs-verity.
        """
        from stacker.operations.repair import seal_layers

        return seal_layers(self._directory, self._chosen(images), jobs=jobs_or_all(jobs))

    def convert(
        self,
        image: Image | ImageID | str,
        form: Form,
        *,
        jobs: int | None = None,
        on_event: Emit = ignore,
    ) -> tuple[int, int]:
        """Give the layers of an image another form, without the source of the image.

        :param form: ``tree`` or ``erofs``.
        :param jobs: layers to convert at the same time; ``None`` for one for each processor.
        :returns: the number of layers that got the form, and of those that lost the other one.
        :raises IntegrityError: a file of a layer on disk has changed.
        :raises UnsupportedError: the form cannot hold the image.
        """
        from stacker.operations.convert import convert_image

        return convert_image(
            self._directory,
            self.find(image),
            form,
            jobs=jobs_or_all(jobs),
            emit=on_event,
            restore=self._restore(on_event),
        )

    def automatic_form(self) -> ChosenForm:
        """Return the form that the kernel, FUSE and the store's filesystem suggest for `pull`."""
        from stacker.operations.forms import automatic_form

        return automatic_form(self._directory.root)

    def share_storage(self, layers: Sequence[DiffID]) -> Shared:
        """Let the files of new layers share storage with equal files of all layers in the store.

        :param layers: the new layers, such as those of `ImagePulled`.
        :raises UnsupportedError: the filesystem or the kernel cannot share blocks.
        :raises OSError: an I/O error.  What was shared until then stays shared.
        """
        from stacker.operations.dedup import share_storage

        return share_storage(self._directory, layers)

    def tag(self, image: Image | ImageID | str, *names: str) -> Tagged:
        """Give an image more names.

        :param names: ``[HOST[:PORT]/]REPO[:TAG]``; the default tag is ``latest``.
        :raises UsageError: a name is malformed.
        :raises NotFoundError: the store lacks the image.
        """
        from stacker.operations.names import tag_image

        return tag_image(self._directory, text_of(image), names)

    def untag(self, *names: str) -> dict[str, ImageID]:
        """Remove names, and return them with their images; the images stay in the store.

        :raises NotFoundError: no image has one of the names; then no name is removed.
        """
        from stacker.operations.names import untag_names

        return untag_names(self._directory, names)

    def remove(self, *images: Image | ImageID | str, force: bool = False) -> Removal:
        """Remove images, or nothing if one cannot be removed.

        :param images: a name removes its image only if the image has no other name.
        :param force: remove an image that has several names by its ID.
        :raises UsageError: an ID of an image with several names.
        :raises NotFoundError: the store lacks an image.
        :raises LockedError: an image is mounted or in use.
        """
        from stacker.operations.remove import remove_named

        return remove_named(self._directory, map(text_of, images), force=force)

    def remove_all(self) -> Removal:
        """Remove all images, or none of them if one is in use.

        :raises LockedError: an image is mounted or in use.
        """
        from stacker.operations.remove import remove_images

        return remove_images(self._directory, self._chosen(()))

    def collect_garbage(
        self, *, older_than: float = 0, untagged: bool = False, dry_run: bool = False
    ) -> list[Garbage]:
        """Remove what no image, mount or running process needs, and return it.

        :param older_than: seconds; younger objects are kept.
        :param untagged: remove images without a name, too.
        :param dry_run: remove nothing, and return what would be removed.
        """
        from stacker.operations.gc import collect_garbage

        return collect_garbage(
            self._directory, older_than=older_than, untagged=untagged, dry_run=dry_run
        )

    def image_usages(
        self, *, on_damage: Callable[[str], object] = lambda _: None
    ) -> tuple[ImageUsage, ...]:
        """Return the bytes of the files in each image, in the order of the first pulls.

        :param on_damage: called with a message for each damaged document of an image.
        """
        from stacker.operations.usage import images_usage

        return images_usage(self._directory, on_damage)

    def usage(self, *, on_damage: Callable[[str], object] = lambda _: None) -> StoreUsage:
        """Return the bytes on disk that each part of the store takes.

        :param on_damage: called with a message for each damaged document of an image.
        """
        from stacker.operations.usage import store_usage

        return store_usage(self._directory, on_damage)

    def flush(self) -> None:
        """Write to disk what `pull` wrote without `sync`.

        If a power cut comes first, stacker verifies the layers before their next use.
        """
        from stacker.operations.durability import flush

        flush(self._directory)

    def find(self, image: Image | ImageID | str) -> ImageID:
        """Return the ID of an image.

        :raises NotFoundError: the store lacks the image.
        """
        return self._directory.images.find(text_of(image))

    def _chosen(self, images: Sequence[Image | ImageID | str]) -> list[ImageID]:
        return list(map(self.find, images)) or [each.id for each in self._directory.images.all()]

    def _repair(self, jobs: int | None = None, on_event: Emit = ignore) -> Repair:
        from stacker.operations.repair import Repair

        opened = partial(open_for, self._directory, self.registries, self.limits)
        return Repair(opened, unpack_options(self.limits), jobs_or_all(jobs), on_event)

    def _restore(self, on_event: Emit) -> Restore:
        return lambda _, image, layers: self.restore(image, layers, on_event=on_event)
