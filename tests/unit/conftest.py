"""Fixtures of the unit tests: directories to unpack and mount in, tars and small images."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from stacker.image import mediatype
from stacker.image.descriptor import Descriptor
from stacker.image.digest import DiffID, Digest
from stacker.image.document import to_bytes
from stacker.image.manifest import Manifest
from stacker.linux import mountapi, mountinfo
from stacker.linux.removal import remove_tree
from stacker.store.store import Store
from tests.support.bench import Bench
from tests.support.unpacking import Workspace
from tests.support.unprivileged import IMPORT_PATH

Members = Sequence[tuple[str, bytes | str]]


@dataclass(frozen=True)
class Image:
    """An image of some layers, as the bytes of its blobs."""

    layers: tuple[bytes, ...]
    config: bytes
    manifest: bytes

    @property
    def descriptor(self) -> Descriptor:
        return Descriptor(mediatype.OCI_MANIFEST, Digest.of(self.manifest), len(self.manifest))

    @property
    def blobs(self) -> dict[str, bytes]:
        return {Digest.of(c).hex: c for c in (*self.layers, self.config, self.manifest)}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return an empty store."""
    return Store.open(tmp_path / "store")


@pytest.fixture
def write_tar() -> Callable[[Path, Members], Path]:
    """Return a writer of tars: a member's value is its content, or ``-> target``, ``=> target``
    for a symlink and a hard link."""

    def write(path: Path, members: Members) -> Path:
        with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
            for name, value in members:
                info = tarfile.TarInfo(name)
                if isinstance(value, str):
                    arrow, _, info.linkname = value.partition(" ")
                    info.type = tarfile.SYMTYPE if arrow == "->" else tarfile.LNKTYPE
                    tar.addfile(info)
                elif name.endswith("/"):
                    info.type = tarfile.DIRTYPE
                    tar.addfile(info)
                else:
                    info.size = len(value)
                    tar.addfile(info, io.BytesIO(value))
        return path

    return write


@pytest.fixture
def make_image() -> Callable[..., Image]:
    """Return a maker of images: the words given are what its layers are made of."""

    def make(*words: bytes, architecture: str = "amd64") -> Image:
        layers = tuple(_layer(word) for word in words)
        diff_ids = [str(DiffID.of(layer)) for layer in layers]
        config = json.dumps(
            {
                "os": "linux",
                "architecture": architecture,
                "rootfs": {"type": "layers", "diff_ids": diff_ids},
            }
        ).encode()
        manifest = Manifest(
            mediatype.OCI_MANIFEST,
            Descriptor(mediatype.OCI_CONFIG, Digest.of(config), len(config)),
            tuple(Descriptor(mediatype.OCI_LAYER, Digest.of(b), len(b)) for b in layers),
        )
        return Image(layers, config, to_bytes(manifest.to_json()))

    return make


def _layer(word: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        info = tarfile.TarInfo("word")
        info.size = len(word)
        tar.addfile(info, io.BytesIO(word))
    return file.getvalue()


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the programs that the tests start find the package under test."""
    monkeypatch.setenv("PYTHONPATH", IMPORT_PATH)


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    """Give a directory to unpack in; its trees may be too deep for pytest's own removal."""
    path = tmp_path / "workspace"
    path.mkdir()
    yield Workspace(path)
    remove_tree(path)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    bench.target.mkdir()
    bench.store.mkdir(mode=0o700)
    yield bench
    while inside := mountinfo.read().below(tmp_path):
        mountapi.umount2(inside[-1].mount_point, mountapi.MNT_DETACH)
