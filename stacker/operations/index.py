"""Several images under one name, by hand: an index of what is here and what is elsewhere.

In come images of the store and references to registries, out comes an index; later that index at
a destination, with the members that it lacked.  How one image gets there, `push` and `delivery`
know.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from stacker.errors import LockedError, NotFoundError, StackerError, UsageError
from stacker.events import Emit, MemberSent, Transfer
from stacker.image import mediatype
from stacker.image.config import parse_config
from stacker.image.descriptor import Descriptor
from stacker.image.document import quoted
from stacker.image.location import REGISTRY_TRANSPORT, is_in_registry, repository_of
from stacker.image.manifest import Index, Manifest, parse_document, references
from stacker.image.platform import Platform
from stacker.operations.copy import Delivered, deliver, mounted_from
from stacker.operations.push import Packing, manifest_of, push
from stacker.source.protocol import Source

if TYPE_CHECKING:
    from stacker.destination.protocol import Destination
    from stacker.store.indexes import IndexStore, StoredIndex
    from stacker.store.store import Store

Open = Callable[[str], AbstractContextManager[Source]]
"""Opens a source that a person, or an index, names."""


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be said of an index, or of one of its members.

    Empty strings and annotations leave what is; an annotation without a value goes.
    """

    os: str = ""
    architecture: str = ""
    variant: str = ""
    os_version: str = ""
    annotations: Mapping[str, str] | None = None

    @property
    def has_platform(self) -> bool:
        """Whether it says something of a platform."""
        return bool(self.os or self.architecture or self.variant or self.os_version)


@dataclass(frozen=True, slots=True)
class Means:
    """How members are had and sent.

    :param jobs: blobs on their way at the same time.
    :param emit: called with `MemberSent` and with what `push` and `deliver` tell.
    """

    opened: Open
    packing: Packing
    jobs: int
    emit: Emit


def create(store: Store, name: str, members: Sequence[str], opened: Open) -> StoredIndex:
    """Make an index of images in the store and in registries.

    An index in a registry is taken apart: its members become members.

    :param members: what `ImageStore.find` understands, or ``docker://…``.
    :raises UsageError: there is one of that name.
    :raises NotFoundError: a member is not there.
    """
    indexes = store.indexes
    _refuse_existing(indexes, name)
    entries: dict[str, Descriptor] = {}
    origins: dict[str, str] = {}
    for text in members:
        for entry, origin in _members(store, text, opened):
            entries[str(entry.digest)] = entry
            origins[str(entry.digest)] = origin
    with indexes.write_lock():
        _refuse_existing(indexes, name)
        return indexes.put(name, Index(mediatype.OCI_INDEX, tuple(entries.values())), origins)


def annotate(store: Store, name: str, member: str | None, change: Change) -> StoredIndex:
    """Say something of an index, or of the member that `member` means.

    :raises NotFoundError: no such index or member.
    :raises UsageError: several members, or a platform for the index itself.
    """
    indexes = store.indexes
    with indexes.write_lock():
        stored = indexes.find(name)
        index = stored.index
        if member is None:
            if change.has_platform:
                raise UsageError(
                    f"no member: {quoted(name)}: an index itself has no platform",
                    hint="say which member has it, by digest, platform or image",
                )
            index = replace(index, annotations=_annotated(index.annotations, change))
        else:
            chosen = _chosen(store, stored, member)
            changed = replace(
                chosen,
                platform=_changed(chosen.platform, change),
                annotations=_annotated(chosen.annotations, change),
            )
            manifests = tuple(changed if m is chosen else m for m in index.manifests)
            index = replace(index, manifests=manifests)
        return indexes.put(name, index, stored.origins)


def push_index(store: Store, name: str, destination: Destination, means: Means) -> Delivered:
    """Send an index, and before it the members that the destination lacks.

    A member of the store whose layers had to be packed anew has another digest then; the index
    here says that digest, too, from then on.

    :raises NotFoundError: no such index, or a member is not where it was.
    """
    stored = store.indexes.find(name)
    members, deliveries = [], []
    for entry in stored.index.manifests:
        origin = stored.origins.get(str(entry.digest), "")
        found = entry
        there = destination.has_document(entry)
        if not there:
            deliveries.append(_sent(store, origin, destination, means))
            found = _at(entry, deliveries[-1].root)
        means.emit(MemberSent(found, not there))
        members.append((found, origin))
    stored = _corrected(store, stored, members)
    root = Descriptor(stored.index.media_type, stored.digest, len(stored.content))
    destination.finish(root, stored.content)
    transfers: Counter[Transfer] = Counter()
    left: dict[Descriptor, None] = {}
    for delivery in deliveries:
        transfers.update(delivery.transfers)
        left |= dict.fromkeys(delivery.left)
    documents = 1 + sum(d.documents for d in deliveries)
    return Delivered(root, documents, dict(transfers), tuple(left))


