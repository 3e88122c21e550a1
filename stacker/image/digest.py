"""Four kinds of digest that look alike and must not be confused.

Text such as ``sha256:6c3c…`` comes in; a value of the kind that the caller asks for goes out.  This
module does not read the data that a digest identifies.

    Digest    of bytes as stored or sent: a compressed layer, a manifest, a config
    DiffID    of a layer's uncompressed tar
    ChainID   of a layer and all layers below it
    ImageID   of an image's config: the name of an image in the store
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from stacker.errors import IntegrityError
from stacker.image.document import quoted

if TYPE_CHECKING:
    from hashlib import _Hash

_HEX_LENGTH = {"sha256": 64, "sha512": 128}
_SHORT = 12


@dataclass(frozen=True, slots=True)
class _TypedDigest:
    # The kinds are sibling classes, and the generated __eq__ compares classes: mypy refuses one
    # kind in place of another, and values of two kinds are never equal.
    algorithm: str
    hex: str

    def __post_init__(self) -> None:
        # Digests become path names, so no unchecked value may exist.
        if len(self.hex) != _HEX_LENGTH.get(self.algorithm) or self.hex.strip("0123456789abcdef"):
            raise _malformed(type(self), str(self))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the digest written as `text`.

        Source: image-spec descriptor.md, "Digests" and "Registered algorithms".

        :raises IntegrityError: unknown algorithm, or not lowercase hex of the exact length.
        """
        algorithm, colon, hex_digits = text.partition(":")
        if not colon:
            raise _malformed(cls, text)
        return cls(algorithm, hex_digits)

    @classmethod
    def of(cls, data: bytes) -> Self:
        """Return the SHA-256 digest of `data`."""
        import hashlib  # loads OpenSSL, which parsing does not need

        return cls("sha256", hashlib.sha256(data).hexdigest())

    @classmethod
    def recast(cls, other: _TypedDigest) -> Self:
        """Return `other` as a digest of this kind.

        Only for two kinds that identify the same bytes, such as the `Digest` of a config and the
        `ImageID` of its image.
        """
        return cls(other.algorithm, other.hex)

    @property
    def short(self) -> str:
        """The first twelve hex digits."""
        return self.hex[:_SHORT]

    def new_hash(self) -> _Hash:
        """Return a new hashlib object of this digest's algorithm."""
        import hashlib  # see of()

        return hashlib.new(self.algorithm)

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


class Digest(_TypedDigest):
    """The digest of bytes as stored or sent: a compressed layer, a manifest, a config."""

    __slots__ = ()


class DiffID(_TypedDigest):
    """The digest of a layer's uncompressed tar (image-spec config.md, "Layer DiffID")."""

    __slots__ = ()


class ChainID(_TypedDigest):
    """The digest of a layer and all layers below it (image-spec config.md, "Layer ChainID")."""

    __slots__ = ()


class ImageID(_TypedDigest):
    """The digest of an image's config (image-spec config.md, "ImageID")."""

    __slots__ = ()


def _malformed(kind: type[_TypedDigest], text: str) -> IntegrityError:
    want = "sha256 or sha512, ':' and lowercase hex"
    return IntegrityError(f"{kind.__name__}: got {quoted(text)}, want {want}")
