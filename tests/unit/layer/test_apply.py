"""DESIGN section 4, *Containment*, *Overlay's own language*, and what an entry becomes on disk."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import stacker
from stacker.errors import LayerError, StackerError
from stacker.layer.apply import apply
from stacker.layer.idmap import IDENTITY, SQUASH
from stacker.layer.tar import TarReader
from stacker.layer.whiteout import WhiteoutFormat
from stacker.linux.xattr import set_value
from tests.tars import (
    MTIME,
    Text,
    block,
    char,
    dir,  # noqa: A004 - the word for it
    fifo,
    file,
    hardlink,
    opaque,
    pax,
    symlink,
    tar,
    whiteout,
)
from tests.unit.layer.room import FORM, IDMAP, Room, chunked, needs_root

# -- containment ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["../../secret", "/secret", "a/../../secret", "../room/secret", "./../secret", "//secret"],
)
def test_dot_dot_and_absolute_names_stay_inside(room: Room, name: str) -> None:
    layer = room.unpack(file(name, b"evil"))
    assert layer.read(name.rpartition("..")[2].strip("/")) == b"evil"


@pytest.mark.parametrize(
    "target",
    ["../..", "/", "../../../../../../../..", "/../..", "..", "./..//../.."],
)
def test_a_file_below_a_symlink_that_leads_out_lands_inside_the_root(
    room: Room, target: str
) -> None:
    layer = room.unpack(symlink("l", target), file("l/secret", b"evil"))
    assert layer.read("secret") == b"evil"
    assert layer.target("l") == target.encode()


def test_a_file_below_an_absolute_symlink_lands_inside_the_root(room: Room) -> None:
    target = str(room.path)
    layer = room.unpack(symlink("l", target), file("l/secret", b"evil"))
    assert layer.read(f"{target[1:]}/secret") == b"evil"


def test_a_file_below_a_relative_symlink_goes_where_it_leads(room: Room) -> None:
    layer = room.unpack(
        dir("usr/lib"), symlink("lib", "usr/lib"), file("lib/x", b"1"), file("lib/new/y", b"2")
    )
    assert layer.read("usr/lib/x") == b"1"
    assert layer.read("usr/lib/new/y") == b"2"
    assert layer.target("lib") == b"usr/lib"
    assert layer.record.placed == {2: b"usr/lib/x", 3: b"usr/lib/new/y"}


def test_a_chain_of_symlinks_is_followed_inside_the_root(room: Room) -> None:
    links = [symlink(f"l{n}", f"../l{n + 1}") for n in range(39)]
    layer = room.unpack(*links, symlink("l39", "/d"), file("l0/x", b"1"))
    assert layer.read("d/x") == b"1"


@pytest.mark.parametrize(
    "links", [[("l", "l")], [("l", "m"), ("m", "l")], [("l", "./l/l")], [("l", "/l/../l")]]
)
def test_a_loop_of_symlinks_is_refused(room: Room, links: list[tuple[str, str]]) -> None:
    with pytest.raises(LayerError, match="symlink loop"):
        room.unpack(*(symlink(name, target) for name, target in links), file("l/x"))


def test_a_chain_of_too_many_symlinks_is_refused(room: Room) -> None:
    links = [symlink(f"l{n}", f"l{n + 1}") for n in range(41)]
    with pytest.raises(LayerError, match="symlink loop"):
        room.unpack(*links, dir("l41"), file("l0/x"))


def test_a_symlink_that_is_replaced_leads_nowhere_any_more(room: Room) -> None:
    layer = room.unpack(
        dir("a"),
        dir("b"),
        symlink("l", "a"),
        file("l/1"),
        symlink("l", "b"),
        file("l/2"),
        dir("l"),
        file("l/3"),
    )
    assert layer.names() == {b"a", b"b", b"l", b"a/1", b"b/2", b"l/3"}


def test_a_symlink_under_a_directory_that_was_cached_is_not_a_way_out(room: Room) -> None:
    # The classic: the directory is known, then a link takes its place.
    layer = room.unpack(
        dir("d"), file("d/x", b"1"), symlink("d", "../.."), file("d/secret", b"evil")
    )
    assert layer.read("secret") == b"evil"
    assert layer.names() == {b"d", b"secret"}


def test_a_hard_link_cannot_reach_out_through_a_symlink(room: Room) -> None:
    layer = room.unpack(symlink("l", str(room.path)), hardlink("h", "l/secret"))
    assert not layer.exists("h")
    assert [(d.path, d.target) for d in layer.record.deferred_links] == [(b"h", b"l/secret")]


def test_a_hard_link_cannot_reach_out_by_its_name(room: Room) -> None:
    layer = room.unpack(hardlink("h", "../../secret"), hardlink("i", str(room.secret)))
    assert [d.target for d in layer.record.deferred_links] == [
        b"secret",
        os.fsencode(room.secret)[1:],
    ]


def test_a_symlink_s_target_is_data_and_never_rewritten(room: Room) -> None:
    targets: list[Text] = ["/etc/passwd", "../../../x", "a//b/./c/", "x" * 4095, b"\xff\n"]
    layer = room.unpack(*(symlink(f"l{n}", target) for n, target in enumerate(targets)))
    for n, target in enumerate(targets):
        assert layer.target(f"l{n}") == (target.encode() if isinstance(target, str) else target)


def test_a_symlink_s_target_may_be_too_long(room: Room) -> None:
    with pytest.raises(LayerError, match="too long"):
        room.unpack(symlink("l", "x" * 4096))


def test_a_symlink_without_a_target_is_malformed(room: Room) -> None:
    with pytest.raises(LayerError, match="malformed symlink"):
        room.unpack(symlink("l", ""))


@pytest.mark.parametrize("name", ["", ".", "./", "/", "..", "a/.."])
def test_the_root_directory_can_change_attributes(room: Room, name: str) -> None:
    layer = room.unpack(dir(name, mode=0o711), file("x"))
    assert layer.mode("") == 0o711
    assert layer.stat("").st_mtime == MTIME
    assert b"" not in layer.record.implied


@pytest.mark.parametrize(
    "entry",
    [file("./"), file("a/.."), symlink("/", "x"), hardlink(".", "x"), char("..", 1, 3), fifo("")],
    ids=["file", "file-dotdot", "symlink", "hardlink", "char", "fifo"],
)
def test_the_root_directory_cannot_change_type(room: Room, entry: bytes) -> None:
    with pytest.raises(LayerError, match="as the root directory"):
        room.unpack(file("x"), entry)


def test_a_root_without_an_entry_gets_fixed_attributes(room: Room) -> None:
    layer = room.unpack(file("d/x"))
    for path in ("", "d"):
        assert (layer.mode(path), layer.stat(path).st_mtime_ns) == (0o755, 0)
    assert layer.record.implied == {b"", b"d"}


# -- overlay's own language -----------------------------------------------------------------


@needs_root
@pytest.mark.parametrize("form", list(WhiteoutFormat))
@pytest.mark.parametrize("what", ["opaque", "redirect", "metacopy", "whiteout", "overlay.opaque"])
def test_overlay_xattrs_in_a_layer_are_escaped(room: Room, form: WhiteoutFormat, what: str) -> None:
    name = f"{form.value}.overlay.{what}"
    layer = room.unpack(dir("d", xattrs={name: b"y"}), file("f", xattrs={name: b"y"}), form=form)
    for path in ("d", "f"):
        assert layer.xattrs(path) == {f"{form.value}.overlay.overlay.{what}"}
        assert layer.xattr(path, f"{form.value}.overlay.overlay.{what}") == b"y"
    assert not layer.is_opaque("d")
    assert layer.record.escaped_xattrs
    assert not layer.record.is_plain


@needs_root
def test_the_other_form_s_overlay_xattrs_are_data_that_no_mount_of_this_layer_reads(
    room: Room,
) -> None:
    layer = room.unpack(dir("d", xattrs={"user.overlay.opaque": b"y"}), form=WhiteoutFormat.TRUSTED)
    assert layer.xattrs("d") == {"user.overlay.opaque"}
    assert not layer.is_opaque("d")
    assert not layer.record.escaped_xattrs


def test_a_char_device_0_0_in_a_layer_is_refused(room: Room) -> None:
    with pytest.raises(LayerError, match="overlay whiteout in a layer"):
        room.unpack(char("x", 0, 0))


@pytest.mark.parametrize(("major", "minor"), [(1 << 12, 0), (0, 1 << 20), (1 << 32, 1 << 32)])
def test_a_device_that_the_kernel_would_cut_down_to_0_0_is_refused(
    room: Room, major: int, minor: int
) -> None:
    with pytest.raises(LayerError, match="device"):
        room.unpack(char("x", major, minor))


@needs_root
def test_devices_and_fifos_are_made(room: Room) -> None:
    layer = room.unpack(
        char("null", 1, 3, mode=0o666),
        block("sda", 8, 1, mode=0o660),
        block("zero", 0, 0),
        char("far", 4095, 1048575),
        fifo("pipe", mode=0o4600),
    )
    assert stat.S_ISCHR(layer.stat("null").st_mode)
    assert layer.stat("null").st_rdev == os.makedev(1, 3)
    assert layer.mode("null") == 0o666
    assert stat.S_ISBLK(layer.stat("sda").st_mode)
    assert layer.stat("zero").st_rdev == 0
    assert layer.stat("far").st_rdev == os.makedev(4095, 1048575)
    assert stat.S_ISFIFO(layer.stat("pipe").st_mode)
    assert layer.mode("pipe") == 0o4600
    assert layer.stat("pipe").st_mtime == MTIME


# -- replacement ----------------------------------------------------------------------------


def test_of_a_repeated_file_the_last_one_counts(room: Room) -> None:
    layer = room.unpack(*(file("x", b"%d" % n * n, mode=0o600 + n) for n in range(1, 8)))
    assert layer.read("x") == b"7777777"
    assert layer.mode("x") == 0o607
    assert layer.names() == {b"x"}


def test_of_a_repeated_directory_the_last_one_counts_and_its_children_stay(room: Room) -> None:
    layer = room.unpack(dir("d", mode=0o700), file("d/x", b"1"), dir("d", mode=0o711))
    assert layer.mode("d") == 0o711
    assert layer.read("d/x") == b"1"


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o500, 0o1777, 0o2750, 0])
def test_a_directory_that_was_implied_first_gets_its_own_mode(room: Room, mode: int) -> None:
    layer = room.unpack(file("d/e/x"), dir("d", mode=mode), dir("d/e", mode=0o711))
    assert (layer.mode("d"), layer.mode("d/e")) == (mode, 0o711)


def test_a_directory_can_become_a_file_and_a_directory_again(room: Room) -> None:
    layer = room.unpack(
        dir("d", mode=0o700),
        file("d/e/old", b"1"),
        file("d", b"2"),
        dir("d", mode=0o711),
        file("d/new", b"3"),
        file("d", b"4"),
        file("d/e/newer", b"5"),
    )
    assert layer.names() == {b"d", b"d/e", b"d/e/newer"}
    assert layer.read("d/e/newer") == b"5"
    assert layer.record.implied == {b"", b"d/e"}
    assert layer.is_opaque("d"), "the file that d was has hidden what lies below"


def test_a_file_in_the_way_of_a_path_becomes_a_directory(room: Room) -> None:
    layer = room.unpack(file("d", b"1"), file("d/x", b"2"))
    assert layer.read("d/x") == b"2"


def test_each_type_can_replace_each_other(room: Room) -> None:
    made = [
        file("x", b"1"), dir("x"), symlink("x", "t"), fifo("x"), hardlink("x", "t"),
    ]  # fmt: skip
    parts = [file("t", b"t")]
    for first in made:
        for second in made:
            parts += [first, second]
    layer = room.unpack(*parts)
    assert layer.read("x") == b"t"
    assert layer.names() == {b"x", b"t"}


def test_replacing_a_hard_link_leaves_its_target_alone(room: Room) -> None:
    layer = room.unpack(file("a", b"1"), hardlink("b", "a"), file("b", b"22", mode=0o600))
    assert (layer.read("a"), layer.read("b")) == (b"1", b"22")
    assert layer.mode("a") == 0o644


def test_a_symlink_is_replaced_and_not_written_through(room: Room) -> None:
    layer = room.unpack(
        file("t", b"1"), symlink("l", "t"), file("l", b"2"), symlink("m", "/t"), dir("m")
    )
    assert (layer.read("t"), layer.read("l")) == (b"1", b"2")
    assert layer.is_directory("m")


# -- names ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [b"\xff\xfe", b"a\nb", b"n" * 255, b" ", b"*", b"\\", b"-rf", "\u202e".encode(), b":,"]
)
def test_any_name_that_linux_takes_is_taken(room: Room, name: bytes) -> None:
    layer = room.unpack(
        file(name + b"/" + name, b"1"), symlink(name + b"/l", name), whiteout(name + b"/w")
    )
    assert layer.read(name + b"/" + name) == b"1"
    assert layer.target(name + b"/l") == name


def test_a_name_of_256_bytes_is_a_malformed_layer(room: Room) -> None:
    for entry in (file("n" * 256), dir("n" * 256), file("n" * 256 + "/x"), whiteout("n" * 256)):
        with pytest.raises(LayerError, match="too long"):
            room.unpack(entry)


def test_a_path_longer_than_path_max_is_no_problem(room: Room) -> None:
    above = "/".join(["n" * 250] * 40)
    layer = room.unpack(
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


def test_deep_trees_are_made_in_linear_time(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0
    opened = os.open

    def counting(*arguments: object, **options: object) -> int:
        nonlocal calls
        calls += 1
        return opened(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", counting)
    room.unpack(*(file(f"{n}/" + "/".join("d" * 500) + "/x") for n in range(4)))
    assert calls < 4 * 500 * 6


def test_the_tree_s_depth_is_bounded_where_symlinks_lead_deeper_than_names(room: Room) -> None:
    deep = "/".join("d" * 300)
    with pytest.raises(LayerError, match="over a limit"):
        room.unpack(symlink("l", deep), symlink(f"{deep}/m", deep), file("l/m/x"))


def test_a_walk_through_symlinks_is_bounded(room: Room) -> None:
    with pytest.raises(LayerError, match="over a limit"):
        room.unpack(*(symlink(f"l{n}", "a/" * 2000 + f"l{n + 1}") for n in range(39)), file("l0/x"))


# -- the directory that is unpacked into ----------------------------------------------------


@needs_root
def test_a_set_group_id_store_directory_changes_no_groups_and_modes(room: Room) -> None:
    os.chown(room.path, 0, 4711)
    os.chmod(room.path, 0o2700)
    layer = room.unpack(file("f"), dir("d", mode=0o755), file("e/f"))
    for path in ("", "f", "d", "e", "e/f"):
        assert layer.stat(path).st_gid == 0, path
        assert not layer.mode(path) & 0o2000, path


@needs_root
def test_a_default_acl_on_the_store_directory_changes_nothing(room: Room) -> None:
    set_value(os.fsencode(room.path), b"system.posix_acl_default", _acl(user_4711=7, mask=5))
    layer = room.unpack(file("f", mode=0o666), dir("d", mode=0o777), file("e/f"), fifo("p"))
    modes = {path: layer.mode(path) for path in ("", "f", "d", "e", "e/f", "p")}
    assert modes == {"": 0o755, "f": 0o666, "d": 0o777, "e": 0o755, "e/f": 0o644, "p": 0o644}
    for path in modes:
        assert not layer.xattrs(path), path


def _acl(*, user_4711: int, mask: int) -> bytes:
    """The kernel's form (linux/posix_acl_xattr.h): version, then tag, permissions, id."""
    entries = [(1, 7, -1), (2, user_4711, 4711), (4, 0, -1), (0x10, mask, -1), (0x20, 0, -1)]
    return (2).to_bytes(4, "little") + b"".join(
        tag.to_bytes(2, "little")
        + perm.to_bytes(2, "little")
        + (who % (1 << 32)).to_bytes(4, "little")
        for tag, perm, who in entries
    )


