"""Images in EROFS form, through the real command: every verb gives what it gives for trees."""

from __future__ import annotations

import errno
import json
import os
import struct
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from stacker.errors import MountError
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.linux import mountinfo
from stacker.linux.syscall import syscall
from stacker.mount.drivers.overlay import OverlayDriver
from stacker.mount.plan import MountRequest, StackedImage
from tests.support import images
from tests.support.command import Stacker, at_home
from tests.support.forms import LOWER, UPPER, forms_of, layer_directories
from tests.support.images import layout
from tests.support.indexes import merged_stack
from tests.support.snapshot import Node, snapshot
from tests.support.tars import file, sparse_01, tar

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts filesystems: needs root"),
    pytest.mark.usefixtures("alone_among_mounts"),
]


def test_pull_in_erofs_form_creates_no_tree(stacker: Stacker, app: images.Layout) -> None:
    stacker("pull", "--no-sync", "--form", "erofs", app.source)
    for layer, content in zip(layer_directories(stacker, app), (LOWER, UPPER), strict=True):
        assert {path.name for path in layer.iterdir()} == {
            *("layer.tar", "index.erofs", "layer.json", "session"),
        }
        stored = (layer / "layer.tar").read_bytes()
        assert stored == content + bytes(-len(content) % 512)
    assert forms_of(stacker, app) == [["erofs"], ["erofs"]]


@pytest.mark.parametrize("driver", ["overlay", "fuse", "copy"])
def test_mount_of_the_erofs_form_equals_that_of_trees(
    stacker: Stacker, app: images.Layout, wanted: dict[bytes, Node], tmp_path: Path, driver: str
) -> None:
    stacker("pull", "--no-sync", "--form", "erofs", app.source)
    target = tmp_path / "target"
    target.mkdir()
    stacker("mount", "--driver", driver, app.image.config, target)
    assert snapshot(target) == wanted
    stacker("umount", target)
    assert os.listdir(target) == []
    assert os.listdir(stacker.store / "mounts") == []


def test_unpack_of_the_erofs_form_equals_that_of_trees(
    stacker: Stacker, app: images.Layout, wanted: dict[bytes, Node], tmp_path: Path
) -> None:
    stacker("pull", "--no-sync", "--form", "erofs", app.source)
    stacker("unpack", app.image.config, tmp_path / "plain")
    assert snapshot(tmp_path / "plain") == wanted


@pytest.mark.parametrize("option", ["--rw", "--upper"])
@pytest.mark.parametrize("driver", ["overlay", "fuse"])
def test_writes_go_above_the_index(
    stacker: Stacker, app: images.Layout, tmp_path: Path, driver: str, option: str
) -> None:
    stacker("pull", "--no-sync", "--form", "erofs", app.source)
    target, upper = tmp_path / "target", tmp_path / "upper"
    target.mkdir()
    words = [option] if option == "--rw" else [option, upper]
    before = [(layer / "layer.tar").read_bytes() for layer in layer_directories(stacker, app)]
    stacker("mount", "--driver", driver, *words, app.image.config, target)
    with (target / "etc" / "hosts").open("ab") as hosts:
        hosts.write(b"::1 localhost\n")
    (target / "usr" / "lib" / "x").unlink()
    (target / "new").write_text("new")
    assert (target / "etc" / "hosts").read_bytes().endswith(b"localhost\n::1 localhost\n")
    stacker("umount", target)
    assert [
        (layer / "layer.tar").read_bytes() for layer in layer_directories(stacker, app)
    ] == before
    assert (upper / "new").exists() == (option == "--upper")
    assert os.listdir(stacker.store / "mounts") == []


def test_an_overlay_that_fails_leaves_no_mount_of_the_index(tmp_path: Path) -> None:
    stack = merged_stack([LOWER], tmp_path, WhiteoutFormat.TRUSTED)
    image = StackedImage("image", stack)
    plan = MountRequest(tmp_path / "target", read_only=False).plan(image, "id", tmp_path / "own")
    plan = replace(plan, work=Path("/proc"))  # not the mount of the upper directory
    for path in (plan.target, *filter(None, (plan.index_directory, plan.upper))):
        path.mkdir(parents=True)
    with pytest.raises(MountError):
        OverlayDriver().mount(plan)
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


def cached_bytes(path: Path) -> int:
    """Return the bytes of a file that are in the page cache (cachestat(2), Linux 6.5)."""
    span, found = struct.pack("=QQ", 0, 0), bytes(5 * 8)
    with path.open("rb") as file:
        try:
            syscall(451, file.fileno(), span, found, 0)
        except OSError as error:
            if error.errno != errno.ENOSYS:
                raise
            pytest.skip("the kernel has no cachestat(2)")
    return int.from_bytes(found[:8], sys.byteorder) * os.sysconf("SC_PAGE_SIZE")


