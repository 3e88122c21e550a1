"""What is known about an unpacked layer: the value behind ``layer.json``.

Written once, when the layer is committed; read when a stack is made.  Knows the file's form
(docs/reference/on-disk.md) and no directory.  Paths in JSON are text: UTF-8, with other bytes as
lone surrogates (PEP 383), so that any name comes back as it was.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from stacker.errors import IntegrityError, UnsupportedError
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.tar.entry import HardLink

VERSION = 1


class Displacement(NamedTuple):
    """Entry number ``at`` replaced ``path``; what stood there is now in ``replaced/<aside>``."""

    at: int
    path: bytes
    aside: int


@dataclass(frozen=True, slots=True)
class LayerRecord:
    """One unpacked layer.

    :param whiteout_format: how deletions are written in it.
    :param squashed: the owner of every file is whoever unpacked it.
    :param entries: entries of the tar stream.
    :param files: regular files among them, ``file_bytes`` their sizes added up.
    :param tar_bytes: length of the uncompressed stream.
    :param whiteouts: char devices 0:0 in the tree, ``whiteout_holders`` the directories they
        lie in; ``opaque`` the directories marked so.
    :param implied: directories without an entry of their own.
    :param assumed: directories, there or replaced since, that something was put into without
        their having an entry; where a lower layer has a symbolic link instead, this layer must
        be applied anew.
    :param deferred_links: links whose target is not in this layer, in the order of the stream.
    :param stranded: whiteouts below something of this layer that is no directory, as the
        names in the stream; they can only matter where a lower layer has a symbolic link.
    :param stranded_opaque: the same for opaque whiteouts.
    :param escaped_xattrs: the tree holds overlayfs names as data, escaped.
    :param placed: entries that landed elsewhere than their name says, by number.
    :param displaced: what later entries replaced, in order.
    :param blobs: digests of the compressed blobs this layer was unpacked from.
    :param warnings: what the filesystem or the lack of privileges left out.
    """

    whiteout_format: WhiteoutFormat
    squashed: bool = False
    entries: int = 0
    files: int = 0
    file_bytes: int = 0
    tar_bytes: int = 0
    whiteouts: int = 0
    whiteout_holders: frozenset[bytes] = frozenset()
    opaque: frozenset[bytes] = frozenset()
    implied: frozenset[bytes] = frozenset()
    assumed: frozenset[bytes] = frozenset()
    deferred_links: tuple[HardLink, ...] = ()
    stranded: tuple[bytes, ...] = ()
    stranded_opaque: tuple[bytes, ...] = ()
    escaped_xattrs: bool = False
    placed: Mapping[int, bytes] = field(default_factory=dict)
    displaced: tuple[Displacement, ...] = ()
    blobs: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def is_plain(self) -> bool:
        """Whether the tree can be shown as it is, without overlayfs to read its marks."""
        return not (self.whiteouts or self.opaque or self.escaped_xattrs)

    def seen_as(self, blob: str, tar_bytes: int) -> LayerRecord:
        """Give the record with the blob's digest and the stream's length filled in."""
        return replace(self, blobs=(*self.blobs, blob), tar_bytes=tar_bytes)

    def to_json(self) -> bytes:
        """Give the content of ``layer.json``."""
        return json.dumps(
            {
                "version": VERSION,
                "form": "tree",
                "whiteoutFormat": self.whiteout_format.value,
                "idMap": "squash" if self.squashed else "identity",
                "blobs": list(self.blobs),
                "counts": {
                    "entries": self.entries,
                    "files": self.files,
                    "fileBytes": self.file_bytes,
                    "tarBytes": self.tar_bytes,
                    "whiteouts": self.whiteouts,
                },
                "whiteoutHolders": _texts(sorted(self.whiteout_holders)),
                "opaque": _texts(sorted(self.opaque)),
                "implied": _texts(sorted(self.implied)),
                "assumed": _texts(sorted(self.assumed)),
                "deferredLinks": [_texts((d.path, d.target)) for d in self.deferred_links],
                "stranded": _texts(self.stranded),
                "strandedOpaque": _texts(self.stranded_opaque),
                "escapedXattrs": self.escaped_xattrs,
                "placed": {str(at): _text(path) for at, path in self.placed.items()},
                "displaced": [[d.at, _text(d.path), d.aside] for d in self.displaced],
                "warnings": list(self.warnings),
            },
            separators=(",", ":"),
        ).encode()

    @classmethod
    def from_json(cls, raw: bytes, what: str) -> LayerRecord:
        """Read ``layer.json``.

        :raises UnsupportedError: another version or form of the store wrote it.
        :raises IntegrityError: it is damaged.
        """
        try:
            data: dict[str, Any] = json.loads(raw)
            version, form = data["version"], data["form"]
            if version != VERSION or form != "tree":
                raise UnsupportedError(
                    f"unknown layer record: {what}: got version {version} of form {form!r}, "
                    f"want version {VERSION} of form 'tree'",
                    hint="this store was written by a newer stacker",
                )
            return cls._from_data(data)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise IntegrityError(
                f"damaged layer record: {what}: {error}",
                hint="remove the images that have this layer (`stacker rm`), and pull them again",
            ) from error

    @classmethod
    def _from_data(cls, data: dict[str, Any]) -> LayerRecord:
        counts = data["counts"]
        return cls(
            whiteout_format=WhiteoutFormat(data["whiteoutFormat"]),
            squashed=data["idMap"] == "squash",
            entries=counts["entries"],
            files=counts["files"],
            file_bytes=counts["fileBytes"],
            tar_bytes=counts["tarBytes"],
            whiteouts=counts["whiteouts"],
            whiteout_holders=frozenset(_names(data["whiteoutHolders"])),
            opaque=frozenset(_names(data["opaque"])),
            implied=frozenset(_names(data["implied"])),
            assumed=frozenset(_names(data["assumed"])),
            deferred_links=tuple(HardLink(*_names(pair)) for pair in data["deferredLinks"]),
            stranded=_names(data["stranded"]),
            stranded_opaque=_names(data["strandedOpaque"]),
            escaped_xattrs=data["escapedXattrs"],
            placed={int(at): _name(path) for at, path in data["placed"].items()},
            displaced=tuple(
                Displacement(at, _name(path), aside) for at, path, aside in data["displaced"]
            ),
            blobs=tuple(data["blobs"]),
            warnings=tuple(data["warnings"]),
        )


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _name(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _texts(names: Sequence[bytes]) -> list[str]:
    return [_text(name) for name in names]


def _names(texts: Sequence[str]) -> tuple[bytes, ...]:
    return tuple(_name(text) for text in texts)
