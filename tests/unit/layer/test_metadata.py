"""Owner, xattrs, mode and times (docs/rules.md, Metadata)."""

from __future__ import annotations

import struct

import pytest

from stacker.errors import LayerError
from stacker.layer.metadata import SQUASH
from tests.support.tars import (
    MTIME,
    base256,
    char,
    dir,  # noqa: A004 - the word for it
    fifo,
    file,
    hardlink,
    opaque,
    pax,
    symlink,
    whiteout,
)
from tests.support.unpacking import IS_ROOT, Workspace, needs_root

CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)  # cap_net_bind_service=ep
LAST_ON_EXT4 = 0x3_7FFF_FFFF  # in the year 2446
MODES = [0, 0o400, 0o644, 0o755, 0o777, 0o4755, 0o2755, 0o6711, 0o1644, 0o7777]


@pytest.mark.parametrize("mode", MODES)
def test_modes_are_exact_for_files_and_directories(workspace: Workspace, mode: int) -> None:
    if not IS_ROOT and mode & 0o500 != 0o500:
        pytest.skip("only root can read such a file back")
    layer = workspace.unpack(file("f", b"1", mode=mode), dir("d", mode=mode), file("d/x"))
    assert (layer.mode("f"), layer.mode("d")) == (mode, mode)


@needs_root
@pytest.mark.parametrize("mode", MODES)
def test_set_id_bits_survive_chown_and_writing(workspace: Workspace, mode: int) -> None:
    layer = workspace.unpack(
        file("f", b"x" * 100_000, mode=mode, uid=1000, gid=2000),
        dir("d", mode=mode, uid=1000, gid=2000),
        file("d/x", mode=mode, uid=3, xattrs={"user.a": b"1"}),
        fifo("p", mode=mode, uid=4),
    )
    assert [layer.mode(path) for path in ("f", "d", "d/x", "p")] == [mode] * 4
    assert (layer.stat("f").st_uid, layer.stat("f").st_gid) == (1000, 2000)
    assert (layer.stat("d").st_uid, layer.stat("d").st_gid) == (1000, 2000)


@needs_root
def test_capabilities_survive_chown_and_chmod(workspace: Workspace) -> None:
    layer = workspace.unpack(
        file("f", b"1", uid=1000, gid=1000, mode=0o6755, xattrs={"security.capability": CAPABILITY})
    )
    assert layer.xattr("f", "security.capability") == CAPABILITY
    assert layer.mode("f") == 0o6755
    assert layer.stat("f").st_uid == 1000


@needs_root
def test_ids_up_to_4294967294_are_set(workspace: Workspace) -> None:
    layer = workspace.unpack(
        file("big", uid=4294967294, gid=2097152),
        pax(uid="4294967294", gid="3000000000") + file("pax"),
        symlink("l", "t", uid=1000, gid=4294967294),
        char("c", 1, 3, uid=5, gid=6),
    )
    owners = {
        path: (layer.stat(path).st_uid, layer.stat(path).st_gid)
        for path in ["c", "l", "big", "pax"]
    }
    assert owners == {
        "big": (4294967294, 2097152),
        "pax": (4294967294, 3000000000),
        "l": (1000, 4294967294),
        "c": (5, 6),
    }


@pytest.mark.parametrize("field", ["uid", "gid"])
@pytest.mark.parametrize("value", [4294967295, 1 << 32, 1 << 40, -1, -2])
def test_id_that_chown_would_ignore_is_refused(
    workspace: Workspace, field: str, value: int
) -> None:
    entry = file("f", uid=value) if field == "uid" else file("f", gid=value)
    with pytest.raises(LayerError, match="owner"):
        workspace.unpack(entry)
    with pytest.raises(LayerError, match=f"owner|malformed PAX {field}"):
        workspace.unpack(pax(**{field: str(value)}) + file("f"))


def test_squashed_files_belong_to_the_unpacking_user(workspace: Workspace) -> None:
    layer = workspace.unpack(file("f", uid=7, gid=8), symlink("l", "t", uid=9), idmap=SQUASH)
    me = layer.diff.stat().st_uid
    assert {layer.stat(path).st_uid for path in ("f", "l")} == {me}


