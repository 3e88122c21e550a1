"""`stacker df` counts each byte that du(1) counts."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stacker.store.store import Store
from tests.support.command import Stacker
from tests.support.images import layout
from tests.support.tars import dir, file, hardlink, tar, whiteout  # noqa: A004

LOWER = tar(dir("d/"), file("d/a", b"a" * 70_000), hardlink("d/b", "d/a"), file("d/c", b"c"))
UPPER = tar(file("d/e", b"e" * 5000), whiteout("d/c"))


@pytest.fixture(params=["tmpfs", "ext4"])
def stacker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stacker]:
    """Give a store on an empty filesystem of its own."""
    if os.geteuid() != 0:
        pytest.skip("mounts a filesystem: needs root")
    place = tmp_path / "filesystem"
    place.mkdir()
    if request.param == "tmpfs":
        words = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(place)]
    else:
        if shutil.which("mkfs.ext4") is None or not Path("/dev/loop-control").exists():
            pytest.skip("no mkfs.ext4 or no loop devices")
        image = tmp_path / "ext4.img"
        with image.open("wb") as written:
            written.truncate(64 << 20)
        subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
        words = ["mount", "-o", "loop", str(image), str(place)]
    subprocess.run(words, check=True)
    try:
        yield Stacker(place / "store")
    finally:
        subprocess.run(["umount", str(place)], check=True)


def plain(stacker: Stacker, source: str) -> None:
    stacker("pull", "--sync", source)


def with_blobs(stacker: Stacker, source: str) -> None:
    stacker("pull", "--sync", "--keep-blobs", source)


def verified(stacker: Stacker, source: str) -> None:
    plain(stacker, source)
    stacker("verify", "--all")


def unlisted(stacker: Stacker, source: str) -> None:
    plain(stacker, source)
    (stacker.store / "images.json").write_text('{"schemaVersion": 2, "manifests": []}')


def replaced(stacker: Stacker, source: str) -> None:
    with_blobs(stacker, source)
    changed = next(stacker.store.glob("layers/sha256/*/diff/d/a"))
    changed.write_bytes(b"wrong")
    stacker("repair", "--all")


def leftovers(stacker: Stacker, source: str) -> None:
    plain(stacker, source)
    (stacker.store / "partial").mkdir(exist_ok=True)
    (stacker.store / "partial/sha256-ab").write_bytes(b"half" * 5000)
    (stacker.store / "staging/spool-1").mkdir()
    with (stacker.store / "staging/spool-1/sparse").open("wb") as sparse:
        sparse.seek(10 << 20)
        sparse.write(b"end")
    (stacker.store / ".index.json.999999.new").write_bytes(b"half")
    (stacker.store / "blobs/sha256/.abc.12.new").write_bytes(b"half")


def linked(stacker: Stacker, source: str) -> None:
    plain(stacker, source)
    first = next(stacker.store.glob("layers/sha256/*/diff/d/a"))
    os.link(first, stacker.store / "staging/linked")


def damaged(stacker: Stacker, source: str) -> None:
    plain(stacker, source)
    records = stacker.store.glob("layers/sha256/*/layer.json")
    for document in (stacker.store / "images.json", *records):
        document.write_bytes(b"")


def discarded_writes(stacker: Stacker, source: str) -> None:
    plain(stacker, source)
    (stacker.store / "mounts/0123456789ab/upper/deep").mkdir(parents=True)
    (stacker.store / "mounts/0123456789ab/upper/deep/file").write_bytes(b"x" * 9000)


def longer_than_path_max(stacker: Stacker, source: str) -> None:
    plain(stacker, source)
    home = Path.cwd()
    os.chdir(stacker.store / "staging")
    try:
        for _ in range(25):
            os.mkdir("n" * 200)
            os.chdir("n" * 200)
        Path("bottom").write_bytes(b"x" * 5000)
    finally:
        os.chdir(home)


def empty(stacker: Stacker, source: str) -> None:
    del source
    Store.open(stacker.store)


STATES: list[Callable[[Stacker, str], None]] = [
    empty,
    plain,
    with_blobs,
    verified,
    unlisted,
    replaced,
    leftovers,
    linked,
    damaged,
    discarded_writes,
    longer_than_path_max,
]


@pytest.mark.parametrize("prepare", STATES, ids=lambda prepare: prepare.__name__)
def test_df_total_equals_du(
    stacker: Stacker, tmp_path: Path, prepare: Callable[[Stacker, str], None]
) -> None:
    prepare(stacker, layout(tmp_path / "app", [LOWER, UPPER]).source)
    got = stacker("df", "--json").item["bytes"]
    words = ["du", "-s", "--block-size=1", str(stacker.store)]
    want = subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()[0]
    assert got["total"] == int(want)
    parts = set(got) - {"total", "unlisted"}
    assert sum(got[part] for part in parts) == got["total"]
    assert got["unlisted"] <= got["layers"]
