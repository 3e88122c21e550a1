"""Descriptors: media type, digest and size of a blob that a document refers to.

A JSON object of a manifest or an index comes in, and a checked value goes out, or the reverse.
This module must not know where a blob is stored.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from stacker.errors import IntegrityError
from stacker.image import mediatype
from stacker.image.digest import Digest
from stacker.image.document import as_object, optional, quoted, required, string_map, strings
from stacker.image.platform import Platform

if TYPE_CHECKING:
    from collections.abc import Mapping

_MOST_BYTES = 2**63 - 1  # image-spec: size is an int64


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A blob's media type, digest and size in bytes (image-spec descriptor.md).

    :param urls: where else a foreign layer is available.
    :param data: the blob's bytes, if the document embeds them.
    """

    media_type: str
    digest: Digest
    size: int
    platform: Platform | None = None
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    urls: tuple[str, ...] = ()
    data: bytes | None = None

    @classmethod
    def from_json(cls, obj: object, where: str) -> Self:
        """Return the descriptor in the JSON value `obj`.

        :param where: the value's position in its document, for messages.
        :raises IntegrityError: a field is missing, of the wrong type or out of range, or `data`
            does not match `digest` and `size`.
        """
        members = as_object(obj, where)
        platform = optional(members, "platform", dict, where)
        descriptor = cls(
            required(members, "mediaType", str, where),
            _digest(required(members, "digest", str, where), where),
            _size(required(members, "size", int, where), where),
            None if platform is None else Platform.from_json(platform, f"{where}: platform"),
            string_map(members, "annotations", where),
            strings(members, "urls", where),
            _data(optional(members, "data", str, where), where),
        )
        if descriptor.data is not None:
            descriptor.verify(descriptor.data, f"{where}: data")
        return descriptor

    def to_json(self) -> dict[str, object]:
        """Return the descriptor as JSON (image-spec, descriptor.md), without empty fields."""
        members: dict[str, object] = {
            "mediaType": self.media_type,
            "digest": str(self.digest),
            "size": self.size,
        }
        if self.urls:
            members["urls"] = list(self.urls)
        if self.annotations:
            members["annotations"] = dict(self.annotations)
        if self.data is not None:
            from base64 import b64encode  # rare

            members["data"] = b64encode(self.data).decode()
        if self.platform is not None:
            members["platform"] = self.platform.to_json()
        return members

    @classmethod
    def embedding(cls, media_type: str, content: bytes) -> Self:
        """Return a descriptor with `content` embedded."""
        return cls(media_type, Digest.of(content), len(content), data=content)

    @property
    def is_foreign(self) -> bool:
        """Whether this is a foreign layer, which may be available from `urls` only."""
        return self.media_type in mediatype.FOREIGN_LAYERS

    def verify(self, content: bytes, what: str) -> None:
        """Check that `content` is the described blob.

        :raises IntegrityError: the size or the digest differs.
        """
        if len(content) != self.size:
            raise IntegrityError(f"wrong size: {what}: got {len(content)} bytes, want {self.size}")
        hasher = self.digest.new_hash()
        hasher.update(content)
        if hasher.hexdigest() != self.digest.hex:
            got = f"{self.digest.algorithm}:{hasher.hexdigest()}"
            raise IntegrityError(f"wrong digest: {what}: got {got}, want {self.digest}")


def _digest(text: str, where: str) -> Digest:
    try:
        return Digest.parse(text)
    except IntegrityError as error:
        raise IntegrityError(f"{where}: {error.message}") from None


def _size(size: int, where: str) -> int:
    if not 0 <= size <= _MOST_BYTES:
        raise IntegrityError(f"{where}: size: got {quoted(size)}, want 0 to {_MOST_BYTES}")
    return size


def _data(text: str | None, where: str) -> bytes | None:
    if text is None:
        return None
    from base64 import b64decode  # rare

    try:
        return b64decode(text, validate=True)
    except ValueError:
        raise IntegrityError(f"{where}: data: got {quoted(text)}, want base64") from None