def _corrected(
    store: Store, stored: StoredIndex, members: Sequence[tuple[Descriptor, str]]
) -> StoredIndex:
    """Have the index say what its members are at the destination.

    :raises LockedError: somebody has changed it since it was read.
    """
    index = replace(stored.index, manifests=tuple(entry for entry, _ in members))
    if index == stored.index:
        return stored
    indexes = store.indexes
    with indexes.write_lock():
        if indexes.find(stored.name).digest != stored.digest:
            raise LockedError(
                f"changed while it was pushed: index {quoted(stored.name)}", hint="push it again"
            )
        origins = {str(entry.digest): origin for entry, origin in members}
        return indexes.put(stored.name, index, origins)


def _members(store: Store, text: str, opened: Open) -> Iterator[tuple[Descriptor, str]]:
    """Give what `text` names as members, each with its origin."""
    if not is_in_registry(text):
        yield _local(store, text)
        return
    with opened(text) as source:
        root = source.root()
        place = REGISTRY_TRANSPORT + repository_of(
            REGISTRY_TRANSPORT + source.names[0]
        )  # not a short name
        if root.media_type in mediatype.INDEXES:
            listed = references(source.document(root), text).documents
        else:
            listed = (_with_platform(source, root),)
        for entry in listed:
            yield replace(entry, data=None), f"{place}@{entry.digest}"


def _local(store: Store, text: str) -> tuple[Descriptor, str]:
    image_id = store.images.find(text)
    with store.images.read_lock():
        descriptor = manifest_of(store, image_id, text)
    platform = store.images.config(image_id).platform
    return replace(descriptor, annotations={}, platform=platform, data=None), str(image_id)


def _with_platform(source: Source, root: Descriptor) -> Descriptor:
    what = f"manifest {root.digest}"
    manifest = parse_document(source.document(root), media_type=root.media_type, what=what)
    if not isinstance(manifest, Manifest):
        raise UsageError(f"not an image: {what}")
    config = parse_config(source.document(manifest.config), f"config {manifest.image_id}")
    return replace(root, platform=config.platform)


def _sent(store: Store, origin: str, destination: Destination, means: Means) -> Delivered:
    """Send one member by its digest, from where it is to be had."""
    if is_in_registry(origin):
        with means.opened(origin) as source:
            return deliver(
                source,
                destination,
                root=source.root(),
                jobs=means.jobs,
                emit=means.emit,
                places=mounted_from(repository_of(origin)),
                named=False,
            )
    return push(
        store,
        origin,
        destination,
        packing=means.packing,
        jobs=means.jobs,
        emit=means.emit,
        named=False,
    ).delivered


def _at(entry: Descriptor, root: Descriptor) -> Descriptor:
    """Return a member with the digest that its manifest has at the destination."""
    return replace(entry, media_type=root.media_type, digest=root.digest, size=root.size)


def _refuse_existing(indexes: IndexStore, name: str) -> None:
    if indexes.has(name):
        raise UsageError(f"exists already: index {quoted(name)}", hint=f"stacker index rm {name}")


def _chosen(store: Store, stored: StoredIndex, text: str) -> Descriptor:
    """Return the member that a digest, its first digits, a platform, or an image means."""
    tests: tuple[Callable[[Descriptor], bool], ...] = (
        lambda entry: text == str(entry.digest),
        lambda entry: text == str(entry.platform),
        lambda entry: text == stored.origins.get(str(entry.digest)),
        lambda entry: stored.origins.get(str(entry.digest)) == _image_id(store, text),
        lambda entry: entry.digest.hex.startswith(text.removeprefix("sha256:")),
    )
    for test in tests:
        found = [entry for entry in stored.index.manifests if test(entry)]
        if len(found) > 1:
            raise UsageError(
                f"ambiguous member: {quoted(text)}: got {len(found)} of them, want one",
                hint="write the digest",
            )
        if found:
            return found[0]
    raise NotFoundError(
        f"no such member: index {quoted(stored.name)}: {quoted(text)}",
        hint=f"`stacker index inspect {stored.name}` lists them",
    )


def _image_id(store: Store, text: str) -> str:
    try:
        return str(store.images.find(text))
    except StackerError:
        return ""


def _changed(platform: Platform | None, change: Change) -> Platform | None:
    if not change.has_platform:
        return platform
    before = platform or Platform("", "")
    system = change.os or before.os
    architecture = change.architecture or before.architecture
    if not (system and architecture):
        raise UsageError("no platform: want both --os and --arch of a member that has neither")
    # A variant is one of its architecture, and a version one of its system.
    variant = change.variant or (before.variant if architecture == before.architecture else "")
    version = change.os_version or (before.os_version if system == before.os else "")
    said = Platform.parse("/".join(filter(None, (system, architecture, variant))))
    return replace(said, os_version=version)


def _annotated(before: Mapping[str, str], change: Change) -> dict[str, str]:
    after = {**before, **(change.annotations or {})}
    return {key: value for key, value in after.items() if value}
