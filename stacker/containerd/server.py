"""Serve the services over gRPC, on a Unix socket.

Messages of containerd's API come in; the services get plain values, and their results and status
codes go back.  grpclib runs in this process's event loop, and starts no thread.  This module must
not decide what a call means.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.empty_pb2 import Empty
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from stacker.containerd.generated import descriptor_pb2, diff_pb2, mount_pb2, snapshots_pb2
from stacker.containerd.generated.diff_grpc import DiffBase
from stacker.containerd.generated.snapshots_grpc import SnapshotsBase
from stacker.containerd.mounts import Mount
from stacker.containerd.status import Code, StatusError
from stacker.errors import StackerError
from stacker.image.descriptor import Descriptor
from stacker.image.digest import Digest

if TYPE_CHECKING:
    from grpclib.server import Stream

    from stacker.containerd.differ import Differ
    from stacker.containerd.metadata import Snapshot
    from stacker.containerd.snapshots import Snapshotter

_BATCH: Final = 100  # snapshots in a message of List
_SECOND: Final = 10**9


class SnapshotsService(SnapshotsBase):
    """The snapshots service of containerd's API.

    :param snapshotter: carries out the calls.
    """

    def __init__(self, snapshotter: Snapshotter) -> None:
        self._snapshotter = snapshotter

    async def Prepare(self, stream: Stream[Any, Any]) -> None:  # noqa: N802
        """Create an active snapshot."""
        await _answer(stream, self._prepare)

    async def _prepare(self, request: Any) -> Any:
        found = await self._snapshotter.prepare(request.key, request.parent, dict(request.labels))
        return snapshots_pb2.PrepareSnapshotResponse(mounts=_mounts(found))

    async def View(self, stream: Stream[Any, Any]) -> None:  # noqa: N802
        """Create a read-only snapshot."""
        await _answer(stream, self._view)

    async def _view(self, request: Any) -> Any:
        found = await self._snapshotter.view(request.key, request.parent, dict(request.labels))
        return snapshots_pb2.ViewSnapshotResponse(mounts=_mounts(found))

    async def Mounts(self, stream: Stream[Any, Any]) -> None:  # noqa: N802
        """Return the mounts of a snapshot."""
        await _answer(stream, self._mounts)

    async def _mounts(self, request: Any) -> Any:
        found = await self._snapshotter.mounts(request.key)
        return snapshots_pb2.MountsResponse(mounts=_mounts(found))

    async def Commit(self, stream: Stream[Any, Any]) -> None:  # noqa: N802
        """Turn an active snapshot into a committed one."""
        await _answer(stream, self._commit)

    async def _commit(self, request: Any) -> Any:
        labels = dict(request.labels)
        await self._snapshotter.commit(request.key, request.name, labels, request.parent)
        return Empty()

    async def Remove(self, stream: Stream[Any, Any]) -> None:  # noqa: N802
        """Remove a snapshot."""
        await _answer(stream, self._remove)

    async def _remove(self, request: Any) -> Any:
        await self._snapshotter.remove(request.key)
        return Empty()

    async def Stat(self, stream: Stream[Any, Any]) -> None:  # noqa: N802
        """Return a snapshot."""
        await _answer(stream, self._stat)

    async def _stat(self, request: Any) -> Any:
        found = await self._snapshotter.stat(request.key)
        return snapshots_pb2.StatSnapshotResponse(info=_info(found))

    async def Update(self, stream: Stream[Any, Any]) -> None:  # noqa: N802
        """Change the labels of a snapshot."""
        await _answer(stream, self._update)

    async def _update(self, request: Any) -> Any:
        info, paths = request.info, list(request.update_mask.paths)
        found = await self._snapshotter.update(info.name, dict(info.labels), paths)
        return snapshots_pb2.UpdateSnapshotResponse(info=_info(found))

    async def List(self, stream: Stream[Any, Any]) -> None:  # noqa: N802
        """Return the snapshots that match filters, in several messages."""
        request = await _received(stream)
        with _Translated():
            found = await self._snapshotter.select(request.filters)
        for start in range(0, len(found), _BATCH):
            part = [_info(each) for each in found[start : start + _BATCH]]
            await stream.send_message(snapshots_pb2.ListSnapshotsResponse(info=part))

    async def Usage(self, stream: Stream[Any, Any]) -> None:  # noqa: N802
        """Return what a snapshot occupies."""
        await _answer(stream, self._usage)

    async def _usage(self, request: Any) -> Any:
        size, inodes = await self._snapshotter.usage(request.key)
        return snapshots_pb2.UsageResponse(size=size, inodes=inodes)

    async def Cleanup(self, stream: Stream[Any, Any]) -> None:  # noqa: N802
        """Remove what killed processes have left."""
        await _answer(stream, self._cleanup)

    async def _cleanup(self, _request: Any) -> Any:
        await self._snapshotter.cleanup()
        return Empty()


class DiffService(DiffBase):
    """The diff service of containerd's API.

    :param differ: carries out the calls.
    """

    def __init__(self, differ: Differ) -> None:
        self._differ = differ

    async def Apply(self, stream: Stream[Any, Any]) -> None:  # noqa: N802
        """Unpack a layer."""
        await _answer(stream, self._apply)

    async def _apply(self, request: Any) -> Any:
        diff = request.diff
        blob = Descriptor(diff.media_type, Digest.parse(diff.digest), diff.size)
        mounts = [Mount(each.type, each.source, tuple(each.options)) for each in request.mounts]
        found = await self._differ.apply(blob, mounts)
        return diff_pb2.ApplyResponse(
            applied=descriptor_pb2.Descriptor(
                media_type=found.media_type, digest=str(found.digest), size=found.size
            )
        )

    async def Diff(self, stream: Stream[Any, Any]) -> None:  # noqa: N802
        """Leave the comparison of two snapshots to containerd's next differ."""
        await _received(stream)
        raise GRPCError(Status.UNIMPLEMENTED, "stacker makes no diffs: not implemented")


class _Translated:
    """Turn the errors of a service into gRPC's."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        match error:
            case StatusError():
                raise GRPCError(Status[error.code.name], error.message) from error
            case StackerError() | OSError():
                raise GRPCError(Status[Code.INTERNAL.name], str(error)) from error


async def _answer(stream: Stream[Any, Any], call: Callable[[Any], Awaitable[Any]]) -> None:
    request = await _received(stream)
    with _Translated():
        answer = await call(request)
    await stream.send_message(answer)


async def _received(stream: Stream[Any, Any]) -> Any:
    request = await stream.recv_message()
    if request is None:
        raise GRPCError(Status.INVALID_ARGUMENT, "got no request")
    return request


def _mounts(mounts: list[Mount]) -> list[mount_pb2.Mount]:
    return [
        mount_pb2.Mount(type=each.type, source=each.source, options=each.options) for each in mounts
    ]


def _info(snapshot: Snapshot) -> snapshots_pb2.Info:
    found = snapshots_pb2.Info(
        name=snapshot.key,
        parent=snapshot.parent,
        kind=snapshots_pb2.Kind.ValueType(int(snapshot.kind)),
        labels=dict(snapshot.labels),
    )
    for field, nanoseconds in (("created_at", snapshot.created), ("updated_at", snapshot.updated)):
        stamp = getattr(found, field)
        stamp.seconds, stamp.nanos = divmod(nanoseconds, _SECOND)
    return found
