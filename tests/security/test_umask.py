"""Files of the store are private whatever the umask, and layouts outside of it obey the umask."""

from __future__ import annotations

import os
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from stacker.linux.removal import remove_tree
from tests.support.command import Stacker, at_home
from tests.support.images import layout
from tests.support.mounts import unmount_below
from tests.support.registries import PASSWORD, USER, FakeRegistry, fake_registry
from tests.support.sample import BASE, MIDDLE, TOP
from tests.support.unprivileged import UNPRIVILEGED

UMASKS = pytest.mark.parametrize("umask", ["000", "022", "077", "777"])
needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can mount or change to another user"
)


@pytest.fixture
def server() -> Iterator[FakeRegistry]:
    with fake_registry() as server:
        yield server


@pytest.fixture
def public() -> Iterator[Path]:
    """Yield a directory of UID 65534."""
    path = Path(tempfile.mkdtemp(prefix="stacker-umask-"))
    os.chown(path, 65534, 65534)
    yield path
    unmount_below(path)
    remove_tree(path)


def under(stacker: Stacker, umask: str, *before: str) -> Stacker:
    """Return the command under a umask."""
    shell = ("sh", "-c", f'umask {umask}; exec "$@"', "sh")
    return Stacker(stacker.store, (*before, *shell), stacker.python, stacker.environ)


def of_layers(path: Path, store: Path) -> bool:
    """Return whether a file belongs to a layer or to a stack: those have the image's modes."""
    parts = path.relative_to(store).parts
    if parts[:1] == ("chains",) and len(parts) > 3:
        return store.joinpath(*parts[:4]).is_dir()
    return parts[:1] == ("layers",) and parts[3:4] == ("diff",)


MOUNTED = {("upper",), ("work",), ("empty",), ("served",)}
"""The parts of a mount's own directory, which is private, that have the modes of the image."""


def exposed(store: Path) -> list[str]:
    """Return the files of a store that are neither 0600 nor, if directories, 0700."""
    wrong = []
    for path in (store, *store.rglob("*")):
        mode = path.lstat().st_mode
        wanted = 0o700 if stat.S_ISDIR(mode) else 0o600
        in_mount = path.relative_to(store).parts[2:3] in MOUNTED
        if not (of_layers(path, store) or in_mount) and stat.S_IMODE(mode) != wanted:
            wrong.append(f"{path.relative_to(store)} {stat.S_IMODE(mode):o}")
    return wrong


@UMASKS
@needs_root
@pytest.mark.usefixtures("alone_among_mounts")
def test_every_file_of_the_store_is_private_whatever_the_umask(tmp_path: Path, umask: str) -> None:
    stacker = under(at_home(tmp_path, "new/store"), umask)
    image = layout(tmp_path / "image", [BASE, MIDDLE, TOP])
    (tmp_path / "target").mkdir()
    stacker("pull", "--keep-blobs", "--sync", image.source)
    assert exposed(stacker.store) == []
    stacker("index", "create", "both", "app:1.0")
    for driver in ("overlay", "fuse"):
        stacker("mount", "--rw", "--driver", driver, "app:1.0", tmp_path / "target")
        assert (tmp_path / "target").stat().st_mode & 0o7777 == 0o755
        assert exposed(stacker.store) == []
        stacker("umount", tmp_path / "target")
    stacker("verify", "--all")
    stacker("gc")
    assert exposed(stacker.store) == []
    assert (tmp_path / "new").stat().st_mode & 0o022 == 0


@UMASKS
@needs_root
@pytest.mark.usefixtures("unprivileged_python")
def test_an_unprivileged_store_works_under_any_umask(
    public: Path, tmp_path: Path, umask: str, unprivileged_python: str
) -> None:
    image = layout(public / "image", [BASE, MIDDLE])
    subprocess.run(["chown", "-R", "65534:65534", public / "image"], check=True)
    environ = {"HOME": str(public), "XDG_RUNTIME_DIR": str(public)}
    plain = Stacker(public / "store", python=unprivileged_python, environ=environ)
    stacker = under(plain, umask, *UNPRIVILEGED)
    stacker("pull", "--sync", image.source)
    assert exposed(stacker.store) == []
    stacker("unpack", "app:1.0", public / "tree")
    assert (public / "tree" / "etc").stat().st_mode & 0o7777 == 0o750
    if umask != "777":  # the layout obeys it, so its owner could not write to it
        stacker("push", "app:1.0", f"oci:{public}/out")
    stacker("rm", "app:1.0")
    del tmp_path


@UMASKS
def test_the_credentials_file_is_private_whatever_the_umask(
    tmp_path: Path, umask: str, server: FakeRegistry
) -> None:
    stacker = under(at_home(tmp_path), umask)
    file = tmp_path / "auth" / "auth.json"
    command = stacker.words(
        *("login", "-u", USER, "--password-stdin", "--authfile", file, server.host)
    )
    subprocess.run(command, input=PASSWORD, check=True, text=True, env=stacker.environment)
    assert file.stat().st_mode & 0o7777 == 0o600
    assert file.parent.stat().st_mode & 0o7777 == 0o700


@UMASKS
def test_an_unpacked_tree_has_the_image_s_modes_whatever_the_umask(
    tmp_path: Path, umask: str
) -> None:
    stacker = under(at_home(tmp_path), umask)
    stacker("pull", layout(tmp_path / "image", [BASE]).source)
    stacker("unpack", "app:1.0", tmp_path / "tree")
    modes = {name: (tmp_path / "tree" / name).stat().st_mode & 0o7777 for name in ("", "etc")}
    assert modes == {"": 0o755, "etc": 0o750}
    assert (tmp_path / "tree" / "bin" / "tool").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("umask", ["000", "022", "077"])
def test_layouts_and_archives_outside_the_store_obey_the_umask(tmp_path: Path, umask: str) -> None:
    stacker = under(at_home(tmp_path), umask)
    image = layout(tmp_path / "image", [BASE])
    stacker("pull", image.source)
    kept = 0o777 & ~int(umask, 8)
    for verb, source in (("push", "app:1.0"), ("copy", image.source)):
        stacker(verb, source, f"oci:{tmp_path}/{verb}")
        stacker(verb, source, f"oci-archive:{tmp_path}/{verb}.tar")
        for path in (tmp_path / verb, *(tmp_path / verb).rglob("*"), tmp_path / f"{verb}.tar"):
            wanted = kept if path.is_dir() else kept & 0o666
            assert path.stat().st_mode & 0o7777 == wanted, path
