"""Create, annotate and push an index: several images, one for each platform, under one name.

Names of images in the store and in registries come in; an index in the store goes out.  A push
sends the members that the destination lacks, then the index.  This module must not send an image
itself: `push_image` and `copy_image` do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from stacker.destination.protocol import refused_index
from stacker.errors import LockedError, NotFoundError, StackerError, UsageError, shell_word
from stacker.events import Emit, MemberSent, Transfer
from stacker.image import mediatype
from stacker.image.config import parse_config
from stacker.image.descriptor import Descriptor
from stacker.image.document import quoted
from stacker.image.location import REGISTRY_TRANSPORT, is_in_registry, repository_of
from stacker.image.manifest import Index, Manifest, parse_document, references
from stacker.image.platform import Platform
from stacker.operations.copy import Copied, copy_image
from stacker.operations.push import choose_manifest, push_image
from stacker.source.protocol import Source

if TYPE_CHECKING:
    from stacker.destination.protocol import Destination
    from stacker.jobs.pack_layer import PackOptions
    from stacker.operations.durability import Restore
    from stacker.store.indexes import IndexStore, StoredIndex
    from stacker.store.store import Store

OpenSource = Callable[[str], AbstractContextManager[Source]]
"""Opens the image or index that a ``docker://…`` reference names."""


@dataclass(frozen=True, slots=True)
class IndexChange:
    """A change to an index, or to one of its members.

    :param os: the member's operating system; an empty string keeps the old value, here and
        in the other fields of the platform.
    :param annotations: annotations to set; one with an empty value is removed.
    """

    os: str = ""
    architecture: str = ""
    variant: str = ""
    os_version: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def has_platform(self) -> bool:
        """Whether the change affects the platform."""
        return bool(self.os or self.architecture or self.variant or self.os_version)

    def apply(self, entry: Descriptor) -> Descriptor:
        """Return a member with the change.

        :raises UsageError: the member would have an incomplete platform.
        """
        return replace(
            entry,
            platform=self._changed_platform(entry.platform),
            annotations=self.changed_annotations(entry.annotations),
        )

    def changed_annotations(self, before: Mapping[str, str]) -> dict[str, str]:
        """Return annotations with the change."""
        return {key: value for key, value in {**before, **self.annotations}.items() if value}

    def _changed_platform(self, platform: Platform | None) -> Platform | None:
        if not self.has_platform:
            return platform
        before = platform or Platform("", "")
        os = self.os or before.os
        architecture = self.architecture or before.architecture
        if not (os and architecture):
            raise UsageError(
                "incomplete platform: got a member without a platform, want --os and --arch"
            )
        # A variant belongs to its architecture, and a version to its operating system.
        variant = self.variant or (before.variant if architecture == before.architecture else "")
        version = self.os_version or (before.os_version if os == before.os else "")
        changed = Platform.parse("/".join(filter(None, (os, architecture, variant))))
        return replace(changed, os_version=version)


def create_index(
    store: Store, name: str, members: Sequence[str], open_source: OpenSource
) -> StoredIndex:
    """Create an index of images in the store and in registries.

    If a member is itself an index in a registry, its members become members.

    :param members: each an argument of `ImageStore.find`, or ``docker://…``.
    :raises UsageError: an index has that name.
    :raises NotFoundError: the store or the registry lacks a member.
    """
    store.require_writable()
    indexes = store.indexes
    _refuse_existing(indexes, name)
    entries: dict[str, Descriptor] = {}
    origins: dict[str, str] = {}
    for text in members:
        for entry, origin in _members(store, text, open_source):
            entries[str(entry.digest)] = entry
            origins[str(entry.digest)] = origin
    with indexes.write_lock():
        _refuse_existing(indexes, name)
        return indexes.put(name, Index(mediatype.OCI_INDEX, tuple(entries.values())), origins)


def annotate_index(store: Store, name: str, member: str | None, change: IndexChange) -> StoredIndex:
    """Change an index, or the member that `member` names.

    :param member: a digest, its first digits, a platform or an image; ``None`` for the index.
    :raises NotFoundError: there is no such index or member.
    :raises UsageError: `member` matches several members, or the index would get a platform.
    """
    store.require_writable()
    indexes = store.indexes
    with indexes.write_lock():
        stored = indexes.find(name)
        index = stored.index
        if member is not None:
            chosen = _find_member(store, stored, member)
            manifests = [change.apply(m) if m is chosen else m for m in index.manifests]
            index = replace(index, manifests=tuple(manifests))
        elif change.has_platform:
            raise UsageError(
                f"no member: index {quoted(name)}: got a platform without a member, want both",
                hint="name a member by its digest, its platform or its image",
            )
        else:
            index = replace(index, annotations=change.changed_annotations(index.annotations))
        return indexes.put(name, index, stored.origins)


def push_index(
    store: Store,
    name: str,
    destination: Destination,
    *,
    open_source: OpenSource,
    packing: PackOptions,
    jobs: int,
    emit: Emit,
    restore: Restore | None = None,
) -> Copied:
    """Push an index, after the members that the destination lacks.

    A member of the store whose layers had to be compressed again gets another digest. In this
    case the index in the store is updated, too.

    :param jobs: the number of blobs to send at the same time.
    :param emit: receives `MemberSent` and the events of `push_image` and `copy_image`.
    :param restore: unpacks missing layers, and layers that a power cut damaged.
    :raises UsageError: the destination cannot hold an index.
    :raises NotFoundError: there is no such index, or a member is no longer available.
    :raises LockedError: another process changed the index during the push.
    """
    if not destination.accepts_indexes:
        raise refused_index(destination)
    sender = _MemberSender(store, destination, open_source, packing, jobs, emit, restore)
    stored = store.indexes.find(name)
    members, copies = [], []
    for entry in stored.index.manifests:
        origin = stored.origins.get(str(entry.digest), "")
        sent = entry
        is_missing = not destination.has_document(entry)
        if is_missing:
            copies.append(sender.send(origin))
            sent = _with_digest_of(entry, copies[-1].root)
        emit(MemberSent(sent, is_missing))
        members.append((sent, origin))
    stored = _update_members(store, stored, members)
    root = Descriptor(stored.index.media_type, stored.digest, len(stored.content))
    destination.finish(root, stored.content)
    return _sum(root, copies)


