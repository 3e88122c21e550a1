"""Parsing of /proc/self/mountinfo."""

from __future__ import annotations

from pathlib import Path

import pytest

from stacker.linux import mountinfo

LINES = rb"""22 27 0:21 / /proc rw,nosuid,relatime shared:13 - proc proc rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
40 27 0:45 / /a\040b\134\011\012\043 ro,relatime master:1 propagate_from:2 - overlay s:0a rw
41 40 254:0 /layers/x /a\040b\134\011\012\043 ro - ext4 /dev/vda rw
42 27 0:46 / /empty rw - tmpfs  rw,size=1k
43 27 0:47 / /n\303\244m/\377 rw - tmpfs a\040-\040b rw
"""


def test_every_field_is_parsed() -> None:
    root = mountinfo.parse(LINES).at(Path("/"))
    assert root == mountinfo.MountInfo(
        mount_id=27,
        parent_id=1,
        device=(254, 0),
        root=Path("/"),
        mount_point=Path("/"),
        options=frozenset({"rw", "relatime"}),
        fstype="ext4",
        source="/dev/vda",
        super_options="rw,discard",
    )


def test_optional_fields_are_skipped() -> None:
    assert [mount.fstype for mount in mountinfo.parse(LINES).mounts] == [
        *("proc", "ext4", "overlay", "ext4", "tmpfs", "tmpfs")
    ]


def test_escaped_mount_point_is_found() -> None:
    table = mountinfo.parse(LINES)
    path = Path("/a b\\\t\n#")
    assert [mount.mount_id for mount in table.all_at(path)] == [40, 41]
    top = table.at(path)
    assert top is not None
    assert (top.mount_id, top.root, top.read_only) == (41, Path("/layers/x"), True)


def test_empty_source_and_source_with_a_dash_are_parsed() -> None:
    table = mountinfo.parse(LINES)
    empty, dash = table.mounts[-2:]
    assert (empty.source, empty.super_options) == ("", "rw,size=1k")
    assert dash.source == "a - b"


def test_non_utf_8_bytes_round_trip() -> None:
    assert mountinfo.parse(LINES).at(Path("/näm/\udcff")) is not None


def test_lookup_compares_whole_paths() -> None:
    table = mountinfo.parse(LINES)
    assert table.at(Path("/pro")) is None
    assert table.at(Path("/proc/self")) is None
    assert [m.mount_id for m in table.below(Path("/n\u00e4m"))] == [43]
    assert table.below(Path("/proc")) == []


def test_malformed_line_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="unpack"):
        mountinfo.parse(b"not a line\n")


def test_mountinfo_of_this_process_has_root_and_proc() -> None:
    table = mountinfo.read()
    assert table.at(Path("/")) is not None
    proc = mountinfo.at(Path("/proc"))
    assert proc is not None
    assert proc.fstype == "proc"
