"""The overlay driver on the real kernel, with both kernel interfaces."""

from __future__ import annotations

import errno
import os
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING, get_args

import pytest

from stacker.errors import MountError, RefusedError, UnsupportedError
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.linux import mountapi, mountinfo
from stacker.linux.mountapi import OVERLAY_MAX_LAYERS
from stacker.mount.drivers.overlay import Api, OverlayDriver
from stacker.mount.plan import Plan
from tests.support.bench import image_of

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.bench import Bench

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
every_api = pytest.mark.parametrize("api", get_args(Api))


def planned(bench: Bench, *layers: Path, plain: bool = False, read_only: bool = True) -> Plan:
    workspace = bench.path / "workspace"
    plan = bench.request(read_only=read_only).plan(image_of(*layers, plain=plain), "0a", workspace)
    for directory in plan.directories:
        directory.mkdir(parents=True)
    return plan


@every_api
def test_upper_layers_win_and_whiteouts_hide(bench: Bench, api: Api) -> None:
    lower = bench.layer("lower", both="lower", gone="lower", kept="lower", dir__old="lower")
    upper = bench.layer("upper", both="upper", dir__new="upper")
    os.mknod(upper / "gone", 0o20000, os.makedev(0, 0))
    os.setxattr(upper / "dir", "trusted.overlay.opaque", b"y")
    assert OverlayDriver(api).mount(planned(bench, upper, lower)).driver == "overlay"
    assert sorted(os.listdir(bench.target)) == ["both", "dir", "kept"]
    assert (bench.target / "both").read_text() == "upper"
    assert os.listdir(bench.target / "dir") == ["new"]


@every_api
def test_mountinfo_shows_source_and_options(bench: Bench, api: Api) -> None:
    OverlayDriver(api).mount(planned(bench, bench.layer("a", f="a"), bench.layer("b")))
    found = mountinfo.at(bench.target)
    assert found is not None
    assert (found.fstype, found.source, found.read_only) == ("overlay", "stacker:0a", True)
    assert "redirect_dir=nofollow" in found.super_options
    assert "redirect_dir=on" not in found.super_options
    assert "metacopy=on" not in found.super_options


@every_api
def test_a_read_only_mount_refuses_writes(bench: Bench, api: Api) -> None:
    OverlayDriver(api).mount(planned(bench, bench.layer("a", f="a"), bench.layer("b")))
    with pytest.raises(OSError, match="Read-only"):
        (bench.target / "f").write_text("x")


@every_api
def test_writes_go_to_the_upper_and_change_no_layer(bench: Bench, api: Api) -> None:
    layer = bench.layer("a", f="a")
    plan = planned(bench, layer, read_only=False)
    OverlayDriver(api).mount(plan)
    (bench.target / "f").write_text("changed")
    (bench.target / "new").write_text("new")
    assert plan.upper is not None
    assert sorted(os.listdir(plan.upper)) == ["f", "new"]
    assert (layer / "f").read_text() == "a"


@every_api
def test_single_plain_layer_is_bound_read_only(bench: Bench, api: Api) -> None:
    layer = bench.layer("a", f="a")
    note = OverlayDriver(api).mount(planned(bench, layer, plain=True)).note
    assert note == "a bind mount of the only layer"
    found = mountinfo.at(bench.target)
    assert found is not None
    assert (found.fstype != "overlay", found.read_only) == (True, True)
    assert bench.target.stat().st_ino == layer.stat().st_ino
    with pytest.raises(OSError, match="Read-only"):
        (bench.target / "f").write_text("x")


@every_api
def test_mount_inside_a_bind_does_not_propagate_to_the_layer(bench: Bench, api: Api) -> None:
    bench_mount = bench.path
    mountapi.mount(bench_mount, bench_mount, None, mountapi.MS_BIND)
    mountapi.mount("none", bench_mount, None, 1 << 20)  # MS_SHARED, as systemd makes every mount
    layer = bench.layer("a", dir__f="a")
    OverlayDriver(api).mount(planned(bench, layer, plain=True))
    mountapi.mount("inside", bench.target / "dir", "tmpfs", 0)
    assert mountinfo.at(bench.target / "dir") is not None
    assert mountinfo.at(layer / "dir") is None
    mountapi.umount2(bench.target / "dir")
    mountapi.umount2(bench.target)
    mountapi.umount2(bench_mount)


