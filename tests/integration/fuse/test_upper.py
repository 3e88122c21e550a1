"""Writes to a FUSE mount: discarded at unmount, or kept in an upper directory."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import pytest

from tests.support.adapters import skip_without
from tests.support.command import Stacker
from tests.support.fuse_mounts import eventually, is_clean, mount, options, servers
from tests.support.syscalls import error_of

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="looks into processes of root"),
    pytest.mark.usefixtures("alone_among_mounts"),
]
OVERLAY = ("--driver", "overlay")
SERVER = ("--driver", "fuse", "--fuse-writer", "server")
ABOVE = ("--driver", "fuse", "--fuse-writer", "overlay")


def test_pyfuse3_adapter_refuses_rw_and_upper(stacker: Stacker, target: Path) -> None:
    skip_without("pyfuse3")
    message = stacker.refused(7, "mount", *options("pyfuse3"), "--rw", "app:1.0", target)
    assert "is read-only" in message
    is_clean(stacker)


def test_writes_with_rw_are_discarded_at_umount(stacker: Stacker, target: Path) -> None:
    assert stacker("mount", "--driver", "fuse", "--rw", "app:1.0", target).last == "fuse"
    (target / "etc/kept").write_bytes(b"written")
    (target / "new").mkdir()
    (target / "big").unlink()
    assert sorted(os.listdir(target)) == ["etc", "link", "more", "new"]
    assert (target / "link").read_bytes() == b"written"
    (item,) = stacker("mounts", "--json").items
    assert (item["driver"], item["state"], item["read_only"]) == ("fuse", "mounted", False)
    stacker("umount", target)
    eventually(lambda: not servers(target))
    is_clean(stacker, layers=2)
    mount(stacker, target, "kernel")
    assert (target / "etc/kept").read_bytes() == b"changed"
    stacker("umount", target)


@pytest.mark.parametrize(
    ("first", "second"),
    [(OVERLAY, SERVER), (SERVER, OVERLAY), (ABOVE, SERVER), (SERVER, ABOVE), (OVERLAY, ABOVE)],
    ids=lambda words: words[-1],
)
def test_overlay_and_fuse_share_a_persistent_upper(
    stacker: Stacker, target: Path, tmp_path: Path, first: tuple[str, ...], second: tuple[str, ...]
) -> None:
    kept = tmp_path / "changes"
    for turn, words in enumerate((first, second, first)):
        stacker("mount", *words, "--upper", kept, "app:1.0", target)
        assert sorted(os.listdir(target / "etc")) == ["kept", *(f"n{n}" for n in range(turn))]
        (target / f"etc/n{turn}").write_bytes(b"%d" % turn)
        (target / "more").unlink(missing_ok=True)
        stacker("umount", target)
        is_clean(stacker)
        assert sorted(os.listdir(tmp_path)) == ["app", "changes", "store", "target"]
    assert (kept / "etc/n2").read_bytes() == b"2"


def test_upper_of_another_mount_is_refused(stacker: Stacker, target: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    stacker("mount", "--driver", "fuse", "--upper", tmp_path / "changes", "app:1.0", target)
    words = ("--driver", "fuse", "--upper", tmp_path / "changes", "app:1.0", other)
    assert "upper directory is in use" in stacker.refused(8, "mount", *words)
    stacker("umount", target)
    stacker("mount", *words)
    stacker("umount", other)


def test_upper_of_a_detached_mount_is_refused_while_in_use(
    stacker: Stacker, target: Path, tmp_path: Path
) -> None:
    words = ("--driver", "fuse", "--upper", tmp_path / "changes", "app:1.0", target)
    stacker("mount", *words)
    with (target / "new").open("wb", buffering=0) as held:
        stacker("umount", "--lazy", target)
        assert "a detached mount still uses it" in stacker.refused(8, "mount", *words)
        held.write(b"late")
    eventually(lambda: not servers(target))
    stacker("mount", *words)
    assert (target / "new").read_bytes() == b"late"
    stacker("umount", target)


def test_upper_keeps_writes_of_a_killed_server(
    stacker: Stacker, target: Path, tmp_path: Path
) -> None:
    words = (*SERVER, "--upper", tmp_path / "changes", "app:1.0", target)
    stacker("mount", *words)
    (target / "etc/kept").write_bytes(b"written")
    first, worker = servers(target)
    os.kill(worker, signal.SIGKILL)
    eventually(lambda: not servers(target))
    assert first not in servers(target)
    assert error_of(lambda: os.listdir(target)) == errno.ENOTCONN
    assert [item["target"] for item in stacker("mounts", "--json").document["cleared"]] == [
        str(target)
    ]
    stacker("mount", *words)
    assert (target / "etc/kept").read_bytes() == b"written"
    stacker("umount", target)
    is_clean(stacker)
