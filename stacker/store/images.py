"""Images by ID and by name.

``images.json`` lists the images as an OCI index, one descriptor for each name.  The
annotation `NAME` has the name, the annotation `SOURCE` the SOURCE of the pull.  Changes need
`ImageStore.write_lock`; `ImageStore.read_lock` keeps the listed documents from being removed.
This module does not use layers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from stacker.errors import IntegrityError, LockedError, NotFoundError, UnsupportedError, UsageError
from stacker.image.config import ImageConfig, parse_config
from stacker.image.digest import ImageID
from stacker.linux import lock
from stacker.store.blobs import INDEX, BlobStore, write_list

if TYPE_CHECKING:
    from stacker.image.descriptor import Descriptor
    from stacker.image.digest import Digest
    from stacker.image.manifest import Manifest

NAME = "org.opencontainers.image.ref.name"
SOURCE = "dev.stacker.source"
LIST = "images.json"
_LOCK = "index.json.lock"
_READERS = "images.lock"
_LIST_IMAGES = "`stacker images` lists the images in the store"
_HEX = frozenset("0123456789abcdef")


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An image of the store, with its manifests, names and sources.

    :param manifests: descriptors of every manifest that it was pulled by.
    :param sources: the SOURCE arguments that it was pulled from.
    """

    id: ImageID
    manifests: tuple[Descriptor, ...]
    names: tuple[str, ...]
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ImageStore:
    """The images of the store at ``root``.

    :param read_only: nothing changes the store, so no lock is needed.
    """

    root: Path
    blobs: BlobStore
    read_only: bool = False

    def all(self) -> list[StoredImage]:
        """Return every image, in the order of the first pulls."""
        grouped: dict[ImageID, list[Descriptor]] = {}
        for entry in self._entries():
            image_id = self._image_id(entry)
            if image_id is not None:
                grouped.setdefault(image_id, []).append(entry)
        return [_stored(image_id, entries) for image_id, entries in grouped.items()]

    def find(self, text: str) -> ImageID:
        """Return the ID of an image.

        :param text: a full ID, a unique prefix of an ID, a name or a source.  A name may omit the
            tag ``latest``, and the default registry.
        :raises NotFoundError: no image matches.
        :raises UsageError: several images match the prefix.
        """
        digits = text.removeprefix("sha256:")
        if self._is_config(digits):
            return ImageID("sha256", digits)
        with self.read_lock():
            try:
                return self.find_name(text)[0]
            except NotFoundError as error:
                from stacker.image.location import pull_hint

                error.hint = pull_hint(text) or error.hint
                raise

    def find_name(self, text: str) -> tuple[ImageID, str | None]:
        """Return the ID of an image, and the image's name if `text` is one; see `find`.

        The caller holds a lock of the list.
        """
        digits = text.removeprefix("sha256:")
        if self._is_config(digits):
            return ImageID("sha256", digits), None
        images = self.all()
        if (named := _named(images, text)) is not None:
            return named
        found = [image.id for image in images if digits and image.id.hex.startswith(digits)]
        if len(found) > 1:
            raise UsageError(
                f"ambiguous image: {text!r}: got {', '.join(sorted(i.short for i in found))}, "
                "want one image",
                hint="give more digits of the image ID; `stacker images` lists the IDs",
            )
        if not found:
            raise NotFoundError(f"no such image: {text!r}", hint=_hint(images, digits))
        return found[0], None

    def _is_config(self, digits: str) -> bool:
        """Return whether digits are the full digest of a config, which avoids reading the list."""
        if len(digits) != 64 or not set(digits) <= _HEX:
            return False
        try:
            self.config(ImageID("sha256", digits))
        except (NotFoundError, IntegrityError, UnsupportedError):
            return False
        return True

    def config(self, image_id: ImageID) -> ImageConfig:
        """Return the config of an image.

        :raises NotFoundError: the image is not in the store.
        :raises IntegrityError: the config is damaged or malformed.
        :raises UnsupportedError: the config has an unsupported format.
        """
        return parse_config(self.blobs.read(image_id), f"config {image_id}")

    def manifest(self, descriptor: Descriptor) -> Manifest:
        """Return a manifest that the list refers to.

        :raises NotFoundError: the manifest is not in the store.
        :raises IntegrityError: the document is damaged, or is not a manifest.
        """
        from stacker.image.manifest import Manifest, parse_document  # not needed for an image ID

        what = f"manifest {descriptor.digest}"
        document = parse_document(
            self.blobs.read(descriptor.digest), media_type=descriptor.media_type, what=what
        )
        if not isinstance(document, Manifest):
            raise IntegrityError(f"damaged store: {what}: got an index, want a manifest")
        return document

    def write_lock(self) -> AbstractContextManager[object]:
        """Take the exclusive lock that every change of the list needs."""
        return lock.exclusive(self.root / _LOCK)

    def read_lock(self) -> AbstractContextManager[object]:
        """Take the shared lock that keeps listed documents from being removed.

        A missing store has no documents, and a lock would create a file in its place.  Nothing
        removes a document of a read-only store.
        """
        if not self.blobs.root.is_dir() or self.read_only:
            return nullcontext()
        return lock.shared(self.root / _LOCK)

    @contextmanager
    def reading(self, image_id: ImageID) -> Iterator[ImageConfig]:
        """Lock an image against removal, and yield its config.

        :raises NotFoundError: the image is not in the store.
        :raises IntegrityError: the config is damaged or malformed.
        """
        with self.reading_present([image_id]):
            self._require(image_id)
            yield self.config(image_id)

    @contextmanager
    def reading_present(self, image_ids: Iterable[ImageID]) -> Iterator[set[ImageID]]:
        """Lock those images that are in the store against removal, and yield them."""
        with nullcontext() if self.read_only else lock.ByteLocks(self.root / _READERS) as locks:
            chosen = set(image_ids)
            if locks is not None:  # nothing removes an image of a read-only store
                for image_id in chosen:
                    locks.share(_offset(image_id))
            yield {image_id for image_id in chosen if self.blobs.path(image_id).exists()}

    @contextmanager
    def removing(self, image_ids: Iterable[ImageID]) -> Iterator[None]:
        """Lock any number of images against readers, for their removal.

        :raises NotFoundError: an image is not in the store.
        :raises LockedError: another process reads one of them.
        """
        with lock.ByteLocks(self.root / _READERS) as locks:
            for image_id in image_ids:
                self._require(image_id)
                if not locks.try_exclude(_offset(image_id)):
                    raise LockedError(
                        f"image in use: {image_id}: another process mounts or unpacks it",
                        hint="run the command again when the other process is done",
                    )
            yield

    def _require(self, image_id: ImageID) -> None:
        if not self.blobs.path(image_id).exists():
            raise NotFoundError(f"no such image: {image_id}", hint=_LIST_IMAGES)

    def add(self, manifest: Descriptor, names: tuple[str, ...], source: str) -> dict[str, ImageID]:
        """Add an image to the list, and move its names from other images.

        The caller holds :meth:`write_lock`.

        :param manifest: descriptor of the image's manifest.
        :param source: what the image was pulled from; empty for an image that `commit` created.
        :returns: the names that moved, each with the image that had it before.
        """
        entries = self._entries()
        moved = self._holders(entries, names)
        kept = [_without(entry, names) for entry in entries]
        origin = {SOURCE: source} if source else {}
        bare = replace(manifest, annotations=origin, platform=None, data=None)
        fresh = [replace(bare, annotations={NAME: name, **origin}) for name in names] or [bare]
        covered = [n for n, entry in enumerate(kept) if _is_covered(entry, manifest, fresh)]
        place = covered[0] if covered else len(kept)  # the list has the order of the first pulls
        before, after = kept[:place], kept[place:]
        self._write([*before, *fresh, *(e for e in after if not _is_covered(e, manifest, fresh))])
        image_id = self._image_id(manifest)
        return {name: holder for name, holder in moved.items() if holder != image_id}

    def _holders(self, entries: Iterable[Descriptor], names: Collection[str]) -> dict[str, ImageID]:
        """Return which image has each of the names; names of no image are absent."""
        found = {}
        for entry in entries:
            name = entry.annotations.get(NAME)
            if name in names and (image_id := self._image_id(entry)) is not None:
                found[str(name)] = image_id
        return found

    def tag(self, image_id: ImageID, names: tuple[str, ...]) -> dict[str, ImageID]:
        """Give an image more names; see `add`.  The caller holds :meth:`write_lock`.

        :raises NotFoundError: the list does not have the image.
        """
        for entry in reversed(self._entries()):  # its last pull
            if self._image_id(entry) == image_id:
                return self.add(entry, names, entry.annotations.get(SOURCE, ""))
        raise NotFoundError(f"no such image: {image_id}", hint=_LIST_IMAGES)

    def untag(self, names: Collection[str]) -> None:
        """Remove names; an image without names stays listed.

        The caller holds :meth:`write_lock`.
        """
        entries: list[Descriptor] = []
        for entry in self._entries():
            kept = _without(entry, names)
            if kept not in entries:
                entries.append(kept)
        self._write(entries)

    def remove(self, image_id: ImageID) -> None:
        """Remove an image from the list.  The caller holds :meth:`write_lock`."""
        self._write([entry for entry in self._entries() if self._image_id(entry) != image_id])

    def with_configs(
        self, report: Callable[[str], object] = lambda _: None
    ) -> list[tuple[StoredImage, ImageConfig]]:
        """Return every image whose documents can be read, with its config.

        Each document is read once.

        :param report: called with a message for each document that cannot be read, which hides no
            other image.
        """
        grouped: dict[ImageID, list[Descriptor]] = {}
        configs: dict[ImageID, ImageConfig] = {}
        image_ids: dict[Digest, ImageID] = {}
        for entry in self._entries(report):
            try:
                if entry.digest not in image_ids:
                    image_ids[entry.digest] = self.manifest(entry).image_id
                image_id = image_ids[entry.digest]
                if image_id not in configs:
                    configs[image_id] = self.config(image_id)
            except (IntegrityError, NotFoundError, UnsupportedError) as error:
                name = entry.annotations.get(NAME) or entry.annotations.get(SOURCE) or entry.digest
                report(f"image {name}: {error.message}")
            else:
                grouped.setdefault(image_id, []).append(entry)
        return [(_stored(each, entries), configs[each]) for each, entries in grouped.items()]

    def unreadable(self) -> list[str]:
        """Return the digests of the manifests that are damaged or missing."""
        return [str(entry.digest) for entry in self._entries() if self._image_id(entry) is None]

    def drop_unreadable(self) -> list[str]:
        """Remove the images of `unreadable` from the list.  The caller holds :meth:`write_lock`."""
        digests = self.unreadable()
        if digests:
            self._write([entry for entry in self._entries() if str(entry.digest) not in digests])
        return digests

    def _image_id(self, entry: Descriptor) -> ImageID | None:
        try:
            return self.manifest(entry).image_id
        except (IntegrityError, NotFoundError):
            return None

    def _entries(self, report: Callable[[str], object] = lambda _: None) -> list[Descriptor]:
        """Return the entries of ``images.json``; if it is damaged, the manifests in `blobs`."""
        try:
            return self._listed()
        except IntegrityError as error:
            report(f"{error.message}: the names of all images are lost")
            return self.blobs.manifests()

    def _listed(self) -> list[Descriptor]:
        from stacker.image.descriptor import Descriptor
        from stacker.image.document import objects, parse_object

        path = self.root / LIST
        if not path.exists():  # older versions listed all images in the index of the layout
            path = self.root / INDEX
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            return []
        entries = objects(parse_object(raw, str(path)), "manifests", str(path))
        return [
            Descriptor.from_json(entry, f"{path}: manifests[{number}]")
            for number, entry in enumerate(entries)
        ]

    def publish(self) -> None:
        """List the images for other programs; see `BlobStore.publish`.

        The caller holds :meth:`write_lock`, and calls this before it removes blobs of no image.
        """
        entries = self._entries()
        if not (self.root / LIST).exists():
            write_list(self.root / LIST, entries)
        self.blobs.publish(entries)

    def _write(self, entries: list[Descriptor]) -> None:
        write_list(self.root / LIST, entries)
        self.blobs.publish(entries)