def test_the_umask_changes_nothing_and_comes_back(room: Room) -> None:
    before = os.umask(0o077)
    try:
        layer = room.unpack(file("f", mode=0o666), dir("d", mode=0o777), fifo("p", mode=0o622))
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(before)
    assert [layer.mode(path) for path in ("f", "d", "p")] == [0o666, 0o777, 0o622]


def test_the_umask_comes_back_after_a_failure(room: Room) -> None:
    before = os.umask(0o027)
    try:
        with pytest.raises(LayerError):
            room.unpack(char("x", 0, 0))
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)


def test_a_missing_directory_for_replaced_files_is_made_only_when_needed(room: Room) -> None:
    assert not room.unpack(file("x"), symlink("l", "a"), symlink("l", "b")).aside.exists()
    assert stat.S_IMODE(room.unpack(file("x"), file("x")).aside.stat().st_mode) == 0o700


# -- the machine's own troubles -------------------------------------------------------------


@needs_root
def test_a_full_disk_is_no_layer_error_and_says_so(room: Room) -> None:
    disk = room.path / "small"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", disk], check=True)
    try:
        (disk / "diff").mkdir()
        reader = TarReader(chunked(tar(file("x", bytes(1 << 20)))), what="test")
        with pytest.raises(StackerError, match=r"cannot unpack: test: x: No space left") as caught:
            apply(reader, disk / "diff", aside=disk / "aside", form=FORM, idmap=IDMAP)
    finally:
        subprocess.run(["umount", disk], check=True)
    assert type(caught.value) is StackerError
    assert caught.value.hint is not None


