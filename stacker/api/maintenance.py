"""The part of `Store` that checks, mends and empties it.

Images come in; what was found, replaced or removed goes out.  Each method calls one function of
`stacker.operations`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stacker.api.options import ignore, jobs_or_all, text_of
from stacker.api.registries import RegistryOptions, repair_with, restore_by
from stacker.store.store import Store as StoreDirectory

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stacker.api.images import Image
    from stacker.events import Emit
    from stacker.image.digest import ImageID
    from stacker.operations.durability import Restore
    from stacker.operations.gc import Garbage
    from stacker.operations.repair import Repaired
    from stacker.operations.usage import StoreUsage
    from stacker.operations.verify import Verification


@dataclass(frozen=True, slots=True)
class MaintainedStore:
    """A store without the methods that need a source, a destination or a mount."""

    registries: RegistryOptions
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

        repair = repair_with(self._directory, self.registries, on_event, jobs)
        return repair_images(self._directory, self._chosen(images), repair, contents=contents)

    def remove(self, *images: Image | ImageID | str) -> None:
        """Remove images with all their names, or none of them if one cannot be removed.

        :raises NotFoundError: the store lacks an image.
        :raises LockedError: an image is mounted or in use.
        """
        from stacker.operations.remove import remove_images

        remove_images(self._directory, self._chosen(images) if images else [])

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

    def usage(self) -> StoreUsage:
        """Return the bytes on disk that each part of the store takes."""
        from stacker.operations.usage import store_usage

        return store_usage(self._directory)

    def flush(self) -> None:
        """Write to disk what `pull` wrote without `sync`.

        If a power cut comes first, stacker verifies the layers before their next use.
        """
        from stacker.operations.durability import flush

        flush(self._directory)

    def _chosen(self, images: Sequence[Image | ImageID | str]) -> list[ImageID]:
        kept = self._directory.images
        return [kept.find(text_of(each)) for each in images] or [each.id for each in kept.all()]

    def _restore(self, on_event: Emit) -> Restore:
        return restore_by(repair_with(self._directory, self.registries, on_event))
