"""Unpacking into a directory with ACLs, a group or a full disk."""

from __future__ import annotations

import os
import stat
import subprocess

import pytest

from stacker.errors import LayerError, StackerError
from stacker.layer.apply import apply
from stacker.linux.xattr import set_value
from stacker.tar.reader import TarReader
from tests.support.tars import (
    char,
    dir,  # noqa: A004 - the word for it
    fifo,
    file,
    symlink,
    tar,
)
from tests.support.unpacking import FORMAT, IDMAP, Workspace, chunked, needs_root


# -- the target directory -------------------------------------------------------------------
@needs_root
def test_set_group_id_store_changes_no_groups_and_modes(workspace: Workspace) -> None:
    os.chown(workspace.path, 0, 4711)
    os.chmod(workspace.path, 0o2700)
    layer = workspace.unpack(file("f"), dir("d", mode=0o755), file("e/f"))
    for path in ("", "f", "d", "e", "e/f"):
        assert layer.stat(path).st_gid == 0, path
        assert not layer.mode(path) & 0o2000, path


@needs_root
def test_default_acl_of_the_store_changes_nothing(workspace: Workspace) -> None:
    set_value(os.fsencode(workspace.path), b"system.posix_acl_default", _acl(user_4711=7, mask=5))
    layer = workspace.unpack(file("f", mode=0o666), dir("d", mode=0o777), file("e/f"), fifo("p"))
    modes = {path: layer.mode(path) for path in ("", "f", "d", "e", "e/f", "p")}
    assert modes == {"": 0o755, "f": 0o666, "d": 0o777, "e": 0o755, "e/f": 0o644, "p": 0o644}
    for path in modes:
        assert not layer.xattrs(path), path


def _acl(*, user_4711: int, mask: int) -> bytes:
    """Encode an ACL as in linux/posix_acl_xattr.h: version, then tag, permissions, ID."""
    entries = [(1, 7, -1), (2, user_4711, 4711), (4, 0, -1), (0x10, mask, -1), (0x20, 0, -1)]
    return (2).to_bytes(4, "little") + b"".join(
        tag.to_bytes(2, "little")
        + perm.to_bytes(2, "little")
        + (who % (1 << 32)).to_bytes(4, "little")
        for tag, perm, who in entries
    )


def test_umask_is_ignored_and_restored(workspace: Workspace) -> None:
    before = os.umask(0o077)
    try:
        layer = workspace.unpack(file("f", mode=0o666), dir("d", mode=0o777), fifo("p", mode=0o622))
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(before)
    assert [layer.mode(path) for path in ("f", "d", "p")] == [0o666, 0o777, 0o622]


def test_umask_of_the_other_threads_does_not_change(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def umask(mask: int) -> int:
        raise AssertionError(f"umask({mask:o}) while other threads create files")

    before = os.umask(0o077)
    try:
        monkeypatch.setattr("os.umask", umask)
        layer = workspace.unpack(file("f", mode=0o666), dir("d", mode=0o777), fifo("p", mode=0o622))
    finally:
        monkeypatch.undo()
        os.umask(before)
    assert [layer.mode(path) for path in ("f", "d", "p")] == [0o666, 0o777, 0o622]


def test_umask_is_restored_after_a_failure(workspace: Workspace) -> None:
    before = os.umask(0o027)
    try:
        with pytest.raises(LayerError):
            workspace.unpack(char("x", 0, 0))
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)


def test_directory_for_replaced_files_is_made_only_when_needed(
    workspace: Workspace,
) -> None:
    assert not workspace.unpack(
        file("x"), symlink("l", "a"), symlink("l", "b")
    ).paths.replaced.exists()
    assert (
        stat.S_IMODE(workspace.unpack(file("x"), file("x")).paths.replaced.stat().st_mode) == 0o700
    )


# -- errors of the machine ------------------------------------------------------------------
@needs_root
def test_full_disk_is_a_stacker_error_with_a_hint(workspace: Workspace) -> None:
    disk = workspace.path / "small"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", disk], check=True)
    try:
        (disk / "diff").mkdir()
        reader = TarReader(chunked(tar(file("x", bytes(1 << 20)))), what="test")
        with pytest.raises(StackerError, match=r"cannot unpack: test: x: No space left") as caught:
            apply(
                reader,
                disk / "diff",
                replaced=disk / "replaced",
                whiteout_format=FORMAT,
                idmap=IDMAP,
            )
    finally:
        subprocess.run(["umount", disk], check=True)
    assert type(caught.value) is StackerError
    assert caught.value.hint is not None


def test_error_names_the_directory_whose_attributes_fail(workspace: Workspace) -> None:
    with pytest.raises(LayerError, match="outer/inner: an extended attribute is too large"):
        workspace.unpack(dir("outer/inner/", xattrs={"user.big": bytes(70_000)}))