# -- without privileges ---------------------------------------------------------------------

UNPRIVILEGED = """
import sys
from pathlib import Path
from stacker.layer.apply import apply
from stacker.layer.idmap import {idmap}
from stacker.layer.skeleton import SkeletonWriter, reassembled
from stacker.layer.tar import TarReader
from stacker.layer.whiteout import WhiteoutFormat
from stacker.errors import StackerError

room, stream = Path(sys.argv[1]), sys.stdin.buffer.read()
(room / "diff").mkdir()
with (room / "skeleton").open("wb") as file:
    skeleton = SkeletonWriter(file)
    try:
        record = apply(
            TarReader(iter([stream]), what="test", keep=skeleton.keep), room / "diff",
            aside=room / "aside", form=WhiteoutFormat.USER, idmap={idmap},
        )
    except StackerError as error:
        sys.exit(f"{{type(error).__name__}}: {{error}} ({{error.hint}})")
    skeleton.finish()
again = b"".join(reassembled(room / "skeleton", record, room / "diff", room / "aside", what="test"))
assert again == stream
print(*record.warnings, sep="\\n")
"""


def _as_nobody(
    room: Path, stream: bytes, idmap: str = "SQUASH"
) -> subprocess.CompletedProcess[bytes]:
    """Unpack as a user without privileges, who can read the package and write to ``room``."""
    package = room / "package"
    shutil.copytree(Path(stacker.__file__).parent, package / "stacker")
    for path in [package, *package.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    os.chmod(room, 0o777)
    command = [sys.executable, "-B", "-c", UNPRIVILEGED.format(idmap=idmap), str(room)]
    return subprocess.run(
        ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", *command],
        input=stream,
        capture_output=True,
        check=False,
        env={"PYTHONPATH": str(package), "PATH": os.environ["PATH"]},
    )


needs_setpriv = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None,
    reason="becomes another user: needs root and setpriv",
)


