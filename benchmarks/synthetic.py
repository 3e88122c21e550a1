"""Generate layers: one feature each, growing series, and small substitutes for real layers.

In: a working directory.  Out: uncompressed tars, base layer first.  The output is deterministic,
except for the substitutes, which copy files of the machine's ``/usr``.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from benchmarks.tarball import EPOCH, LayerTar, Writer, files_tar, writing

_SEED = 20231114
_DIRECTORY_SIZE = 100
_WORDS = [f"{word:x}".encode() for word in range(4096)]


def many_layers(work: Path) -> Iterator[LayerTar]:
    """Make 45 layers, most under 1 KB; an empty one occurs twice."""
    source = random.Random(_SEED)
    for index in range(45):
        with writing(work / f"{index}.tar") as writer:
            if index in (20, 30):
                pass
            elif index % 9 == 0:
                _fill(writer, f"opt/part-{index}", 400, source, size=4096)
            else:
                writer.file(f"etc/setting-{index}", b"%d\n" % index)
        yield LayerTar(work / f"{index}.tar", writer.entries)


def whiteouts(work: Path, files: int = 30_000) -> Iterator[LayerTar]:
    """Make ``files`` files, then layers that delete, recreate and opaque them."""
    directories = files // _DIRECTORY_SIZE
    with writing(work / "base.tar") as base:
        _fill(base, "data", files, random.Random(_SEED), size=300)
    yield LayerTar(work / "base.tar", base.entries)
    with writing(work / "deleted.tar") as deleted:
        for number in range(0, files, 2):
            directory, name = divmod(number, _DIRECTORY_SIZE)
            deleted.file(f"data/{directory:05}/.wh.{name:03}", b"")
    yield LayerTar(work / "deleted.tar", deleted.entries)
    with writing(work / "again.tar") as again:
        for number in range(0, files, 4):
            directory, name = divmod(number, _DIRECTORY_SIZE)
            again.file(f"data/{directory:05}/{name:03}", b"again\n")
    yield LayerTar(work / "again.tar", again.entries)
    with writing(work / "opaque.tar") as opaque:
        for directory in range(0, directories, 3):
            opaque.directory(f"data/{directory:05}")
            opaque.file(f"data/{directory:05}/.wh..wh..opq", b"")
            opaque.file(f"data/{directory:05}/new", b"new\n")
    yield LayerTar(work / "opaque.tar", opaque.entries)


def links(work: Path, hard_links: int = 20_000, with_xattrs: int = 8_000) -> Iterator[LayerTar]:
    """Make hard links, and files with extended attributes."""
    source = random.Random(_SEED)
    path = work / "layer.tar"
    with writing(path) as writer:
        for number in range(hard_links // 4):
            name = f"files/{number // _DIRECTORY_SIZE:05}-{number % _DIRECTORY_SIZE:03}"
            writer.file(name, _text(source, 600))
            for copy in range(4):
                writer.link(f"links/{number // _DIRECTORY_SIZE:05}/{number:06}.{copy}", name)
        for number in range(with_xattrs):
            attributes = {"security.selinux": f"system_u:object_r:bin_t:s0:c{number % 97}"}
            if number % 2:
                attributes = {"user.origin": f"number {number}", "user.kind": "measured"}
            name = f"attributes/{number // _DIRECTORY_SIZE:05}/{number:06}"
            writer.file(name, _text(source, 200), xattrs=attributes)
    yield LayerTar(path, writer.entries)


def large(work: Path, size: int = 1 << 30) -> LayerTar:
    """Make one file of ``size`` bytes, a multiple of 1 MiB, that hardly compresses."""
    path = work / "layer.tar"
    source = random.Random(_SEED)
    with path.open("wb") as tar:
        tar.write(_header("large", b"0", size))
        for _ in range(size >> 20):
            tar.write(source.randbytes(1 << 20))
        tar.write(bytes(1024))
    return LayerTar(path, 1)


def small_large(work: Path) -> LayerTar:
    """Make one file of 8 MiB that hardly compresses."""
    return large(work, 8 << 20)


def growing_entries(work: Path, entries: int) -> Iterator[LayerTar]:
    """Make one layer of about ``entries`` entries: small files, a hundred in each directory."""
    path = work / "layer.tar"
    source = random.Random(_SEED)
    body = [_block(_text(source, 400)) for _ in range(512)]
    count = 0
    with path.open("wb") as tar:
        for directory in range(-(-entries // (_DIRECTORY_SIZE + 1))):
            top = f"data/{directory // 100:04}/{directory:06}"
            tar.write(_header(f"{top}/", b"5", 0))
            for number in range(_DIRECTORY_SIZE):
                tar.write(_header(f"{top}/{number:03}", b"0", 400))
                tar.write(body[(directory * 7 + number) % 512])
            count += 1 + _DIRECTORY_SIZE
        tar.write(bytes(1024))
    yield LayerTar(path, count)


def growing_layers(work: Path, layers: int) -> Iterator[LayerTar]:
    """Make ``layers`` layers of a hundred files each, in shared directories."""
    source = random.Random(_SEED)
    for layer in range(layers):
        path = work / f"{layer}.tar"
        with writing(path) as writer:
            writer.directory("srv")
            for number in range(_DIRECTORY_SIZE):
                writer.file(f"srv/{number % 10}/{layer:03}-{number:03}", _text(source, 1000))
        yield LayerTar(path, writer.entries)


def small_debian(work: Path) -> Iterator[LayerTar]:
    """Copy 8 MB of programs and documents from this machine."""
    yield _sample(work, "/usr/bin", "[a-d]*", most_bytes=8 << 20, largest=1 << 20)


def small_python_ml(work: Path) -> Iterator[LayerTar]:
    """Copy a few large files from this machine."""
    yield _sample(work, "/usr/lib", "**/*.so*", most_bytes=24 << 20, largest=8 << 20)


def small_node(work: Path) -> Iterator[LayerTar]:
    """Make two thousand small files."""
    path = work / "layer.tar"
    with writing(path) as writer:
        _fill(writer, "srv/node_modules", 2000, random.Random(_SEED), size=3000)
    yield LayerTar(path, writer.entries)


def _sample(work: Path, root: str, pattern: str, *, most_bytes: int, largest: int) -> LayerTar:
    files, total = [], 0
    for path in sorted(islice(Path(root).glob(pattern), 5000)):
        if path.is_symlink() or not path.is_file():
            continue
        size = path.stat().st_size
        if size <= largest and total + size <= most_bytes:
            total += size
            files.append((str(path).lstrip("/"), path))
    return files_tar(files, work / "layer.tar")


def _fill(writer: Writer, top: str, files: int, source: random.Random, *, size: int) -> None:
    """Add ``files`` files of about ``size`` bytes below ``top``, a hundred in each directory."""
    writer.directory(top)
    for number in range(files):
        directory, name = divmod(number, _DIRECTORY_SIZE)
        if name == 0:
            writer.directory(f"{top}/{directory:05}")
        data = _text(source, source.randrange(size // 2, size * 3 // 2))
        writer.file(f"{top}/{directory:05}/{name:03}", data)


def _text(source: random.Random, size: int) -> bytes:
    """Return words that compress about as well as source code."""
    return b" ".join(source.choices(_WORDS, k=size // 3))[:size]


def _block(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def _header(name: str, kind: bytes, size: int) -> bytes:
    """Return a ustar header; tarfile would need minutes for a million of them."""
    head = b"%s%07o\0%07o\0%07o\0%011o\0%011o\0" % (
        name.encode().ljust(100, b"\0"),
        0o755 if kind == b"5" else 0o644,
        0,
        0,
        size,
        EPOCH,
    )
    tail = kind + bytes(100) + b"ustar\x0000" + bytes(247)
    return head + b"%06o\0 " % (sum(head) + sum(tail) + 8 * 0x20) + tail
