"""Directories of other programs: their whiteouts are applied and never exposed."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.tree.creation import Caller
from stacker.tree.merged import merge
from stacker.tree.whiteout_dialects import ForeignDialect, hidden_by, is_reserved
from stacker.tree.writable import WritableTree
from tests.support.merged import tree_snapshot
from tests.support.snapshot import Node as Seen
from tests.support.stacks import scratch

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="writes trusted.*: needs root")
FORMAT = ForeignDialect(WhiteoutFormat.TRUSTED)
OPAQUE = ("trusted.overlay.opaque", "user.overlay.opaque", "user.fuseoverlayfs.opaque")


def device(directory: Path, name: str) -> None:
    os.mknod(directory / name, stat.S_IFCHR)


def aufs(directory: Path, name: str) -> None:
    (directory / f".wh.{name}").touch()


def trusted_file(directory: Path, name: str) -> None:
    os.setxattr(directory, "trusted.overlay.opaque", b"x")
    (directory / name).touch()
    os.setxattr(directory / name, "trusted.overlay.whiteout", b"y")


def user_file(directory: Path, name: str) -> None:
    os.setxattr(directory, "user.overlay.opaque", b"x")
    (directory / name).touch()
    os.setxattr(directory / name, "user.overlay.whiteout", b"")


WHITEOUTS = [device, aufs, trusted_file, user_file]


def aufs_opaque(directory: Path) -> None:
    (directory / ".wh..wh..opq").touch()


def marked(name: str) -> Callable[[Path], None]:
    return lambda directory: os.setxattr(directory, name, b"y")


OPAQUES = [aufs_opaque, *map(marked, OPAQUE)]


@pytest.fixture
def workspace() -> Iterator[Path]:
    with scratch() as directory:
        (directory / "low/d/e").mkdir(parents=True)
        (directory / "low/d/e/deep").write_bytes(b"deep")
        (directory / "low/d/f").write_bytes(b"lower")
        (directory / "low/top").write_bytes(b"top")
        (directory / "up/d").mkdir(parents=True)
        (directory / "work").mkdir()
        yield directory


class Both:
    """The same directories in two ways: all read-only, or the top one writable."""

    def __init__(self, workspace: Path, *, writing: bool) -> None:
        self.workspace, self.writing = workspace, writing

    def names(self) -> list[str]:
        if not self.writing:
            return printable(snapshot(self.workspace, "up", "low"))
        tree = writable(self.workspace)
        try:
            return sorted(walk(tree, 0, ""))
        finally:
            tree.close()


def snapshot(workspace: Path, *names: str) -> dict[bytes, Seen]:
    return tree_snapshot(merge([workspace / name for name in names], FORMAT))


def printable(found: dict[bytes, Seen]) -> list[str]:
    return sorted(path.decode() for path in found if path)


def writable(workspace: Path) -> WritableTree:
    lower = merge([workspace / "low"], FORMAT)
    return WritableTree(lower, FORMAT, workspace / "up", workspace / "work", durable=False)


def walk(tree: WritableTree, node: int, path: str) -> Iterator[str]:
    for _, name, inode in tree.entries(node, 0):
        inner = f"{path}{name.decode()}"
        yield inner
        if tree.kind(inode) == stat.S_IFDIR:
            yield from walk(tree, inode, f"{inner}/")


@pytest.fixture(params=[False, True], ids=["reading", "writing"])
def both(request: pytest.FixtureRequest, workspace: Path) -> Both:
    return Both(workspace, writing=request.param)


@pytest.mark.parametrize("hide", WHITEOUTS)
def test_whiteout_of_any_dialect_hides_a_file(
    both: Both, hide: Callable[[Path, str], None]
) -> None:
    hide(both.workspace / "up/d", "f")
    assert both.names() == ["d", "d/e", "d/e/deep", "top"]


@pytest.mark.parametrize("hide", WHITEOUTS)
def test_whiteout_of_any_dialect_hides_a_directory(
    both: Both, hide: Callable[[Path, str], None]
) -> None:
    hide(both.workspace / "up/d", "e")
    assert both.names() == ["d", "d/f", "top"]


@pytest.mark.parametrize("hide", [device, aufs])
def test_whiteout_hides_in_the_root(both: Both, hide: Callable[[Path, str], None]) -> None:
    hide(both.workspace / "up", "top")
    assert both.names() == ["d", "d/e", "d/e/deep", "d/f"]


@pytest.mark.parametrize("empty", OPAQUES)
def test_opaque_directory_of_any_dialect_hides_lower_entries(
    both: Both, empty: Callable[[Path], None]
) -> None:
    empty(both.workspace / "up/d")
    (both.workspace / "up/d/new").touch()
    assert both.names() == ["d", "d/new", "top"]


def test_opaque_root_hides_all_lower_entries(both: Both) -> None:
    aufs_opaque(both.workspace / "up")
    assert both.names() == ["d"]


def test_name_beside_its_own_whiteout_is_visible(both: Both) -> None:
    aufs(both.workspace / "up", "top")
    (both.workspace / "up/top").write_bytes(b"new")
    aufs(both.workspace / "up", "d")
    assert both.names() == ["d", "top"]


@pytest.mark.parametrize("name", [".wh.", ".wh..", ".wh...", ".wh..wh.plnk", ".wh..wh.aufs"])
def test_reserved_names_are_never_listed(both: Both, name: str) -> None:
    (both.workspace / "up" / name).touch()
    assert both.names() == ["d", "d/e", "d/e/deep", "d/f", "top"]


def test_file_whiteout_needs_a_marked_directory(both: Both) -> None:
    (both.workspace / "up/d/f").touch()
    os.setxattr(both.workspace / "up/d/f", "trusted.overlay.whiteout", b"y")
    assert "d/f" in both.names()


def test_marks_are_hidden_and_escaped_xattrs_are_visible(workspace: Path) -> None:
    for name in (*OPAQUE, "user.overlay.origin", "user.fuseoverlayfs.origin", "user.kind"):
        os.setxattr(workspace / "low/d", name, b"n")
    os.setxattr(workspace / "low/d", "trusted.overlay.overlay.opaque", b"y")
    assert snapshot(workspace, "low")[b"d"].xattrs == (
        ("trusted.overlay.opaque", b"y"),
        ("user.kind", b"n"),
    )
    tree = writable(workspace)
    node = tree.lookup(0, b"d")
    assert node is not None
    settable = {b"user.overlay.opaque", b"user.fuseoverlayfs.opaque", b"user.other"}
    for own in settable:
        tree.files.set_xattr(node, own, b"y")
        assert tree.files.xattr(node, own) == b"y"
    assert "user.overlay.opaque" not in os.listxattr(workspace / "up/d")
    names = tree.files.xattr_names(node)
    tree.close()
    assert settable <= set(names)
    assert "d/f" in Both(workspace, writing=True).names()


@pytest.mark.parametrize("mark", ["trusted.overlay.metacopy", "user.overlay.redirect"])
def test_marks_of_unsupported_overlayfs_features_are_refused(workspace: Path, mark: str) -> None:
    os.setxattr(workspace / "low/d", mark, b"")
    with pytest.raises(PermissionError) as caught:
        snapshot(workspace, "low")
    assert (caught.value.errno, caught.value.filename) == (
        errno.EPERM,
        os.fsencode(workspace / "low/d"),
    )


def test_reserved_name_cannot_be_created(workspace: Path) -> None:
    tree = writable(workspace)
    caller, top = Caller(0, 0), tree.lookup(0, b"top")
    assert top is not None
    for attempt in (
        lambda: tree.create(0, b".wh.x", 0o600, caller),
        lambda: tree.make_directory(0, b".wh.x", 0o700, caller),
        lambda: tree.symlink(0, b".wh..wh..opq", b"x", caller),
        lambda: tree.link(top, 0, b".wh.x"),
        lambda: tree.rename(0, b"top", 0, b".wh.x"),
    ):
        with pytest.raises(OSError) as caught:
            attempt()
        assert caught.value.errno == errno.EINVAL
    tree.close()


def test_name_hidden_by_aufs_can_be_created(workspace: Path) -> None:
    aufs(workspace / "up", "top")
    aufs(workspace / "up", "d")
    (workspace / "up/d").rmdir()
    tree, caller = writable(workspace), Caller(0, 0)
    tree.create(0, b"top", 0o600, caller)
    tree.make_directory(0, b"d", 0o700, caller)
    assert sorted(walk(tree, 0, "")) == ["d", "top"]
    tree.close()
    assert (
        Both(workspace, writing=True).names()
        == Both(workspace, writing=False).names()
        == ["d", "top"]
    )
    tree = writable(workspace)
    tree.unlink(0, b"top")
    tree.remove_directory(0, b"d")
    tree.close()
    assert Both(workspace, writing=True).names() == Both(workspace, writing=False).names() == []


def test_links_between_stacked_directories_share_an_inode(workspace: Path) -> None:
    os.link(workspace / "low/top", workspace / "up/linked")
    os.link(workspace / "low/top", workspace / "outside")
    found = snapshot(workspace, "up", "low")
    assert found[b"top"].group == found[b"linked"].group == (b"linked", b"top")


def test_directory_replaced_by_a_symlink_is_not_followed(workspace: Path) -> None:
    tree = merge([workspace / "low"], FORMAT)
    (node,) = (each for each in tree if tree.path(each) == b"d/e/deep")
    assert tree.read(node, 0, 9) == b"deep"
    (workspace / "secret/e").mkdir(parents=True)
    (workspace / "secret/e/deep").write_bytes(b"secret")
    (workspace / "low/d").rename(workspace / "low/old")
    (workspace / "low/d").symlink_to(workspace / "secret")
    with pytest.raises(OSError) as caught:
        tree.open(node)
    assert caught.value.errno in {errno.ELOOP, errno.ENOTDIR}


def test_with_owners_maps_owners_only(workspace: Path) -> None:
    tree = merge([workspace / "low"], FORMAT)
    owned = tree.with_owners(lambda uid: uid + 7, lambda gid: gid + 8)
    for node in tree:
        seen = tree.status(node)
        assert owned.status(node) == seen._replace(uid=seen.uid + 7, gid=seen.gid + 8)
        assert owned.path(node) == tree.path(node)


@given(st.binary(min_size=1, max_size=12))
def test_hidden_by_returns_a_file_name(name: bytes) -> None:
    for hidden in hidden_by(b".wh." + name):
        assert hidden == name
        assert hidden not in {b"", b".", b".."}
    assert is_reserved(b".wh." + name)


@given(
    st.sampled_from(["trusted.overlay.", "user.overlay.", "user.fuseoverlayfs.", "user.", ""]),
    st.binary(max_size=12),
)
def test_unescape_reverts_escape_in_every_dialect(prefix: str, rest: bytes) -> None:
    name = prefix.encode() + rest
    assert FORMAT.unescape(FORMAT.escape(name)) == name
    assert FORMAT.escape(name) not in {*FORMAT.opaque_marks, *FORMAT.whiteout_marks}