@pytest.fixture
def open_path(tmp_path: Path) -> Path:
    """A directory that any user can reach."""
    path = tmp_path
    while path != path.parent:
        if path.stat().st_uid == os.geteuid() and not path.stat().st_mode & 0o001:
            path.chmod(path.stat().st_mode | 0o011)
        path = path.parent
    return tmp_path


@needs_setpriv
def test_a_user_without_privileges_can_unpack_squashed(open_path: Path) -> None:
    done = _as_nobody(
        open_path,
        tar(
            dir("", mode=0o755, uid=0),
            file("f", b"1", uid=1000, gid=1000, mode=0o4711),
            file("read-only", b"2", mode=0o400, xattrs={"user.a": b"\0"}),
            dir("closed", mode=0o500, xattrs={"user.overlay.opaque": b"y"}),
            file("closed/x", b"3"),
            dir("closed/deeper", mode=0o500),
            file("closed/deeper/y", b"4"),
            symlink("l", "f", uid=5),
            hardlink("h", "f"),
            fifo("p", mode=0o666),
            whiteout("w"),
            opaque("d"),
            file("t", xattrs={"trusted.x": b"1", "security.capability": b"bad"}),
            char("null", 1, 3),
            block("sda", 8, 0),
        ),
    )
    assert done.returncode == 0, done.stderr.decode()
    diff = open_path / "diff"
    assert {path.lstat().st_uid for path in [diff, *diff.rglob("*")]} == {65534}
    assert (diff / "f").stat().st_mode & 0o7777 == 0o4711
    assert (diff / "read-only").stat().st_mode & 0o7777 == 0o400
    assert os.getxattr(diff / "read-only", "user.a") == b"\0"
    assert (diff / "closed").stat().st_mode & 0o7777 == 0o500
    assert os.listxattr(diff / "closed") == ["user.overlay.overlay.opaque"]
    assert (diff / "closed/deeper/y").read_bytes() == b"4"
    assert os.getxattr(diff / "d", "user.overlay.opaque") == b"y"
    for name in ("w", "null", "sda"):  # a device that is left out still hides what is below
        status = (diff / name).lstat()
        assert stat.S_ISCHR(status.st_mode)
        assert status.st_rdev == 0
    warnings = done.stdout.decode()
    assert "devices left out: null and others" in warnings
    assert "xattrs left out: trusted.x" in warnings
    assert len(warnings.splitlines()) == 3


@needs_setpriv
def test_without_privileges_an_identity_map_fails_with_a_hint(open_path: Path) -> None:
    done = _as_nobody(open_path, tar(file("f", uid=1000)), "IDENTITY")
    assert done.returncode == 1
    assert (
        b"StackerError: cannot unpack: test: f: Operation not permitted (unpack as root"
        in done.stderr
    )


def test_the_record_says_who_owns_the_files(room: Room) -> None:
    assert room.unpack(file("f"), idmap=SQUASH).record.squashed
    if os.geteuid() == 0:
        assert not room.unpack(file("f"), idmap=IDENTITY).record.squashed


def test_counts_are_those_of_the_stream(room: Room) -> None:
    layer = room.unpack(
        pax(comment="x"), file("a", b"123"), file("b", b"4567"), dir("d"), whiteout("w"), file("a")
    )
    record = layer.record
    assert (record.entries, record.files, record.file_bytes, record.whiteouts) == (5, 3, 7, 1)
