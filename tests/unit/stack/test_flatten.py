"""The flat copy, into directories with ACLs, groups and other owners."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.stack.flatten import flatten
from tests.support.sequential import Sequential
from tests.support.snapshot import snapshot
from tests.support.stacks import D, F, L, S, archive, mounted, scratch, unpacked_stack
from tests.support.unprivileged import acting_as

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="gives files away: needs root")
FORMAT = WhiteoutFormat.TRUSTED
LAYERS = (
    (D("d"), F("d/f"), D("usr"), S("lib", "usr")),
    (F("d/g"), L("h", "d/f"), F("lib/x")),
)
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, permissions, who % (1 << 32))
    for tag, permissions, who in (
        (1, 7, -1),
        (2, 7, 4711),
        (4, 5, -1),
        (0x10, 7, -1),
        (0x20, 5, -1),
    )
)
"""An ACL for the kernel (linux/posix_acl_xattr.h): version, then tag, permissions, ID."""


@pytest.fixture
def workspace() -> Iterator[Path]:
    with scratch() as directory:
        yield directory


def meaning() -> object:
    reference = Sequential()
    for layer in LAYERS:
        reference.apply(layer)
    return reference.snapshot()


def hands_down(directory: Path) -> Path:
    directory.mkdir()
    os.chown(directory, 1000, 4711)
    directory.chmod(0o2777)
    os.setxattr(directory, "system.posix_acl_default", ACL)
    return directory


def test_target_with_group_and_default_acl_changes_nothing(workspace: Path) -> None:
    stack = unpacked_stack([archive(layer) for layer in LAYERS], workspace, FORMAT)
    target = hands_down(workspace / "flat")
    flatten(stack.directories, target, FORMAT)
    assert snapshot(target) == meaning()


def test_store_with_group_and_default_acl_changes_no_repairs(workspace: Path) -> None:
    stack = unpacked_stack(
        [archive(layer) for layer in LAYERS], hands_down(workspace / "store"), FORMAT
    )
    assert {"fixup", "links-1"} < set(os.listdir(workspace / "store" / "chain"))
    with mounted(stack, workspace) as target:
        assert snapshot(target) == meaning()


def test_owner_of_the_target_cannot_exchange_files_while_it_is_filled(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The copy links the second name of a file to the first; a symbolic link must not divert it.
    stack = unpacked_stack(
        [archive((D("a"), F("a/f", b"mine"), D("b"), L("b/f", "a/f")))], workspace, FORMAT
    )
    target, secret = workspace / "flat", workspace / "secret"
    for directory in (target, secret):
        directory.mkdir()
    (secret / "f").write_bytes(b"not yours")
    workspace.chmod(0o755)
    os.chown(target, 65534, 65534)
    refused, linked = [], os.link

    def exchanging(*names: bytes, **options: int) -> None:
        try:
            with acting_as():
                (target / "a").rename(target / "old")
                (target / "a").symlink_to(secret)
        except PermissionError as error:
            refused.append(error)
        linked(*names, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "link", exchanging)
    flatten(stack.directories, target, FORMAT)
    assert len(refused) == 1
    assert (target / "b/f").read_bytes() == b"mine"
