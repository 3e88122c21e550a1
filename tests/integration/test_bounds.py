"""Hostile images cost bounded processor time, memory, reads, descriptors and disk space."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import resource
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import zstandard

from stacker.errors import StackerError
from stacker.source.docker_archive import open_docker
from stacker.source.tar_files import open_archive
from stacker.stream.compression import decompressed, read_chunks
from tests.support import images
from tests.support.command import Stacker, at_home
from tests.support.tars import END, file, hardlink, header, tar

MIB = 1 << 20
LAYER = tar(file("a", b"1"))


@dataclass(frozen=True)
class Cost:
    """How a command ended, and what it and its workers cost.

    :param seconds: processor time of all processes.
    :param memory: bytes resident in the largest process at its peak.
    """

    code: int
    stderr: str
    seconds: float
    memory: int


MEASURE = """
import json, resource, subprocess, sys
code = subprocess.run(sys.argv[2:], stdout=subprocess.DEVNULL).returncode
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
with open(sys.argv[1], "w") as file:
    json.dump([code, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024], file)
"""
"""Runs a command in a small process: a child's peak memory begins with its parent's."""


def cost(stacker: Stacker, *arguments: str | Path, descriptors: int | None = None) -> Cost:
    """Run a command and measure it.

    :param descriptors: the limit on open files, as `ulimit -n` sets it.
    """
    report = stacker.store.parent / "cost.json"
    limit = [] if descriptors is None else ["prlimit", f"--nofile={descriptors}:{descriptors}"]
    done = subprocess.run(
        [sys.executable, "-S", "-c", MEASURE, report, *limit, *stacker.words(*arguments)],
        check=True,
        stderr=subprocess.PIPE,
        env=stacker.environment,
        text=True,
        errors="replace",
    )
    assert "Traceback" not in done.stderr, done.stderr
    code, seconds, memory = json.loads(report.read_bytes())
    return Cost(code, done.stderr, seconds, memory)


def read_bytes() -> int:
    """Return the bytes that this process has read so far (proc_pid_io(5), rchar)."""
    return int(Path("/proc/self/io").read_text().split()[1])


def test_equal_layers_cost_time_in_proportion_to_their_number(tmp_path: Path) -> None:
    seconds = []
    for count in (100, 1_500, 6_000):
        path = tmp_path / str(count)
        path.mkdir()
        app = images.layout(path / "app", [LAYER] * count)
        pulled = cost(at_home(path), "pull", app.source)
        assert pulled.code == 0, pulled.stderr
        seconds.append(pulled.seconds)
    start, few, many = seconds
    assert many - start < 8 * max(few - start, 0.05), seconds  # linear: 4, quadratic: 16


def test_empty_gzip_members_are_refused_or_cost_little_time() -> None:
    member = gzip.compress(b"", mtime=0)
    blob = gzip.compress(LAYER, mtime=0) + member * (4 * MIB // len(member))
    started = time.process_time()
    try:
        for _ in decompressed(read_chunks(io.BytesIO(blob)), what="blob"):
            pass
    except StackerError:
        pass
    assert time.process_time() - started < 4 * 0.2  # 0.2 s per MiB


def test_compressed_layer_that_a_docker_archive_repeats_is_hashed_once(tmp_path: Path) -> None:
    count, layer = 32, tar(file("a", os.urandom(MIB)))
    config = json.dumps(
        {
            "os": "linux",
            "architecture": "amd64",
            "rootfs": {"type": "layers", "diff_ids": [images.digest_of(layer)] * count},
        }
    ).encode()
    name = f"{hashlib.sha256(config).hexdigest()}.json"
    saved = [{"Config": name, "RepoTags": ["app:1"], "Layers": ["layer.tar.gz"] * count}]
    blob = gzip.compress(layer, 1, mtime=0)
    archive = tmp_path / "app.tar"
    archive.write_bytes(
        tar(
            file("manifest.json", json.dumps(saved).encode()),
            file(name, config),
            file("layer.tar.gz", blob),
        )
    )
    before = read_bytes()
    open_docker(open_archive(str(archive), "app"), "")
    read = read_bytes() - before
    assert read < 4 * len(blob)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "disk"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m,mode=755", "tmpfs", path], check=True)
    yield path
    subprocess.run(["umount", "-l", path], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a tmpfs: needs root")
@pytest.mark.usefixtures("alone_among_mounts")
def test_archive_that_expands_a_thousandfold_is_refused(tmp_path: Path, small_disk: Path) -> None:
    app = images.layout(tmp_path / "app", [LAYER])
    files = sorted(path for path in app.path.rglob("*") if path.is_file())
    members = [file(str(path.relative_to(app.path)), path.read_bytes()) for path in files]
    archive = tmp_path / "app.tar.gz"
    expanded = 512 * MIB
    compressor = zlib.compressobj(9, wbits=31)
    with archive.open("wb") as out:
        out.write(compressor.compress(b"".join(members) + header("unused", size=expanded)))
        for _ in range(expanded // MIB):
            out.write(compressor.compress(b"\x55" * MIB))  # no zeros, so not a sparse file
        out.write(compressor.compress(END) + compressor.flush())
    assert archive.stat().st_size < expanded // 500
    pulled = cost(at_home(small_disk), "pull", f"oci-archive:{archive}")
    assert pulled.code == 6, pulled.stderr
    assert "--max-archive-ratio" in pulled.stderr


def test_hard_links_before_their_target_take_little_memory(tmp_path: Path) -> None:
    count = 200_000
    links = b"".join(hardlink(f"link{number}", "target") for number in range(count))
    app = images.layout(tmp_path / "app", [links + tar(file("target", b"1"))])
    small = images.layout(tmp_path / "small", [LAYER])
    start = cost(at_home(tmp_path, "first"), "pull", small.source)
    pulled = cost(at_home(tmp_path), "pull", app.source)
    if pulled.code:  # ext4 allows 65,000 links to a file
        assert "too many hard links" in pulled.stderr, pulled.stderr
    assert pulled.memory - start.memory < 300 * count, pulled


def with_window(log: int) -> bytes:
    """Return a zstd frame that declares a window of 2**log bytes."""
    parameters = zstandard.ZstdCompressionParameters(window_log=log)
    out = io.BytesIO()
    compressor = zstandard.ZstdCompressor(compression_params=parameters)
    with compressor.stream_writer(out, closefd=False) as writer:
        writer.write(LAYER)
    return out.getvalue()


def test_zstd_window_of_128_mib_is_read() -> None:
    blob = io.BytesIO(with_window(27))
    assert b"".join(decompressed(read_chunks(blob), what="blob")) == LAYER


def test_zstd_window_of_2_gib_is_refused_with_a_hint(tmp_path: Path) -> None:
    blob = with_window(31)

    def replace_layer(manifest: dict[str, object]) -> None:
        layers = manifest["layers"]
        assert isinstance(layers, list)
        layers[0] |= {"digest": images.digest_of(blob), "size": len(blob)}

    app = images.layout(tmp_path / "app", [LAYER], compression="zstd", manifest=replace_layer)
    app.blob(images.digest_of(blob)).write_bytes(blob)
    pulled = cost(at_home(tmp_path), "pull", app.source)
    assert pulled.code in (5, 6, 7), pulled
    assert "window" in pulled.stderr
    assert "hint: " in pulled.stderr


def test_more_layers_than_open_files_are_pulled_and_unpacked(tmp_path: Path) -> None:
    limit = min(1024, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    layers = [tar(file(f"file{number}", b"1")) for number in range(limit + 50)]
    app = images.layout(tmp_path / "app", layers, compression="none")
    stacker = at_home(tmp_path)
    pulled = cost(stacker, "pull", app.source, descriptors=limit)
    assert pulled.code == 0, pulled.stderr
    unpacked = cost(stacker, "unpack", "app:1.0", tmp_path / "tree", descriptors=limit)
    assert unpacked.code == 0, unpacked.stderr
    assert len(os.listdir(tmp_path / "tree")) == len(layers)
