"""Images that attack `stacker run`; each is refused, or harms itself only."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support import runtimes, tars
from tests.support.command import Stacker

UP = "../" * 20
ENTRIES = (
    tars.symlink("data", f"{UP}outside"),
    tars.symlink("etc/resolv.conf", f"{UP}outside/resolv.conf"),
    tars.symlink("descriptor", "proc/self/fd/7"),
    tars.file("script", b"#!/proc/self/exe -c pass\n", mode=0o755),
    tars.char("memory", 1, 1, mode=0o666),
)
RUN = ("run", "--runtime", "chroot")


def pull(stacker: Stacker, path: Path, *entries: bytes) -> None:
    """Pull an image with more entries."""
    source = runtimes.layout(path / "hostile", tars.tar(*entries)).source
    stacker("pull", "--name", "hostile", source)


@pytest.fixture(scope="module")
def hostile(stacker: Stacker, tmp_path_factory: pytest.TempPathFactory) -> Stacker:
    """Return a command whose store has the image ``hostile``."""
    pull(stacker, tmp_path_factory.mktemp("hostile"), *ENTRIES)
    return stacker


@pytest.mark.parametrize("name", ["proc", "dev"])
def test_link_in_place_of_a_mount_point_is_refused(
    stacker: Stacker, tmp_path: Path, name: str
) -> None:
    """Such a link redirected the mounts and masks of runc (CVE-2019-19921, CVE-2023-27561)."""
    pull(stacker, tmp_path, tars.symlink(name, "srv"), tars.dir("srv/"))
    assert f"/{name}" in stacker.refused(125, *RUN, "hostile", "true")


def test_volume_and_host_files_are_not_mounted_through_a_link_out_of_the_root(
    hostile: Stacker,
) -> None:
    """Such a link redirected a mount of runc to the host (CVE-2021-30465)."""
    options = ("--network", "host", "-v", "/etc:/data/etc:ro")
    result = hostile(*RUN, *options, "hostile", "ls", "/outside")
    assert result.out.split() == ["etc", "resolv.conf"]
    assert not os.path.exists("/outside")


@pytest.mark.parametrize("directory", ["/proc/self/fd/5", "/descriptor", "/proc/self/cwd/../.."])
def test_working_directory_is_not_a_descriptor_of_the_host(
    hostile: Stacker, directory: str
) -> None:
    """Such a directory gave the host's files to a container (CVE-2024-21626)."""
    hostile.refused(125, *RUN, "-w", directory, "hostile", "ls")


@pytest.mark.parametrize("command", ["/proc/self/exe", "/script"])
def test_interpreter_of_stacker_is_not_run(hostile: Stacker, command: str) -> None:
    """Such a program could overwrite the runtime's own (CVE-2019-5736)."""
    message = hostile.refused(126, *RUN, "hostile", command, "--version")
    assert "unsafe program" in message


def test_device_of_an_image_cannot_be_opened(hostile: Stacker) -> None:
    result = hostile.run(*RUN, "hostile", "cat", "/memory")
    assert result.code == 1
    assert "Permission denied" in result.err
