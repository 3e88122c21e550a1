"""Four kinds of content address, which look the same and must never be taken for each other.

In comes text such as ``sha256:6c3c…``, out comes a value of the one kind the caller asked for.
What the address points to is not known here.

    Digest    of the bytes as they are stored or sent: a compressed layer, a manifest, a config
    DiffID    of a layer's uncompressed tar
    ChainID   of a layer together with all the layers below it
    ImageID   of an image's config: the name of an image on this machine
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
class _Address:
    # Siblings under a private base, and the generated __eq__ compares classes: a checker
    # refuses one kind for another, and at run time two kinds are never equal.
    algorithm: str
    hex: str

    def __post_init__(self) -> None:
        # These become path names: no value exists that was not checked.
        if len(self.hex) != _HEX_LENGTH.get(self.algorithm) or self.hex.strip("0123456789abcdef"):
            raise _malformed(type(self), str(self))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the address written as `text`.

        :raises IntegrityError: unknown algorithm, or not lowercase hex of the exact length.
        Source: image-spec descriptor.md, "Digests" and "Registered algorithms".
        """
        algorithm, colon, hex_digits = text.partition(":")
        if not colon:
            raise _malformed(cls, text)
        return cls(algorithm, hex_digits)

    @classmethod
    def of(cls, data: bytes) -> Self:
        """Return the SHA-256 address of `data`."""
        import hashlib  # loads OpenSSL, which parsing an address has no use for

        return cls("sha256", hashlib.sha256(data).hexdigest())

    @classmethod
    def recast(cls, other: _Address) -> Self:
        """Return `other`'s bytes as an address of this kind.

        It is the one door between the kinds: say it where two of them are known to name the
        same bytes, as a config's `Digest` and the image's `ImageID` do.
        """
        return cls(other.algorithm, other.hex)

    @property
    def short(self) -> str:
        """The first twelve hex digits, for people."""
        return self.hex[:_SHORT]

    def new_hash(self) -> _Hash:
        """Return a fresh hashlib object of this address's algorithm."""
        import hashlib  # see of()

        return hashlib.new(self.algorithm)

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


class Digest(_Address):
    """Of bytes as stored or sent: a compressed layer, a manifest, a config."""

    __slots__ = ()


class DiffID(_Address):
    """Of a layer's uncompressed tar (image-spec config.md, "Layer DiffID")."""

    __slots__ = ()


class ChainID(_Address):
    """Of a layer and all layers below it (image-spec config.md, "Layer ChainID")."""

    __slots__ = ()


class ImageID(_Address):
    """Of an image's config document (image-spec config.md, "ImageID")."""

    __slots__ = ()


def _malformed(kind: type[_Address], text: str) -> IntegrityError:
    want = "sha256 or sha512, ':' and lowercase hex"
    return IntegrityError(f"{kind.__name__}: got {quoted(text)}, want {want}")