def _named(images: list[StoredImage], text: str) -> tuple[ImageID, str | None] | None:
    """Return the image with a name, a source or an ID, and the name if `text` is one."""
    for image in images:
        if text in image.names:
            return image.id, text
    from stacker.image.location import REGISTRY_TRANSPORT
    from stacker.image.reference import spellings  # not needed for an exact name

    for name in spellings(text.removeprefix(REGISTRY_TRANSPORT)):
        for image in images:
            if name in image.names:
                return image.id, name
    for image in images:
        if {text, REGISTRY_TRANSPORT + text} & {*image.sources, str(image.id)}:
            return image.id, None
    return None


def _hint(images: list[StoredImage], digits: str) -> str:
    for image in images:
        if digits in {entry.digest.hex for entry in image.manifests}:
            return f"this is the digest of a manifest; the image ID is {image.id}"
    return _LIST_IMAGES


def _stored(image_id: ImageID, entries: list[Descriptor]) -> StoredImage:
    names = dict.fromkeys(e.annotations[NAME] for e in entries if NAME in e.annotations)
    sources = dict.fromkeys(e.annotations[SOURCE] for e in entries if SOURCE in e.annotations)
    return StoredImage(image_id, tuple(entries), tuple(names), tuple(sources))


def _without(entry: Descriptor, names: Collection[str]) -> Descriptor:
    if entry.annotations.get(NAME) not in names:
        return entry
    kept = {key: value for key, value in entry.annotations.items() if key != NAME}
    return replace(entry, annotations=kept)


def _is_covered(entry: Descriptor, manifest: Descriptor, fresh: list[Descriptor]) -> bool:
    """Return whether an entry without a name repeats one of the ``fresh`` entries."""
    return (
        entry.digest == manifest.digest
        and NAME not in entry.annotations
        and entry.annotations.get(SOURCE) in {f.annotations.get(SOURCE) for f in fresh}
    )


def _offset(image_id: ImageID) -> int:
    """Return the byte of the lock file that an image's lock is on."""
    return int(image_id.hex[:15], 16)
