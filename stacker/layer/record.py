"""The record of an unpacked layer: the content of ``layer.json``.

:func:`~stacker.layer.apply.apply` and :func:`~stacker.layer.apply_index.apply_to_index` make a
record, a commit writes it, and a stack reads it (docs/reference/on-disk.md).
Paths in JSON are UTF-8, with other bytes as lone surrogates (PEP 383), so that every name survives.
This module must not touch the layer's tree.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from stacker.errors import IntegrityError, UnsupportedError, json_fault
from stacker.layer.paths import FORMS, Form
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.tar.entry import HardLink

VERSION = 1


class Replacement(NamedTuple):
    """Entry number ``entry`` replaced ``path``; the old file is ``replaced/<number>``."""

    entry: int
    path: bytes
    number: int


@dataclass(frozen=True, slots=True)
class LayerRecord:
    """One unpacked layer.

    :param whiteout_format: how deletions are written in it.
    :param form: how the layer was stored first; ``tree`` as soon as it has a tree.
    :param squashed: the process that unpacked it owns every file.
    :param entries: the number of entries in the tar stream.
    :param files: the number of regular files among them.
    :param file_bytes: the sum of their sizes in bytes.
    :param tar_bytes: the length of the uncompressed stream.
    :param whiteouts: the number of character devices 0:0 in the tree.
    :param whiteout_parents: the directories with these devices.
    :param opaque: the directories marked opaque.
    :param implied: the directories without an entry.
    :param assumed: paths that have entries below them, but no directory entry.  If a
        lower layer has a symbolic link at one, this layer is applied again.
    :param deferred_links: hard links with a target outside this layer, in stream order.
    :param stranded: paths of whiteouts below a non-directory of this layer.  They matter only if a
        lower layer has a symbolic link there.
    :param stranded_opaque: the same for opaque whiteouts.
    :param escaped_xattrs: the tree has overlayfs's xattr names as data, escaped.
    :param moved: the physical path of each file whose name in the tar leads through a symbolic
        link, by entry number.
    :param replacements: what later entries replaced, in order.
    :param blobs: the digests of the compressed blobs that this layer was unpacked from.
    :param warnings: what was omitted for lack of filesystem support or privileges.
    """

    whiteout_format: WhiteoutFormat
    form: Form = "tree"
    squashed: bool = False
    entries: int = 0
    files: int = 0
    file_bytes: int = 0
    tar_bytes: int = 0
    whiteouts: int = 0
    whiteout_parents: frozenset[bytes] = frozenset()
    opaque: frozenset[bytes] = frozenset()
    implied: frozenset[bytes] = frozenset()
    assumed: frozenset[bytes] = frozenset()
    deferred_links: tuple[HardLink, ...] = ()
    stranded: tuple[bytes, ...] = ()
    stranded_opaque: tuple[bytes, ...] = ()
    escaped_xattrs: bool = False
    moved: Mapping[int, bytes] = field(default_factory=dict)
    replacements: tuple[Replacement, ...] = ()
    blobs: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def is_plain(self) -> bool:
        """Whether a bind mount exposes the tree correctly, so that overlayfs is not needed."""
        return not (self.whiteouts or self.opaque or self.escaped_xattrs)

    def with_blob(self, blob: str, tar_bytes: int) -> LayerRecord:
        """Return the record with a blob's digest and the length of the stream."""
        return replace(self, blobs=(*self.blobs, blob), tar_bytes=tar_bytes)

    def as_other_form_of(self, other: LayerRecord) -> LayerRecord:
        """Return the record of a layer that has this form and the one of ``other``.

        Only the record of a tree says what was moved and replaced.
        """
        tree = self if self.form == "tree" else other
        warnings = dict.fromkeys((*self.warnings, *other.warnings))
        return replace(tree, blobs=other.blobs, tar_bytes=other.tar_bytes, warnings=tuple(warnings))

    def without_form(self, form: Form) -> LayerRecord:
        """Return the record of a layer that has only the other form."""
        if form == "tree":
            return replace(self, form="erofs", moved={}, replacements=())
        return replace(self, form="tree")

    def to_json(self) -> bytes:
        """Return the content of ``layer.json``."""
        return json.dumps(
            {
                "version": VERSION,
                "form": self.form,
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
                "whiteoutHolders": _texts(sorted(self.whiteout_parents)),
                "opaque": _texts(sorted(self.opaque)),
                "implied": _texts(sorted(self.implied)),
                "assumed": _texts(sorted(self.assumed)),
                "deferredLinks": [_texts((d.path, d.target)) for d in self.deferred_links],
                "stranded": _texts(self.stranded),
                "strandedOpaque": _texts(self.stranded_opaque),
                "escapedXattrs": self.escaped_xattrs,
                "placed": {str(at): _text(path) for at, path in self.moved.items()},
                "displaced": [[r.entry, _text(r.path), r.number] for r in self.replacements],
                "warnings": list(self.warnings),
            },
            separators=(",", ":"),
        ).encode()

    @classmethod
    def from_json(cls, raw: bytes, what: str) -> LayerRecord:
        """Parse ``layer.json``.

        :param what: the name of the file in errors.
        :raises UnsupportedError: the version or the form is unknown.
        :raises IntegrityError: the content is damaged.
        """
        try:
            data: dict[str, Any] = json.loads(raw)
            version, form = data["version"], data["form"]
            if version != VERSION or form not in FORMS:
                raise UnsupportedError(
                    f"unknown layer record: {what}: got version {version} of form {form!r}, "
                    f"want version {VERSION} of form {' or '.join(map(repr, FORMS))}",
                    hint="update stacker: a newer version wrote this store",
                )
            return cls._from_data(data)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise IntegrityError(
                f"damaged layer record: {what}: got {json_fault(error)}, want a layer record",
                hint="remove the images that have this layer (`stacker rm`), and pull them again",
            ) from error

    @classmethod
    def _from_data(cls, data: dict[str, Any]) -> LayerRecord:
        counts = data["counts"]
        return cls(
            whiteout_format=WhiteoutFormat(data["whiteoutFormat"]),
            form=data["form"],
            squashed=data["idMap"] == "squash",
            entries=counts["entries"],
            files=counts["files"],
            file_bytes=counts["fileBytes"],
            tar_bytes=counts["tarBytes"],
            whiteouts=counts["whiteouts"],
            whiteout_parents=frozenset(_names(data["whiteoutHolders"])),
            opaque=frozenset(_names(data["opaque"])),
            implied=frozenset(_names(data["implied"])),
            assumed=frozenset(_names(data["assumed"])),
            deferred_links=tuple(HardLink(*_names(pair)) for pair in data["deferredLinks"]),
            stranded=_names(data["stranded"]),
            stranded_opaque=_names(data["strandedOpaque"]),
            escaped_xattrs=data["escapedXattrs"],
            moved={int(at): _name(path) for at, path in data["placed"].items()},
            replacements=tuple(
                Replacement(entry, _name(path), number) for entry, path, number in data["displaced"]
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
