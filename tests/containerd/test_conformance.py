"""Containerd's own conformance suite for snapshotters, against `stacker snapshotter`.

Debian packages the suite as Go source.  The harness next to this file adds a client; the program is
built once and kept in the cache.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stacker.linux import lock
from tests.support.command import REPOSITORY

pytest.importorskip("grpclib", reason="the extra containerd is not installed")
GOPATH = Path("/usr/share/gocode")
SUITE = GOPATH / "src/github.com/containerd/containerd/snapshots/testsuite"
HARNESS = Path(__file__).parent / "harness"
CACHE = Path(os.environ.get("STACKER_CHROOTS", "/var/cache/stacker")) / "conformance"

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts overlays: needs root"),
    pytest.mark.skipif(not shutil.which("go"), reason="golang-go is not installed"),
    pytest.mark.skipif(
        not SUITE.is_dir(), reason="golang-github-containerd-containerd-dev is not installed"
    ),
]


@pytest.fixture(scope="module")
def suite() -> Path:
    """Build the suite, unless the cache has one of the same sources."""
    sources = [*sorted(HARNESS.glob("*.go")), *sorted(SUITE.glob("*.go"))]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    CACHE.mkdir(parents=True, exist_ok=True)
    program = CACHE / f"{digest[:16]}.test"
    with lock.exclusive(CACHE / "lock"):
        if not program.exists():
            environ = os.environ | {"GO111MODULE": "off", "GOPATH": str(GOPATH), "GOFLAGS": ""}
            subprocess.run(
                ["go", "test", "-c", "-o", program, "."],
                cwd=HARNESS,
                env=environ | {"GOCACHE": str(CACHE / "go")},
                check=True,
            )
    return program


@pytest.mark.parametrize(
    ("cases", "kill", "passed"),
    [
        pytest.param("/", 0, 20, id="as-it-is"),
        pytest.param("/^[^1]", 3, 19, id="killed-before-every-third-call"),  # not 128LayersMount
    ],
)
def test_every_case_of_the_suite_passes(
    suite: Path, tmp_path: Path, cases: str, kill: int, passed: int
) -> None:
    words = [sys.executable, "-m", "stacker", "--store", str(tmp_path / "store"), "snapshotter"]
    command = f'{shlex.join(words)} --jobs 1 --root "$1" --address "$2"'
    environ = os.environ | {"STACKER_COMMAND": command, "STACKER_KILL": str(kill)}
    directory = Path("/tmp") / f"s{os.getpid()}-{kill}"  # a socket's path is short
    directory.mkdir()
    try:
        done = subprocess.run(
            [suite, "-test.root", "-test.v", "-test.parallel", "4", "-test.run", cases],
            cwd=tmp_path,
            env=environ | {"TMPDIR": str(directory), "PYTHONPATH": str(REPOSITORY)},
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    assert done.stdout.count("    --- PASS: TestSnapshotter/") == passed, done.stdout[-5000:]
