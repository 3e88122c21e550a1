"""A source and a destination in memory."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any, BinaryIO

from stacker.errors import IntegrityError, NotFoundError
from stacker.events import Transfer
from stacker.image import mediatype
from stacker.image.descriptor import Descriptor
from stacker.image.digest import Digest
from stacker.source.protocol import read_document
from stacker.stream.compression import BlobOpener
from stacker.stream.verify import ByteProgress


class MemorySource:
    """Documents and blobs in memory, as a `Source`.

    The document that was added last is the root.
    """

    def __init__(self, name: str = "") -> None:
        self.names = (name,) if name else ()
        self.content: dict[Digest, bytes] = {}
        self.last: Descriptor | None = None

    def add(self, data: bytes, media_type: str = "application/vnd.tests", **more: Any) -> Any:
        """Add bytes and return the JSON of their descriptor."""
        self.content[Digest.of(data)] = data
        self.last = Descriptor(media_type, Digest.of(data), len(data))
        return {**self.last.to_json(), **more}

    def manifest(self, *words: bytes, **more: Any) -> Any:
        """Add a manifest of a config and of layers, and return the JSON of its descriptor."""
        config, *layers = map(self.add, words)
        document = {"schemaVersion": 2, "config": config, "layers": layers}
        return self.add(json.dumps(document).encode(), mediatype.OCI_MANIFEST, **more)

    def image(self, architecture: str, *layers: bytes) -> Any:
        """Add a manifest whose config declares a platform."""
        diff_ids = [str(Digest.of(layer)) for layer in layers]
        config = {
            "os": "linux",
            "architecture": architecture,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }
        document = {
            "schemaVersion": 2,
            "config": self.add(json.dumps(config).encode(), mediatype.OCI_CONFIG),
            "layers": [self.add(layer, mediatype.OCI_LAYER) for layer in layers],
        }
        return self.add(json.dumps(document).encode(), mediatype.OCI_MANIFEST)

    def index(self, *entries: Any) -> Any:
        """Add an index and return the JSON of its descriptor."""
        document = {"schemaVersion": 2, "manifests": entries}
        return self.add(json.dumps(document).encode(), mediatype.OCI_INDEX)

    def root(self) -> Descriptor:
        assert self.last is not None
        return self.last

    def document(self, descriptor: Descriptor) -> bytes:
        return read_document(self, descriptor, "memory")

    def open_blob(self, descriptor: Descriptor) -> BinaryIO:
        if descriptor.digest not in self.content:
            raise NotFoundError("gone")
        return io.BytesIO(self.content[descriptor.digest])


class MemoryDestination:
    """A `Destination` in memory that checks digests and keeps the order of writes.

    :ivar writes: the kind and the bytes of each write: a blob, a document or the tagged root.
    :ivar mount_from: the repositories that each blob might have been mounted from.
    """

    what = "memory"
    is_sequential = True
    accepts_indexes = True

    def __init__(self) -> None:
        self.writes: list[tuple[str, bytes]] = []
        self.mount_from: list[Sequence[str]] = []

    @property
    def content(self) -> dict[Digest, bytes]:
        """Everything that was written, by digest."""
        return {Digest.of(data): data for _, data in self.writes}

    @property
    def kinds(self) -> list[str]:
        """The kinds of all writes."""
        return [kind for kind, _ in self.writes]

    @property
    def root(self) -> Any:
        """The tagged manifest or index, parsed."""
        (root,) = (data for kind, data in self.writes if kind == "root")
        return json.loads(root)

    def put_blob(
        self,
        descriptor: Descriptor,
        opened: BlobOpener | None,
        *,
        mount_from: Sequence[str] = (),
        report: ByteProgress,
    ) -> Transfer | None:
        if descriptor.digest in self.content:
            return Transfer.PRESENT
        if opened is None:
            return None
        self.mount_from.append(mount_from)
        with opened() as file:
            self._write("blob", descriptor, file.read())
        report(descriptor.size)
        return Transfer.SENT

    def has_document(self, descriptor: Descriptor) -> bool:
        return descriptor.digest in self.content

    def put_document(self, descriptor: Descriptor, content: bytes) -> None:
        self._write("document", descriptor, content)

    def finish(self, root: Descriptor, content: bytes) -> None:
        self._write("root", root, content)

    def _write(self, kind: str, descriptor: Descriptor, content: bytes) -> None:
        if (Digest.of(content), len(content)) != (descriptor.digest, descriptor.size):
            raise IntegrityError(f"damaged {kind}")
        self.writes.append((kind, content))
