"""A writable tree in a mount with other owners than those on disk.

Requests come in, and become calls of `stacker.tree.writable.WritableTree`, as in
`stacker.fuse.read_write`.  This module maps owners and groups in both directions, and must not
decide what a write does.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from stacker.fuse.read_write import WritableAdapter
from stacker.linux import process
from stacker.tree.creation import Caller

if TYPE_CHECKING:
    from stacker.fuse.options import FuseOptions
    from stacker.tree.protocol import Node, Status
    from stacker.tree.writable import WritableTree


class MappedOwnersAdapter(WritableAdapter):
    """Maps the IDs of the mount to those on disk, and back.

    There are no POSIX ACLs, since their entries name owners on disk.

    If all files have one owner, chown(2) succeeds without effect, as it does with fuse-overlayfs.

    :param tree: this adapter is its only user.
    :param options: the map of owners and groups.
    """

    def __init__(self, tree: WritableTree, options: FuseOptions) -> None:
        super().__init__(tree)
        self._users, self._groups = options.users, options.groups
        self._squashed = options.is_squashed
        self._status = self._mapped_status
        self._creator: Caller | None = None
        if self._squashed and (os.geteuid() or not process.in_initial_user_namespace()):
            # This process cannot create files of other users.
            self._creator = Caller(os.geteuid(), os.getegid())

    def _mapped_status(self, node: Node) -> Status:
        status = self._files.status(node)
        return status._replace(
            uid=self._users.in_mount(status.uid), gid=self._groups.in_mount(status.gid)
        )

    def _change_owner(self, node: Node, uid: int, gid: int) -> None:
        user = uid if uid < 0 else self._users.on_disk(uid)
        group = gid if gid < 0 else self._groups.on_disk(gid)
        if not self._squashed:
            self._files.change_owner(node, user, group)
            return
        with suppress(OSError):
            self._files.change_owner(node, user, group)

    def _caller(self, request: bytes, umask: int = 0) -> Caller:
        if self._creator is not None:
            return self._creator
        uid, gid, umask = super()._caller(request, umask)
        return Caller(self._users.on_disk(uid), self._groups.on_disk(gid), umask)
