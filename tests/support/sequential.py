"""A sequential applier: the meaning of a stack of layers, in memory and without the kernel.

It applies layers in turn to one tree: first a layer's whiteouts, which act on lower layers, then
its entries in order.  It shares no code with the package under test.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from tests.support.snapshot import Node as Seen

ITSELF = ""
"""The target of a pending hard link to itself; every other target has a name."""


class ImpossibleError(Exception):
    """The layers have no meaning, for example because of a link without a target."""


class OwnLoopError(ImpossibleError):
    """Symbolic links of one layer form a loop; its author can know that."""


@dataclass(frozen=True)
class Item:
    """One entry of a layer, as a test writes it.

    ``kind``: file, directory, symlink, link, fifo, whiteout or opaque.
    """

    kind: str
    path: str
    data: bytes = b""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    xattrs: tuple[tuple[str, bytes], ...] = ()


@dataclass(eq=False)
class Inode:
    kind: str
    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    data: bytes = b""
    xattrs: tuple[tuple[str, bytes], ...] = ()
    layer: int = -1
    explicit: bool = False
    children: dict[str, Inode] = field(default_factory=dict)


Path = tuple[str, ...]


def parts(path: str) -> Path:
    return tuple(part for part in path.split("/") if part)


class Sequential:
    def __init__(self) -> None:
        self.root = Inode("directory")
        self.now = -1
        self.brought: set[Path] = set()
        self.pending: dict[tuple[Inode, str], str] = {}

    def apply(self, layer: Sequence[Item]) -> None:
        self.now += 1
        self.pending.clear()
        self.brought = {parts(i.path) for i in layer if i.kind == "directory"}
        self._whiteouts(layer)
        for item in layer:
            if item.kind not in ("whiteout", "opaque"):
                self._entry(item)
        self._late_links()

    # -- whiteouts --------------------------------------------------------------------------

    def _whiteouts(self, layer: Sequence[Item]) -> None:
        hidden = {parts(i.path) for i in layer if i.kind == "whiteout"}
        emptied = {parts(i.path) for i in layer if i.kind == "opaque"}
        hidden, emptied = _effective(hidden, emptied)
        hidden = {(*self._led(path[:-1]), path[-1]) for path in hidden}
        emptied = {self._led(path) for path in emptied}
        hidden, emptied = _effective(hidden, emptied)
        for path in sorted(emptied):
            found = self._at(path)
            if found is not None and found.kind == "directory":
                found.children.clear()
        for path in sorted(hidden):
            parent = self._at(path[:-1])
            if parent is not None and parent.kind == "directory":
                parent.children.pop(path[-1], None)
        for path in sorted(emptied | {path[:-1] for path in hidden}):
            self._directories(path)

    # -- paths ------------------------------------------------------------------------------

    def _at(self, path: Path) -> Inode | None:
        node: Inode | None = self.root
        for name in path:
            if node is None or node.kind != "directory":
                return None
            node = node.children.get(name)
        return node

    def _led(self, path: Path) -> Path:
        """Resolve symbolic links inside the root; keep names that do not exist."""
        todo, at, links = list(path)[::-1], tuple[str, ...](), 0
        is_own = True
        while todo:
            name = todo.pop()
            if name == "..":
                at = at[:-1]
                continue
            node = self._at((*at, name))
            if node is None or node.kind != "symlink" or self._is_replaced(node, (*at, name)):
                at = (*at, name)
                continue
            links += 1
            is_own &= node.layer == self.now
            if links > 40:
                raise OwnLoopError if is_own else ImpossibleError("loop")
            target = node.data.decode()
            if target.startswith("/"):
                at = ()
            todo += [part for part in target.split("/") if part not in ("", ".")][::-1]
        return at

    def _is_replaced(self, node: Inode, path: Path) -> bool:
        """Return whether the layer replaces a lower layer's link by a directory."""
        return node.layer < self.now and path in self.brought

    def _directories(self, path: Path) -> Inode:
        node = self.root
        for name in path:
            if self.pending.pop((node, name), ITSELF) != ITSELF:
                raise ImpossibleError("a path below a hard link to another layer")
            inner = node.children.get(name)
            if inner is None or inner.kind != "directory":
                inner = node.children[name] = Inode("directory", layer=self.now)
            node = inner
        return node

    # -- entries ----------------------------------------------------------------------------

    def _entry(self, item: Item) -> None:
        path = parts(item.path)
        if not path:
            self._set(self.root, item)
            return
        parent = self._directories(self._led(path[:-1]))
        name = path[-1]
        if item.kind == "link":
            self._link(parent, name, path, item)
            return
        self.pending.pop((parent, name), None)
        there = parent.children.get(name)
        if item.kind == "directory" and there is not None and there.kind == "directory":
            self._set(there, item)
            return
        self._drop(parent, name)
        parent.children[name] = made = Inode(item.kind, data=item.data, layer=self.now)
        self._set(made, item)

    def _drop(self, parent: Inode, name: str) -> None:
        """Remove a name and the pending hard links below it."""
        gone = parent.children.pop(name, None)
        if gone is None:
            return
        lost = {id(node) for _, node in self._walk(b"", gone)}
        for slot in [slot for slot in self.pending if id(slot[0]) in lost]:
            del self.pending[slot]

    def _set(self, node: Inode, item: Item) -> None:
        node.mode, node.uid, node.gid = item.mode, item.uid, item.gid
        node.mtime, node.xattrs, node.layer = item.mtime, item.xattrs, self.now
        node.explicit = True

    def _target(self, target: str) -> tuple[Inode | None, Inode | None, str]:
        path = parts(target)
        try:
            parent = self._at(self._led(path[:-1]))
        except OwnLoopError:
            raise
        except ImpossibleError:
            parent = None  # a link may dangle if a later entry replaces it
        if parent is None or parent.kind != "directory":
            return None, None, path[-1]
        return parent, parent.children.get(path[-1]), path[-1]

    def _link(self, parent: Inode, name: str, path: Path, item: Item) -> None:
        target = item.data.decode()
        above, found, target_name = self._target(target)
        if above is parent and target_name == name:
            if found is None:
                self.pending.setdefault((parent, name), ITSELF)
            return
        if parts(target)[: len(path)] == path:
            raise ImpossibleError("a link to something below it")
        if found is not None and self._is_own(found) and found.kind == "directory":
            raise ImpossibleError("link to a directory")
        self._drop(parent, name)
        self.pending.pop((parent, name), None)
        _, found, _ = self._target(target)
        if found is not None and self._is_own(found):
            parent.children[name] = found
        else:
            self.pending[parent, name] = target

    def _is_own(self, node: Inode) -> bool:
        """Return whether the layer has an entry for it; an implied directory has none."""
        return node.layer == self.now and node.explicit

    def _late_links(self) -> None:
        moved = True
        while moved:
            moved = False
            for (parent, name), target in list(self.pending.items()):
                if target == ITSELF:
                    continue
                _, found, _ = self._target(target)
                if found is None:
                    continue
                if found.kind == "directory":
                    raise ImpossibleError("link to a directory")
                parent.children[name] = found
                del self.pending[parent, name]
                moved = True
        if self.pending:
            raise ImpossibleError("link to nothing")

    # -- result -----------------------------------------------------------------------------

    def snapshot(self) -> dict[bytes, Seen]:
        """Return what :func:`tests.support.snapshot.snapshot` would return."""
        nodes = dict(self._walk(b"", self.root))
        groups: dict[int, list[bytes]] = {}
        for path, node in nodes.items():
            if node.kind != "directory":
                groups.setdefault(id(node), []).append(path)
        return {
            path: Seen(
                kind=node.kind,
                mode=0o777 if node.kind == "symlink" else node.mode,
                owner=(node.uid, node.gid),
                mtime=node.mtime,
                size=len(node.data) if node.kind in ("file", "symlink") else 0,
                content=node.data if node.kind in ("file", "symlink") else b"",
                device=0,
                xattrs=_kept(node),
                group=tuple(sorted(groups.get(id(node), [path]))),
            )
            for path, node in sorted(nodes.items())
        }

    def _walk(self, path: bytes, node: Inode) -> Iterator[tuple[bytes, Inode]]:
        yield path, node
        for name, child in node.children.items():
            yield from self._walk((path + b"/" if path else b"") + name.encode(), child)


def _kept(node: Inode) -> tuple[tuple[str, bytes], ...]:
    if node.kind in ("file", "directory"):
        return tuple(sorted(node.xattrs))
    return tuple(sorted((k, v) for k, v in node.xattrs if not k.startswith("user.")))


def _effective(hidden: set[Path], emptied: set[Path]) -> tuple[set[Path], set[Path]]:
    def matters(path: Path) -> bool:
        above = [path[:n] for n in range(len(path))]
        return not any(a in emptied or a in hidden for a in above)

    return {p for p in hidden if matters(p)}, {p for p in emptied if matters(p)}


def squashed(seen: dict[bytes, Seen], owner: tuple[int, int]) -> dict[bytes, Seen]:
    """Return a snapshot in which one user owns every file."""
    return {path: replace(node, owner=owner) for path, node in seen.items()}
