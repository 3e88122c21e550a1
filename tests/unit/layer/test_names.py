"""Every file name of Linux is unpacked, at any depth within the limits."""

from __future__ import annotations

import os

import pytest

from stacker.errors import LayerError
from tests.support.tars import (
    dir,  # noqa: A004 - the word for it
    fifo,
    file,
    hardlink,
    symlink,
    whiteout,
)
from tests.support.unpacking import Workspace


@pytest.mark.parametrize(
    "name", [b"\xff\xfe", b"a\nb", b"n" * 255, b" ", b"*", b"\\", b"-rf", "\u202e".encode(), b":,"]
)
def test_every_name_that_linux_allows_is_unpacked(workspace: Workspace, name: bytes) -> None:
    layer = workspace.unpack(
        file(name + b"/" + name, b"1"), symlink(name + b"/l", name), whiteout(name + b"/w")
    )
    assert layer.read(name + b"/" + name) == b"1"
    assert layer.target(name + b"/l") == name


def test_name_of_256_bytes_is_a_malformed_layer(workspace: Workspace) -> None:
    for entry in (file("n" * 256), dir("n" * 256), file("n" * 256 + "/x"), whiteout("n" * 256)):
        with pytest.raises(LayerError, match="too long"):
            workspace.unpack(entry)


def test_path_longer_than_path_max_is_unpacked(workspace: Workspace) -> None:
    above = "/".join(["n" * 250] * 40)
    layer = workspace.unpack(
        file(f"{above}/x", b"1" * 1000),
        dir(above, mode=0o711),
        symlink(f"{above}/l", "x"),
        hardlink(f"{above}/h", f"{above}/x"),
        fifo(f"{above}/p"),
        whiteout(f"{above}/w"),
    )
    assert len(above) > 2 * 4096
    assert layer.record.whiteouts == 1
    assert above.encode() not in layer.record.implied


def test_deep_trees_are_made_in_linear_time(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    opened = os.open

    def counting(*arguments: object, **options: object) -> int:
        nonlocal calls
        calls += 1
        return opened(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", counting)
    workspace.unpack(*(file(f"{n}/" + "/".join("d" * 500) + "/x") for n in range(4)))
    assert calls < 4 * 500 * 6


def test_depth_limit_also_holds_through_symlinks(
    workspace: Workspace,
) -> None:
    deep = "/".join("d" * 300)
    with pytest.raises(LayerError, match="over a limit"):
        workspace.unpack(symlink("l", deep), symlink(f"{deep}/m", deep), file("l/m/x"))


def test_walk_through_symlinks_is_limited(workspace: Workspace) -> None:
    # Each link leads back to its own directory in 1600 steps; 40 of them make a long walk.
    links = [symlink(f"l{n}", "a/../" * 800 + f"l{n + 1}") for n in range(39)]
    with pytest.raises(LayerError, match="over a limit"):
        workspace.unpack(*links, dir("l39"), file("l0/x"))