@dataclass(frozen=True, slots=True)
class _MemberSender:
    store: Store
    destination: Destination
    open_source: OpenSource
    packing: PackOptions
    jobs: int
    emit: Emit
    restore: Restore | None

    def send(self, origin: str) -> Copied:
        """Send the member with this origin, without a tag."""
        return self._copy(origin) if is_in_registry(origin) else self._push(origin)

    def _copy(self, origin: str) -> Copied:
        repository = repository_of(origin)
        with self.open_source(origin) as source:
            return copy_image(
                source,
                self.destination,
                jobs=self.jobs,
                emit=self.emit,
                repositories=lambda _: (repository,),
                tagged=False,
            )

    def _push(self, origin: str) -> Copied:
        pushed = push_image(
            self.store,
            origin,
            self.destination,
            packing=self.packing,
            jobs=self.jobs,
            emit=self.emit,
            tagged=False,
            restore=self.restore,
        )
        return pushed.copied


def _update_members(
    store: Store, stored: StoredIndex, members: Sequence[tuple[Descriptor, str]]
) -> StoredIndex:
    """Give the index in the store the digests that its members have at the destination.

    :raises LockedError: another process changed the index during the push.
    """
    index = replace(stored.index, manifests=tuple(entry for entry, _ in members))
    if index == stored.index:
        return stored
    indexes = store.indexes
    with indexes.write_lock():
        if indexes.find(stored.name).digest != stored.digest:
            raise LockedError(
                f"index changed during the push: {quoted(stored.name)}: got another digest than "
                f"{stored.digest}, want the same",
                hint=f"`stacker index push {shell_word(stored.name)} DEST` pushes the new index",
            )
        origins = {str(entry.digest): origin for entry, origin in members}
        return indexes.put(stored.name, index, origins)


def _sum(root: Descriptor, copies: Sequence[Copied]) -> Copied:
    """Return the copies of all members, and of their index, as one."""
    transfers: Counter[Transfer] = Counter()
    foreign: dict[Descriptor, None] = {}
    for copied in copies:
        transfers.update(copied.transfers)
        foreign |= dict.fromkeys(copied.foreign)
    documents = 1 + sum(copied.documents for copied in copies)
    return Copied(root, documents, dict(transfers), tuple(foreign))


def _members(store: Store, text: str, open_source: OpenSource) -> Iterator[tuple[Descriptor, str]]:
    """Yield the members that `text` names, each with its origin."""
    if not is_in_registry(text):
        yield _stored_member(store, text)
        return
    with open_source(text) as source:
        root = source.root()
        # The source's own name, because `text` may be a short name.
        repository = repository_of(REGISTRY_TRANSPORT + source.names[0])
        if root.media_type in mediatype.INDEXES:
            entries = references(source.document(root), text).documents
        else:
            entries = (_with_platform(source, root),)
        for entry in entries:
            yield replace(entry, data=None), f"{REGISTRY_TRANSPORT}{repository}@{entry.digest}"


def _stored_member(store: Store, text: str) -> tuple[Descriptor, str]:
    image_id = store.images.find(text)
    with store.images.read_lock():
        descriptor = choose_manifest(store, image_id, text)
    platform = store.images.config(image_id).platform
    return replace(descriptor, annotations={}, platform=platform, data=None), str(image_id)


def _with_platform(source: Source, root: Descriptor) -> Descriptor:
    """Return the descriptor of an image with the platform that its config declares."""
    what = f"manifest {root.digest}"
    manifest = parse_document(source.document(root), media_type=root.media_type, what=what)
    if not isinstance(manifest, Manifest):
        raise UsageError(f"not an image: {what}: got an index, want a manifest")
    config = parse_config(source.document(manifest.config), f"config {manifest.image_id}")
    return replace(root, platform=config.platform)


def _with_digest_of(entry: Descriptor, root: Descriptor) -> Descriptor:
    """Return a member with the digest that its manifest has at the destination."""
    return replace(entry, media_type=root.media_type, digest=root.digest, size=root.size)


def _refuse_existing(indexes: IndexStore, name: str) -> None:
    if indexes.has(name):
        raise UsageError(
            f"index exists: {quoted(name)}: got the name of an index in the store, want a new name",
            hint=f"use another name, or remove the index: `stacker index rm {shell_word(name)}`",
        )


def _find_member(store: Store, stored: StoredIndex, text: str) -> Descriptor:
    """Return the member with this digest, platform, origin, image or first digits."""
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
                f"ambiguous member: {quoted(text)}: got {len(found)} members, want one",
                hint="name the member by its digest",
            )
        if found:
            return found[0]
    raise NotFoundError(
        f"no such member: index {quoted(stored.name)}: {quoted(text)}",
        hint=f"`stacker index inspect {shell_word(stored.name)}` lists its members",
    )


def _image_id(store: Store, text: str) -> str:
    try:
        return str(store.images.find(text))
    except StackerError:
        return ""
