"""Containerd's diff service, without a transport: unpack layers into the store.

The descriptor of a blob and the mounts of a snapshot come in; the descriptor of the uncompressed
tar goes out.  UNIMPLEMENTED makes containerd try its next differ.  This module must not know gRPC.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from stacker.containerd.layers import Applied, ApplyTask, apply_layer
from stacker.containerd.mounts import Mount
from stacker.containerd.snapshots import Snapshotter
from stacker.containerd.status import Code, StatusError
from stacker.containerd.workers import Workers
from stacker.errors import NotFoundError
from stacker.image.descriptor import Descriptor

PLAIN_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"


class Differ:
    """Unpacks layers for the snapshots of one snapshotter.

    :param content: the directory of containerd's content store; it is only read.
    """

    def __init__(self, snapshotter: Snapshotter, workers: Workers, content: Path) -> None:
        self._snapshotter = snapshotter
        self._workers = workers
        self._content = content

    async def apply(self, blob: Descriptor, mounts: Sequence[Mount]) -> Descriptor:
        """Unpack a layer into the store unless it is there, for the snapshot of mounts.

        :raises StatusError: UNIMPLEMENTED for the snapshot of another snapshotter, for a snapshot
            above one that is not a layer of the store, and for an encrypted layer.
        :raises IntegrityError: the blob does not match its digest.
        :raises LayerError: the layer is malformed or hostile, or exceeds a limit.
        """
        snapshot = self._snapshotter.of_mounts(mounts)
        if snapshot is None:
            raise StatusError(Code.UNIMPLEMENTED, "not a snapshot of stacker: not implemented")
        if not self._snapshotter.has_layers_only(snapshot.parent):
            raise StatusError(
                Code.UNIMPLEMENTED,
                f"a parent of snapshot {snapshot.key} is not a layer of the store: not implemented",
            )
        if "encrypted" in blob.media_type:
            raise StatusError(Code.UNIMPLEMENTED, "an encrypted layer: not implemented")
        applied = await self._apply(snapshot.id, blob)
        return Descriptor(PLAIN_LAYER, applied.diff_id_as_digest, applied.size)

    async def _apply(self, number: int, blob: Descriptor) -> Applied:
        directories = self._snapshotter.directories
        task = ApplyTask(self._snapshotter.store, directories.database, number, self._content, blob)
        try:
            return await self._workers.run(apply_layer, task, f"blob {blob.digest}")
        except NotFoundError as error:
            raise StatusError(Code.NOT_FOUND, f"{error}: not found") from error
