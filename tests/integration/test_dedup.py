"""`pull --dedup` lets equal files share storage, and changes no tree."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command import Result, Stacker, at_home
from tests.support.images import Layout, layout
from tests.support.snapshot import snapshot
from tests.support.tars import dir, file, hardlink, tar  # noqa: A004

MIB = 1 << 20
RANDOM = random.Random(1)
SHARED, LONG, ENDS = RANDOM.randbytes(2 * MIB + 5), RANDOM.randbytes(20 * MIB), bytes(8192)
CHANGED = SHARED[:MIB] + b"x" + SHARED[MIB + 1 :]
BASE = tar(dir("d/"), file("d/shared", SHARED), file("d/long", LONG), file("d/small", b"x" * 900))
TOP = tar(
    file("d/again", SHARED),
    hardlink("d/link", "d/again"),
    file("d/other-mode", SHARED, mode=0o600),
    file("d/other-time", SHARED, mtime=77),
    file("d/other-content", CHANGED),
    file("d/small-again", b"x" * 900),
)
OTHER = tar(dir("e/"), file("e/long", LONG), file("e/shared", SHARED), file("e/zeros", ENDS))


@pytest.fixture(params=["xfs", "btrfs"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Give an empty filesystem that can share blocks."""
    if os.geteuid() != 0:
        pytest.skip("mounts a filesystem: needs root")
    if shutil.which(f"mkfs.{request.param}") is None or not Path("/dev/loop-control").exists():
        pytest.skip(f"no mkfs.{request.param} or no loop devices")
    image, path = tmp_path / "image", tmp_path / "filesystem"
    with image.open("wb") as written:
        written.truncate(400 << 20)
    path.mkdir()
    options = ["-m", "reflink=1"] if request.param == "xfs" else []
    subprocess.run([f"mkfs.{request.param}", "-q", *options, str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


@pytest.fixture
def app(tmp_path: Path) -> Layout:
    return layout(tmp_path / "app", [BASE, TOP], name="app")


@pytest.fixture
def other(tmp_path: Path) -> Layout:
    return layout(tmp_path / "other", [OTHER], name="other")


def used(place: Path) -> int:
    os.sync()
    status = os.statvfs(place)
    return (status.f_blocks - status.f_bfree) * status.f_frsize


def pulled(stacker: Stacker, source: str) -> Result:
    return stacker("pull", "--sync", "--dedup", source, "--json")


def test_equal_files_of_all_layers_share_storage(
    place: Path, app: Layout, other: Layout, tmp_path: Path
) -> None:
    stacker, plain = Stacker(place / "store"), at_home(tmp_path)
    for image in (app, other):
        plain("pull", "--sync", image.source)
    first = pulled(stacker, app.source)
    before = used(place)
    second = pulled(stacker, other.source)
    shared = [result.last_document["item"]["shared"] for result in (first, second)]
    assert [each["files"] for each in shared] == [1, 2]
    assert len(SHARED) <= shared[0]["bytes"] < len(SHARED) + MIB
    assert len(SHARED + LONG) <= shared[1]["bytes"] < len(SHARED + LONG) + MIB
    assert used(place) - before < 2 * MIB
    stacker("verify", "--all")
    for name in ("app", "other"):
        for each, tree in ((stacker, tmp_path / f"a-{name}"), (plain, tmp_path / f"b-{name}")):
            each("unpack", name, tree)
        assert snapshot(tmp_path / f"a-{name}") == snapshot(tmp_path / f"b-{name}")


def test_removal_of_one_image_keeps_the_shared_files_of_another(
    place: Path, app: Layout, other: Layout
) -> None:
    stacker = Stacker(place / "store")
    pulled(stacker, app.source)
    pulled(stacker, other.source)
    stacker("rm", "app")
    stacker("verify", "--all")


def test_second_pull_of_an_image_shares_nothing(place: Path, app: Layout) -> None:
    stacker = Stacker(place / "store")
    pulled(stacker, app.source)
    assert pulled(stacker, app.source).last_document["item"]["shared"] == {"files": 0, "bytes": 0}
    assert stacker("pull", app.source, "--json").last_document["item"]["shared"] is None


def test_saved_storage_is_printed(place: Path, app: Layout) -> None:
    said = Stacker(place / "store")("pull", "--sync", "--dedup", app.source).err
    assert "stacker: 1 files share 2.0 MiB with equal files\n" in said


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_filesystem_without_reflinks_is_named_in_one_line(
    kind: str, tmp_path: Path, app: Layout
) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounts a filesystem: needs root")
    path, arguments = tmp_path / "filesystem", ["-t", "tmpfs", "tmpfs"]
    path.mkdir()
    if kind == "ext4":
        image = tmp_path / "image"
        with image.open("wb") as written:
            written.truncate(100 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
        arguments = ["-o", "loop", str(image)]
    subprocess.run(["mount", *arguments, str(path)], check=True)
    try:
        stacker = Stacker(path / "store")
        said = stacker("pull", "--sync", "--dedup", app.source).err
        (line,) = [line for line in said.splitlines() if "storage" in line]
        assert line == (
            f"stacker: warning: cannot share storage: {path / 'store'}: the filesystem or the "
            "kernel cannot share blocks between files"
        )
        stacker.assert_clean(images=1, layers=2)
    finally:
        subprocess.run(["umount", str(path)], check=True)
