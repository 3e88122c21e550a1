"""Image configs: how to run an image, its diff_ids, and the chain IDs that follow from them.

The bytes of a config come in; an `ImageConfig`, chain IDs, and pairs of blobs and diff_ids go out.
This module does not verify digests or start processes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stacker.errors import IntegrityError, UnsupportedError
from stacker.image.digest import ChainID, DiffID
from stacker.image.document import (
    objects,
    optional,
    parse_object,
    quoted,
    required,
    string_map,
    strings,
)
from stacker.image.platform import Platform

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from stacker.image.descriptor import Descriptor
    from stacker.image.manifest import Manifest


@dataclass(frozen=True, slots=True)
class History:
    """One build step of an image; `empty_layer` marks a step without a layer."""

    created: str | None = None
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


@dataclass(frozen=True, slots=True)
class Execution:
    """How to start a process from the image (image-spec config.md, "config")."""

    user: str = ""
    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    working_dir: str = ""
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    exposed_ports: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    stop_signal: str = ""


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """The config of an image (image-spec config.md); `diff_ids` are the layers, base first."""

    platform: Platform
    diff_ids: tuple[DiffID, ...]
    history: tuple[History, ...] = ()
    created: str | None = None
    author: str = ""
    execution: Execution = field(default_factory=Execution)
    os_features: tuple[str, ...] = ()


def parse_config(raw: bytes, what: str) -> ImageConfig:
    """Return the image config in `raw`; a null field, which Docker writes, counts as absent.

    Source: image-spec config.md, "Properties"; Docker's image JSON is the same document.

    :param what: the document's name for messages.
    :raises IntegrityError: malformed, over `DOCUMENT_LIMIT`, or a field of the wrong type.
    :raises UnsupportedError: `rootfs.type` is not ``layers``.
    """
    members = parse_object(raw, what)
    return ImageConfig(
        Platform.from_json(members, what),
        _diff_ids(required(members, "rootfs", dict, what), f"{what}: rootfs"),
        tuple(
            _history(step, f"{what}: history[{i}]")
            for i, step in enumerate(objects(members, "history", what))
        ),
        optional(members, "created", str, what),
        optional(members, "author", str, what) or "",
        _execution(optional(members, "config", dict, what) or {}, f"{what}: config"),
        strings(members, "os.features", what),
    )


def chain_ids(diff_ids: Sequence[DiffID]) -> tuple[ChainID, ...]:
    """Return the chain ID of each layer of `diff_ids`, base first.

    The base layer's chain ID is its diff_id.  Any other one is the digest of the chain ID below,
    a space and the layer's diff_id (image-spec config.md, "Layer ChainID").
    """
    chains: list[ChainID] = []
    for diff_id in diff_ids:
        if chains:
            chains.append(ChainID.of(f"{chains[-1]} {diff_id}".encode()))
        else:
            chains.append(ChainID.recast(diff_id))
    return tuple(chains)


def pair_layers(manifest: Manifest, config: ImageConfig) -> tuple[tuple[Descriptor, DiffID], ...]:
    """Return each layer's descriptor with its diff_id, base first.

    Source: image-spec config.md, "rootfs": diff_ids have the order of the layers.

    :raises IntegrityError: the two documents list different numbers of layers.
    """
    layers, diff_ids = len(manifest.layers), len(config.diff_ids)
    if layers != diff_ids:
        raise IntegrityError(
            f"wrong number of layers: image {manifest.image_id}: got {layers} in the manifest, "
            f"want {diff_ids} as in the config's diff_ids"
        )
    return tuple(zip(manifest.layers, config.diff_ids, strict=True))


def _diff_ids(rootfs: dict[str, object], where: str) -> tuple[DiffID, ...]:
    kind = required(rootfs, "type", str, where)
    if kind != "layers":
        raise UnsupportedError(f"{where}: type: got {quoted(kind)}, want 'layers'")
    # Docker omits the list if an image has no layers.
    return tuple(
        _diff_id(text, f"{where}: diff_ids[{i}]")
        for i, text in enumerate(strings(rootfs, "diff_ids", where))
    )


def _diff_id(text: str, where: str) -> DiffID:
    try:
        return DiffID.parse(text)
    except IntegrityError as error:
        raise IntegrityError(f"{where}: {error.message}") from None


def _history(members: dict[str, object], where: str) -> History:
    return History(
        optional(members, "created", str, where),
        optional(members, "created_by", str, where) or "",
        optional(members, "author", str, where) or "",
        optional(members, "comment", str, where) or "",
        optional(members, "empty_layer", bool, where) or False,
    )


def _execution(members: dict[str, object], where: str) -> Execution:
    return Execution(
        optional(members, "User", str, where) or "",
        strings(members, "Env", where),
        _words(members, "Entrypoint", where),
        _words(members, "Cmd", where),
        optional(members, "WorkingDir", str, where) or "",
        string_map(members, "Labels", where),
        tuple(optional(members, "ExposedPorts", dict, where) or ()),
        tuple(optional(members, "Volumes", dict, where) or ()),
        optional(members, "StopSignal", str, where) or "",
    )


def _words(members: dict[str, object], name: str, where: str) -> tuple[str, ...]:
    # Docker also accepts a string in place of a list with one string.
    value = members.get(name)
    return (value,) if isinstance(value, str) else strings(members, name, where)
