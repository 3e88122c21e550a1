"""Other engines: docker and containerd load archives of stacker, and buildah builds its image."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import images
from tests.support.command import REPOSITORY, Stacker
from tests.support.tars import file, tar

NAME = "registry.example/team/app:1.0"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="runs engines: needs root")
needs_containerd = pytest.mark.skipif(
    not (shutil.which("containerd") and shutil.which("ctr")), reason="containerd is not installed"
)
needs_docker = pytest.mark.skipif(
    not (shutil.which("dockerd") and shutil.which("docker")), reason="docker.io is not installed"
)


@contextmanager
def running(words: list[str], log: Path, *, until: list[str]) -> Iterator[None]:
    """Run a daemon, from the first success of the command `until` to the end of the context."""
    with log.open("wb") as output:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + 60
        while subprocess.run(until, capture_output=True, check=False).returncode != 0:
            text = log.read_text(errors="replace")
            assert process.poll() is None, text
            assert time.monotonic() < deadline, text
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="engine") as path:  # a socket's path is short
        yield Path(path)


@pytest.fixture(scope="module")
def ctr(place: Path) -> Iterator[list[str]]:
    """Run containerd, and return the words of its client."""
    address = str(place / "containerd.sock")
    client = ["ctr", "--address", address]
    words = ["containerd", "--address", address]
    words += ["--root", str(place / "containerd"), "--state", str(place / "state")]
    with running(words, place / "containerd.log", until=[*client, "version"]):
        yield client


@pytest.fixture(scope="module")
def docker(place: Path, ctr: list[str]) -> Iterator[list[str]]:
    """Run dockerd without a network, and return the words of its client."""
    host = f"unix://{place}/docker.sock"
    words = ["dockerd", "--host", host, "--containerd", ctr[-1], "--storage-driver", "vfs"]
    words += ["--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false"]
    words += ["--data-root", str(place / "docker"), "--exec-root", str(place / "exec")]
    words += ["--pidfile", str(place / "docker.pid")]
    client = ["docker", "--host", host]
    with running(words, place / "docker.log", until=[*client, "version"]):
        yield client


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Return the ID of an image, and the docker archive that `push` wrote of it."""
    path = tmp_path_factory.mktemp("app")
    layout = images.layout(path / "layout", [tar(file("a", b"1"))], name=NAME)
    stacker = Stacker(path / "store")
    image_id = stacker("pull", "--no-sync", layout.source).last
    stacker("push", NAME, f"docker-archive:{path}/app.tar")
    return image_id, path / "app.tar"


def output(*words: str | Path) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


@needs_containerd
def test_ctr_import_shows_the_name_of_a_docker_archive(
    ctr: list[str], app: tuple[str, Path]
) -> None:
    output(*ctr, "images", "import", "--no-unpack", app[1])
    assert output(*ctr, "images", "list", "--quiet").split() == [NAME]


@needs_containerd
@needs_docker
def test_docker_load_shows_the_name_of_a_docker_archive(
    docker: list[str], app: tuple[str, Path]
) -> None:
    image_id, archive = app
    assert output(*docker, "load", "--input", archive) == f"Loaded image: {NAME}\n"
    words = ("images", "--no-trunc", "--format", "{{.ID}} {{.Repository}}:{{.Tag}}")
    assert output(*docker, *words).split() == [image_id, NAME]


@pytest.mark.skipif(
    not (shutil.which("buildah") and shutil.which("mmdebstrap")),
    reason="buildah and mmdebstrap are not both installed",
)
@pytest.mark.timeout(900)  # the first run makes a base with mmdebstrap
def test_the_containerfile_builds_an_image_that_runs_stacker(tmp_path: Path) -> None:
    images.layout(tmp_path / "app", [tar(file("greeting", b"hello from inside\n"))], name="app:1")
    with tempfile.TemporaryDirectory(prefix="buildah") as place:
        storage = ["--root", f"{place}/storage", "--runroot", f"{place}/run"]
        subprocess.run(
            [REPOSITORY / "scripts/image", *storage, "--quiet", "--tag", "stacker"], check=True
        )
        buildah = ["buildah", *storage]
        container = output(*buildah, "from", "localhost/stacker").strip()
        script = "stacker pull oci:/app:app:1 && stacker mount app:1 /mnt && cat /mnt/greeting"
        options = ["--isolation", "chroot", "--cap-add", "CAP_SYS_ADMIN"]
        options += ["--volume", f"{tmp_path}/app:/app:ro"]
        shown = output(*buildah, "run", *options, container, "--", "sh", "-ec", script)
        assert shown.splitlines()[1:] == ["overlay", "hello from inside"]
        config = output(*buildah, "inspect", "--type", "image", "localhost/stacker")
        assert json.loads(config)["OCIv1"]["config"]["Entrypoint"] == ["stacker"]
        output(*buildah, "rm", "--all")