@every_api
def test_single_layer_with_a_whiteout_is_stacked(bench: Bench, api: Api) -> None:
    layer = bench.layer("a", f="a")
    os.mknod(layer / "gone", 0o20000, os.makedev(0, 0))
    OverlayDriver(api).mount(planned(bench, layer))
    assert os.listdir(bench.target) == ["f"]


@every_api
def test_no_layers_mount_as_an_empty_tree(bench: Bench, api: Api) -> None:
    OverlayDriver(api).mount(planned(bench))
    assert os.listdir(bench.target) == []
    assert mountinfo.at(bench.target) is not None


@every_api
def test_user_whiteout_format_is_read(bench: Bench, api: Api) -> None:
    lower, upper = bench.layer("lower", dir__old="x"), bench.layer("upper", dir__new="x")
    os.setxattr(upper / "dir", "user.overlay.opaque", b"y")
    OverlayDriver(api).mount(
        replace(planned(bench, upper, lower), whiteout_format=WhiteoutFormat.USER)
    )
    assert os.listdir(bench.target / "dir") == ["new"]


ODD_NAMES = {
    "colon": b"l:1",
    "comma": b"l,1",
    "backslash": b"l\\1",
    "trailing backslash": b"l\\",
    "escape": b"l\\:\\,1",
    "blank": b" l 1 ",
    "newline": b"l\n1",
    "quote": b"l\"'1",
    "not utf-8": b"l\xff\xfe1",
    "octal": b"l\\0401",
    "long": b"l" * 255,
}


@every_api
@pytest.mark.parametrize("name", ODD_NAMES.values(), ids=ODD_NAMES)
def test_store_path_can_be_any_bytes(bench: Bench, name: bytes, api: Api) -> None:
    odd = bench.path / os.fsdecode(name)
    odd.mkdir()
    plan = planned(bench, bench.layer("a", f="a"), bench.layer("b", g="b"), read_only=False)
    assert plan.upper is not None
    assert plan.work is not None
    moved = []
    for directory in (*plan.layers, plan.upper, plan.work):
        directory.rename(odd / directory.name)
        moved.append(odd / directory.name)
    *layers, upper, work = moved
    target = odd / "target"
    target.mkdir()
    plan = replace(plan, target=target, layers=tuple(layers), upper=upper, work=work)
    OverlayDriver(api).mount(plan)
    assert sorted(os.listdir(target)) == ["f", "g"]
    (target / "new").write_text("x")
    assert os.listdir(upper) == ["new"]


def many(bench: Bench, count: int) -> list[Path]:
    return [bench.layer(f"{number:064}", **{f"f{number}": "x"}) for number in range(count)]


@pytest.mark.parametrize("count", [300, OVERLAY_MAX_LAYERS])
@pytest.mark.parametrize("read_only", [True, False])
def test_hundreds_of_layers_mount(bench: Bench, count: int, *, read_only: bool) -> None:
    OverlayDriver().mount(planned(bench, *many(bench, count), read_only=read_only))
    assert len(os.listdir(bench.target)) == count


def test_too_many_layers_are_refused_before_the_attempt(bench: Bench) -> None:
    plan = planned(bench, *many(bench, OVERLAY_MAX_LAYERS + 1))
    refusal = OverlayDriver().refusal(plan)
    assert isinstance(refusal, UnsupportedError)
    assert "got 501, want at most 500" in refusal.message
    with pytest.raises(MountError):  # the kernel has the same limit
        OverlayDriver("context").mount(plan)
    assert mountinfo.at(bench.target) is None


def test_mount2_reports_the_page_limit(bench: Bench) -> None:
    layers = many(bench, OVERLAY_MAX_LAYERS)
    OverlayDriver("mount2").mount(planned(bench, *layers[:150]))
    assert len(os.listdir(bench.target)) == 150
    mountapi.umount2(bench.target)
    with pytest.raises(
        MountError, match=r"got \d+ bytes .* 500 layers, want at most 4095"
    ) as caught:
        OverlayDriver("mount2").mount(planned(bench, *layers))
    assert caught.value.hint is not None
    assert "Linux 6.8" in caught.value.hint
    assert mountinfo.at(bench.target) is None


