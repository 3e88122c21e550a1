"""The two ways to write a deletion on disk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stacker.layer.whiteout_format import WhiteoutFormat, is_whiteout
from tests.support.unpacking import FORMAT, needs_root

FORMATS = pytest.mark.parametrize("whiteout_format", list(WhiteoutFormat))


@FORMATS
def test_image_s_overlay_xattrs_are_escaped_and_unescaped(whiteout_format: WhiteoutFormat) -> None:
    name = whiteout_format.prefix + b"opaque"
    assert whiteout_format.escape(name) == whiteout_format.prefix + b"overlay.opaque"
    assert whiteout_format.unescape(whiteout_format.escape(name)) == name
    assert whiteout_format.unescape(name) is None


@given(
    st.sampled_from(WhiteoutFormat),
    st.lists(st.sampled_from([b"trusted", b"user", b"overlay", b"opaque", b"x"]), min_size=2),
)
def test_unescape_reverts_escape(whiteout_format: WhiteoutFormat, parts: list[bytes]) -> None:
    name = b".".join(parts)
    assert whiteout_format.unescape(whiteout_format.escape(name)) == name


@FORMATS
@pytest.mark.parametrize("name", [b"user.overlayfs.x", b"trusted.overlay", b"user.a", b"overlay.x"])
def test_similar_xattr_names_are_unchanged(whiteout_format: WhiteoutFormat, name: bytes) -> None:
    assert whiteout_format.escape(name) is name


def test_whiteout_is_a_character_device_0_0(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_PATH)
    try:
        FORMAT.hide(fd, b"gone")
        with pytest.raises(FileExistsError):
            FORMAT.hide(fd, b"gone")
    finally:
        os.close(fd)
    assert is_whiteout((tmp_path / "gone").lstat())
    assert not is_whiteout(tmp_path.lstat())


@needs_root
def test_no_other_device_is_a_whiteout(tmp_path: Path) -> None:
    os.mknod(tmp_path / "null", 0o20644, os.makedev(1, 3))
    os.mknod(tmp_path / "block", 0o60644, 0)
    os.mknod(tmp_path / "fifo", 0o10644)
    assert not any(is_whiteout(path.lstat()) for path in tmp_path.iterdir())


def test_opaque_mark_is_read_by_path_and_by_descriptor(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        assert not FORMAT.is_opaque(fd)
        FORMAT.make_opaque(fd)
        assert FORMAT.is_opaque(fd)
    finally:
        os.close(fd)
    assert FORMAT.is_opaque(os.fsencode(tmp_path))
    assert os.getxattr(tmp_path, FORMAT.prefix + b"opaque") == b"y"