def test_a_read_of_a_mount_takes_pages_of_the_tar_from_memory(
    stacker: Stacker, tmp_path: Path
) -> None:
    content = os.urandom(1 << 22)
    app = layout(tmp_path / "large", [tar(file("large", content))])
    stacker("pull", "--sync", "--form", "erofs", app.source)
    target = tmp_path / "target"
    target.mkdir()
    stacker("mount", app.image.config, target)
    mount = mountinfo.at(target)
    assert mount is not None
    if not Path(mount.source).is_relative_to(tmp_path):
        pytest.skip("this kernel mounts an index through loop devices only")
    [layer] = layer_directories(stacker, app)
    with (layer / "layer.tar").open("rb") as stored:
        os.posix_fadvise(stored.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    assert cached_bytes(layer / "layer.tar") == 0
    assert (target / "large").read_bytes() == content
    assert cached_bytes(layer / "layer.tar") >= len(content)


def test_mounts_of_one_index_share_its_filesystem(
    stacker: Stacker, app: images.Layout, tmp_path: Path
) -> None:
    plain = layout(tmp_path / "plain", [LOWER])
    stacker("pull", "--no-sync", "--form", "erofs", plain.source)
    targets = [tmp_path / name for name in ("first", "second")]
    for target in targets:
        target.mkdir()
        stacker("mount", plain.image.config, target)
    devices = {os.stat(target).st_dev for target in targets}
    assert len(devices) == 1
    stacker("umount", targets[0])
    assert (targets[1] / "etc" / "passwd").read_bytes() == b"root:x:0:0::/:/bin/sh\n"
    states = json.loads(stacker("mounts", "--json").out)["items"]
    assert [each["target"] for each in states] == [str(targets[1])]
    stacker("umount", targets[1])


def test_push_of_the_erofs_form_gives_the_same_layers(
    stacker: Stacker, app: images.Layout, tmp_path: Path
) -> None:
    stacker("pull", "--no-sync", "--form", "erofs", app.source)
    stacker("push", app.image.config, f"oci:{tmp_path / 'out'}:app")
    again = at_home(tmp_path, store="again")
    assert app.image.config in again("pull", "--no-sync", f"oci:{tmp_path / 'out'}:app").out
    again("verify", app.image.config)


def test_rm_and_gc_leave_nothing_of_the_erofs_form(stacker: Stacker, app: images.Layout) -> None:
    stacker("pull", "--no-sync", "--form", "erofs", app.source)
    stacker("rm", app.image.config)
    stacker("gc")
    assert not any(path.exists() for path in layer_directories(stacker, app))
    assert list((stacker.store / "chains").glob("*/*")) == []


@pytest.mark.parametrize("driver", ["overlay", "fuse"])
def test_large_sparse_file_is_read_from_a_small_index(
    stacker: Stacker, tmp_path: Path, driver: str
) -> None:
    size, last = 900 << 30, 899 << 30
    lastlog = sparse_01("var/log/lastlog", size, [(292, b"first"), (last + 292, b"last")])
    app = layout(tmp_path / "sparse", [tar(lastlog)])
    stacker("pull", "--no-sync", "--form", "erofs", app.source)
    [layer] = layer_directories(stacker, app)
    assert (layer / "index.erofs").stat().st_size < 16 << 20
    target = tmp_path / "target"
    target.mkdir()
    stacker("mount", "--driver", driver, app.image.config, target)
    with (target / "var/log/lastlog").open("rb") as file:
        assert os.fstat(file.fileno()).st_size == size
        assert os.pread(file.fileno(), 300, 0) == bytes(292) + b"first" + bytes(3)
        assert os.pread(file.fileno(), 297, last) == bytes(292) + b"last" + bytes(1)
        assert os.pread(file.fileno(), 9, 5 << 30) == bytes(9)
        assert os.pread(file.fileno(), 9, size - 2) == bytes(2)
    stacker("umount", target)
    stacker("verify", app.image.config)


def test_print_plan_lists_the_mounts_of_the_erofs_form(
    stacker: Stacker, app: images.Layout, tmp_path: Path
) -> None:
    stacker("pull", "--no-sync", "--form", "erofs", app.source)
    (tmp_path / "target").mkdir()
    plan = json.loads(
        stacker(
            "mount", "--print-plan", "--json", "--rw", app.image.config, tmp_path / "target"
        ).out
    )
    text = json.dumps(plan)
    assert '"type": "erofs"' in text
    assert '"type": "overlay"' in text