# -- times ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("1350244992.023960108", 1350244992_023960108),
        ("1.5", 1_500_000_000),
        ("-1.5", -1_500_000_000),
        ("-0.000000001", -1),
        ("0", 0),
        ("5.", 5_000_000_000),
        ("1.0000000019", 1_000_000_001),
        ("not a time", MTIME * 10**9),
        ("1e5", MTIME * 10**9),
        ("", MTIME * 10**9),
        ("9" * 100, MTIME * 10**9),
    ],
)
def test_pax_times_have_fractions_and_malformed_ones_are_ignored(
    workspace: Workspace, text: str, nanoseconds: int
) -> None:
    layer = workspace.unpack(pax(mtime=text) + file("f"), pax(mtime=text) + symlink("l", "t"))
    assert layer.stat("f").st_mtime_ns == nanoseconds
    assert layer.stat("l").st_mtime_ns == nanoseconds


def test_access_time_defaults_to_the_modification_time(workspace: Workspace) -> None:
    layer = workspace.unpack(pax(atime="77.25") + file("f"), file("g"))
    assert layer.stat("f").st_atime_ns == 77_250_000_000
    assert layer.stat("f").st_mtime == MTIME
    assert layer.stat("g").st_atime == MTIME


@pytest.mark.parametrize("mtime", [base256(-5, 12), base256(1 << 35, 12), 0, 1, 0o77777777777])
def test_times_before_1970_and_after_2242_are_kept(
    workspace: Workspace, mtime: int | bytes
) -> None:
    layer = workspace.unpack(file("f", mtime=mtime))
    value = mtime if isinstance(mtime, int) else int.from_bytes(mtime[4:], "big", signed=True)
    assert layer.stat("f").st_mtime in (value, LAST_ON_EXT4)


@pytest.mark.parametrize("mtime", [base256(1 << 63, 12), base256(-(1 << 63) - 1, 12)])
def test_time_beyond_64_bits_is_malformed(workspace: Workspace, mtime: bytes) -> None:
    with pytest.raises(LayerError, match="malformed tar"):
        workspace.unpack(file("f", mtime=mtime))


@pytest.mark.parametrize("mtime", [(1 << 63) - 1, -(1 << 63)])
def test_largest_times_do_not_crash(workspace: Workspace, mtime: int) -> None:
    workspace.unpack(
        file("f", mtime=base256(mtime, 12)), symlink("l", "t", mtime=base256(mtime, 12)),
        dir("d", mtime=base256(mtime, 12)), pax(mtime="9" * 18, atime="-" + "9" * 18) + file("g"),
    )  # fmt: skip


def test_directories_get_their_times_and_modes_last(workspace: Workspace) -> None:
    layer = workspace.unpack(
        dir("d", mode=0o555, mtime=5),
        dir("d/e", mode=0o500, mtime=6),
        file("d/e/x"),
        hardlink("d/h", "d/e/late"),
        whiteout("d/w"),
        file("d/e/late"),
        opaque("d/e"),
        dir("", mtime=7),
    )
    assert [layer.stat(path).st_mtime for path in ("d", "d/e", "")] == [5, 6, 7]
    assert [layer.mode(path) for path in ("d", "d/e")] == [0o555, 0o500]


def test_replaced_directory_is_looked_up_again_in_the_final_pass(workspace: Workspace) -> None:
    layer = workspace.unpack(
        dir("d", mode=0o700), file("t", mode=0o604), symlink("d", "t"), dir("e", mode=0o711)
    )
    assert layer.target("d") == b"t"
    assert layer.mode("t") == 0o604, "the final pass must not follow what took a directory's place"


# -- extended attributes --------------------------------------------------------------------


def test_xattr_values_are_binary(workspace: Workspace) -> None:
    value = bytes(range(256))
    layer = workspace.unpack(
        file("f", b"1", xattrs={"user.a": value, "user.empty": b"", "user.eq=x": b"a=b\n"}),
        dir("d", xattrs={"user.d": b"\0\n"}),
    )
    assert layer.xattr("f", "user.a") == value
    assert layer.xattr("f", "user.empty") == b""
    assert layer.xattr("d", "user.d") == b"\0\n"