@every_api
def test_missing_layer_is_a_mount_error_that_names_it(bench: Bench, api: Api) -> None:
    missing = bench.path / "missing"
    with pytest.raises(MountError, match=f"{missing}: No such file") as caught:
        OverlayDriver(api).mount(planned(bench, bench.layer("a"), missing))
    assert not isinstance(caught.value, RefusedError)
    assert bench.left() == []


def test_repeated_layer_is_an_error_with_a_hint(bench: Bench) -> None:
    layer = bench.layer("a", f="a")
    with pytest.raises(MountError) as caught:
        OverlayDriver().mount(planned(bench, layer, layer))
    assert caught.value.hint is not None
    assert "twice" in caught.value.hint
    assert bench.left() == []


@every_api
def test_upper_on_an_unsupported_filesystem_is_refused_with_a_hint(bench: Bench, api: Api) -> None:
    plan = planned(bench, bench.layer("a", f="a"), read_only=False)
    assert plan.upper is not None
    workspace = plan.upper.parent
    OverlayDriver().mount(replace(plan, target=workspace.parent / "target"))
    inside = bench.target / "workspace"  # on an overlay, which is no place for an upper
    (inside / "upper").mkdir(parents=True)
    (inside / "work").mkdir()
    (bench.path / "second").mkdir()
    second = replace(
        plan, target=bench.path / "second", upper=inside / "upper", work=inside / "work"
    )
    with pytest.raises(RefusedError) as caught:
        OverlayDriver(api).mount(second)
    assert caught.value.hint is not None
    assert "not on an overlay" in caught.value.hint
    assert mountinfo.at(second.target) is None


def test_removed_target_is_a_mount_error(bench: Bench) -> None:
    plan = planned(bench, bench.layer("a"), bench.layer("b"))
    bench.target.rmdir()
    with pytest.raises(MountError, match="No such file") as caught:
        OverlayDriver().mount(plan)
    assert not isinstance(caught.value, RefusedError)


def test_target_replaced_by_a_symlink_is_not_followed(bench: Bench) -> None:
    plan = planned(bench, bench.layer("a"), bench.layer("b"))
    bench.target.rmdir()
    (bench.path / "precious").mkdir()
    bench.target.symlink_to("precious")
    with pytest.raises(MountError, match="Not a directory"):
        OverlayDriver().mount(plan)
    assert mountinfo.at(bench.path / "precious") is None


def test_error_has_both_reasons_when_both_interfaces_fail(bench: Bench) -> None:
    layers = many(bench, 400)
    plan = planned(bench, *layers, read_only=False)
    bad = replace(plan, upper=plan.work)  # EINVAL from fsconfig(2), too long for mount(2)
    both = r"Invalid argument.*; by mount\(2\): got \d+ bytes of mount options for 400 layers"
    with pytest.raises(RefusedError, match=both):
        OverlayDriver().mount(bad)
    assert bench.left() == []


def test_mount_leaves_no_descriptor_open(bench: Bench) -> None:
    before = os.listdir("/proc/self/fd")
    odd = bench.layer("a:b", f="a")
    OverlayDriver().mount(planned(bench, odd, bench.layer("b")))
    mountapi.umount2(bench.target)
    OverlayDriver("mount2").mount(planned(bench, odd, bench.layer("c")))
    with pytest.raises(MountError):
        OverlayDriver().mount(planned(bench, odd, odd))
    assert os.listdir("/proc/self/fd") == before


def test_busy_unmount_is_an_error_with_a_hint(bench: Bench) -> None:
    OverlayDriver().mount(planned(bench, bench.layer("a", f="a"), bench.layer("b")))
    with (bench.target / "f").open():
        with pytest.raises(OSError, match="busy") as caught:
            mountapi.umount2(bench.target)
        assert caught.value.errno == errno.EBUSY
    assert subprocess.run(["umount", bench.target], check=False).returncode == 0