def test_star_xattrs_override_libarchive_base64_ones(workspace: Workspace) -> None:
    layer = workspace.unpack(
        pax(**{"LIBARCHIVE.xattr.user.a%25b": "AAECAw", "LIBARCHIVE.xattr.user.c": "eA=="})
        + file("f"),
        pax(**{"SCHILY.xattr.user.a": "star", "LIBARCHIVE.xattr.user.a": "eA"}) + file("g"),
        pax(**{"LIBARCHIVE.xattr.user.a": "eA", "SCHILY.xattr.user.a": "star"}) + file("h"),
    )
    assert layer.xattr("f", "user.a%b") == b"\0\1\2\3"
    assert layer.xattr("f", "user.c") == b"x"
    assert layer.xattr("g", "user.a") == layer.xattr("h", "user.a") == b"star"


def test_names_of_xattrs_may_be_any_bytes(workspace: Workspace) -> None:
    layer = workspace.unpack(pax((b"SCHILY.xattr.user.\xff\n", b"1")) + file("f"))
    assert layer.xattrs("f") == {b"user.\xff\n".decode("utf-8", "surrogateescape")}


@needs_root
def test_user_xattrs_of_symlinks_and_devices_are_skipped(workspace: Workspace) -> None:
    both = {"user.a": b"1", "trusted.b": b"2"}
    layer = workspace.unpack(
        symlink("l", "t", xattrs=both), char("c", 1, 3, xattrs=both), fifo("p", xattrs=both)
    )
    assert [layer.xattrs(path) for path in ("l", "c", "p")] == [{"trusted.b"}] * 3
    assert not layer.record.warnings


def test_xattrs_of_a_symlink_are_not_set_on_its_target(workspace: Workspace) -> None:
    layer = workspace.unpack(file("t"), symlink("l", "t", xattrs={"user.a": b"1"}))
    assert not layer.xattrs("t")


@pytest.mark.parametrize("name", [b"noprefix", b"", b"user.a\0b"])
def test_malformed_xattr_name_is_refused(workspace: Workspace, name: bytes) -> None:
    with pytest.raises(LayerError, match="malformed xattr name"):
        workspace.unpack(pax((b"SCHILY.xattr." + name, b"1")) + file("f"))


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [(b"user." + b"n" * 300, b"1", "too long"), (b"user.a", bytes(1 << 17), "too large")],
)
def test_xattr_over_the_kernel_limit_is_a_layer_error(
    workspace: Workspace, name: bytes, value: bytes, why: str
) -> None:
    with pytest.raises(LayerError, match=why):
        workspace.unpack(pax((b"SCHILY.xattr." + name, value)) + file("f"))


def test_unsupported_xattrs_give_one_warning(workspace: Workspace) -> None:
    layer = workspace.unpack(
        *(file(f"f{n}", xattrs={"unheard.of": b"1", "user.a": b"2"}) for n in range(5))
    )
    assert layer.record.warnings == (
        "omitted xattrs: unheard.of and others of unheard.*: Operation not supported",
    )
    assert layer.xattr("f4", "user.a") == b"2"


def test_user_xattr_on_a_read_only_file_is_set(workspace: Workspace) -> None:
    layer = workspace.unpack(file("f", b"1", mode=0o400, xattrs={"user.a": b"2"}))
    assert layer.xattr("f", "user.a") == b"2"
    assert layer.mode("f") == 0o400


@needs_root
def test_acl_does_not_change_the_mode(workspace: Workspace) -> None:
    acl = struct.pack("<I", 2) + b"".join(
        struct.pack("<HHi", *entry)
        for entry in [(1, 6, -1), (2, 7, 4711), (4, 0, -1), (0x10, 4, -1), (0x20, 0, -1)]
    )
    layer = workspace.unpack(
        file("f", mode=0o640, xattrs={"system.posix_acl_access": acl}),
        dir("d", mode=0o750, xattrs={"system.posix_acl_default": acl}),
        file("d/x", mode=0o666),
        dir("d/e", mode=0o777),
    )
    assert layer.mode("f") == 0o640
    assert "system.posix_acl_access" in layer.xattrs("f")
    assert layer.xattrs("d") == {"system.posix_acl_default"}
    assert not layer.xattrs("d/x"), "a default ACL applies only to files created later"
    assert (layer.mode("d/x"), layer.mode("d/e")) == (0o666, 0o777)
