"""`stacker commit`: the writes of a mount become a layer of a new image."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import images
from tests.support.command import Stacker, at_home
from tests.support.mounts import unmount_below
from tests.support.sample import BASE, MIDDLE, TOP
from tests.support.snapshot import snapshot
from tests.support.tars import char, file, hardlink, tar
from tests.support.tars import dir as directory

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts: needs root"),
    pytest.mark.usefixtures("alone_among_mounts"),
]
LOWER = tar(
    directory("./", mode=0o755),
    directory("d/", mode=0o750, uid=3),
    file("d/one", b"1"),
    hardlink("d/two", "d/one"),
    directory("emptied/"),
    file("emptied/old", b"old"),
    file("gone", b"gone"),
    char("null", 1, 3),
)
DRIVERS = pytest.mark.parametrize("driver", ["overlay", "fuse"])
FORMS = pytest.mark.parametrize("form", ["tree", "erofs"])


@pytest.fixture
def stacker(tmp_path: Path) -> Stacker:
    stacker = at_home(tmp_path)
    stacker("pull", "--sync", images.layout(tmp_path / "app", [LOWER, TOP]).source)
    return stacker


@pytest.fixture
def short() -> Iterator[Path]:
    """Make a directory with a short path: podman limits its paths to 50 characters."""
    path = Path(tempfile.mkdtemp(prefix="podman"))
    yield path
    unmount_below(path)
    shutil.rmtree(path)


def change(root: Path) -> None:
    """Make every kind of change below a mount."""
    (root / "new").write_bytes(b"new")
    os.link(root / "new", root / "d" / "linked")
    os.setxattr(root / "new", "user.kind", b"\0binary")
    os.setxattr(root / "new", "trusted.overlay.opaque", b"y")
    (root / "gone").unlink()
    shutil.rmtree(root / "emptied")
    (root / "emptied").mkdir(mode=0o711)
    (root / "emptied" / "new").write_bytes(b"n")
    (root / "d" / "one").write_bytes(b"changed")
    os.chown(root / "d" / "two", 7, 8)
    (root / "d").chmod(0o2775)
    (root / "link").symlink_to("/nowhere")
    os.mkfifo(root / "pipe", 0o600)
    os.mknod(root / "zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    os.utime(root / "new", ns=(1, 123_456_789))
    with (root / "holes").open("wb") as sparse:
        sparse.truncate(3 << 20)
        os.pwrite(sparse.fileno(), b"end", (3 << 20) - 3)
    root.chmod(0o701)


@FORMS
@DRIVERS
def test_committed_image_has_the_tree_of_the_mount(
    tmp_path: Path, target: Path, driver: str, form: str
) -> None:
    stacker = at_home(tmp_path)
    stacker("pull", "--form", form, images.layout(tmp_path / "app", [LOWER, TOP]).source)
    stacker("mount", "--rw", "--driver", driver, "app:1.0", target)
    change(target)
    seen = snapshot(target)
    assert seen[b"new"].xattrs == (
        ("trusted.overlay.opaque", b"y"),
        ("user.kind", b"\0binary"),
    )
    image = stacker("commit", target, "app:1.1").last
    assert snapshot(target) == seen
    stacker("umount", target)
    for other in ("overlay", "fuse", "copy"):
        stacker("mount", "--driver", other, "app:1.1", target)
        assert snapshot(target) == seen
        stacker("umount", target)
    assert stacker("verify", "--all").code == 0
    assert stacker("images", "--quiet").out.splitlines()[1] == image


@pytest.mark.skipif(shutil.which("umoci") is None, reason="umoci is not installed")
def test_umoci_unpacks_a_committed_image_to_the_same_tree(
    stacker: Stacker, target: Path, tmp_path: Path
) -> None:
    stacker("mount", "--rw", "app:1.0", target)
    change(target)
    os.removexattr(target / "new", "trusted.overlay.opaque")  # umoci drops it
    seen = snapshot(target)
    stacker("commit", target, "app:1.1")
    stacker("push", "app:1.1", f"oci:{tmp_path}/out:t")
    command = ["umoci", "unpack", "--image", f"{tmp_path}/out:t", f"{tmp_path}/bundle"]
    subprocess.run(command, check=True, capture_output=True)
    assert snapshot(tmp_path / "bundle/rootfs") == seen


@pytest.mark.skipif(shutil.which("podman") is None, reason="podman is not installed")
def test_podman_reads_a_committed_image(stacker: Stacker, target: Path, short: Path) -> None:
    stacker("mount", "--rw", "app:1.0", target)
    (target / "new").write_bytes(b"new")
    (target / "gone").unlink()
    stacker("commit", target, "app:1.1", "-c", 'CMD ["x"]', "-c", "LABEL a=b")
    # podman makes a name of the path, and refuses one with upper case.
    stacker("push", "app:1.1", f"oci:{short}/out:t")
    podman = ["podman", "--root", f"{short}/p", "--runroot", f"{short}/r"]
    podman += ["--storage-driver", "vfs"]
    pulled = [*podman, "pull", "--quiet", f"oci:{short}/out:t"]
    image = subprocess.run(pulled, check=True, capture_output=True, text=True).stdout.strip()
    shown = subprocess.run(
        [*podman, "inspect", image], check=True, capture_output=True, text=True
    ).stdout
    config = json.loads(shown)[0]["Config"]
    assert (config["Cmd"], config["Labels"]["a"]) == (["x"], "b")
    where = subprocess.run(
        [*podman, "image", "mount", image], check=True, capture_output=True, text=True
    ).stdout.strip()
    assert (Path(where) / "new").read_bytes() == b"new"
    assert not (Path(where) / "gone").exists()
    subprocess.run([*podman, "image", "umount", image], check=True, capture_output=True)


@DRIVERS
def test_writes_of_an_upper_directory_are_committed_while_it_is_mounted_and_after(
    stacker: Stacker, target: Path, tmp_path: Path, driver: str
) -> None:
    upper = tmp_path / "upper"
    stacker("mount", "--upper", upper, "--driver", driver, "app:1.0", target)
    (target / "new").write_bytes(b"1")
    os.utime(target, (5, 5))
    by_target = stacker("commit", target, "a:1", "--json").last_document["item"]
    by_upper = stacker("commit", upper, "a:2", "--json").last_document["item"]
    stacker("umount", target)
    later = stacker("commit", upper, "a:3", "--json").last_document["item"]
    layers = {each["diff_id"] for each in (by_target, by_upper, later)}
    assert len(layers) == 1
    stacker("mount", "--upper", upper, "--driver", driver, "app:1.0", target)
    stacker("umount", target)


def test_an_upper_directory_belongs_to_the_image_of_its_writes(
    stacker: Stacker, target: Path, tmp_path: Path
) -> None:
    upper = tmp_path / "upper"
    stacker("pull", images.layout(tmp_path / "other", [BASE, MIDDLE], name="other:1").source)
    stacker("mount", "--upper", upper, "other:1", target)
    stacker("umount", target)
    stacker("mount", "--upper", upper, "app:1.0", target)  # there were no writes
    (target / "new").write_bytes(b"1")
    assert not os.listxattr(target)
    stacker("umount", target)
    message = stacker.refused(9, "mount", "--upper", upper, "other:1", target)
    assert "upper directory of another image" in message
    moved = upper.rename(tmp_path / "moved")
    stacker("commit", moved, "app:1.1")
    config = json.loads(stacker("inspect", "app:1.1", "--json").out)["item"]
    assert (
        config["layers"][:2]
        == json.loads(stacker("inspect", "app:1.0", "--json").out)["item"]["layers"]
    )


def test_instructions_change_the_config_and_everything_else_stays(
    stacker: Stacker, target: Path, tmp_path: Path
) -> None:
    def odd(config: dict[str, object]) -> None:
        config["x-vendor"] = {"kept": [1]}

    odd_image = images.layout(tmp_path / "odd", [LOWER], name="odd:1", config=odd)
    stacker("pull", odd_image.source)
    stacker("mount", "--rw", "odd:1", target)
    words = ("-c", "ENV LANG=C", "-c", "CMD date", "-c", "USER 5")
    image = stacker("commit", target, "b:1", *words, "-m", "why", "-a", "me").last
    blob = stacker.store / "blobs/sha256" / image.removeprefix("sha256:")
    config = json.loads(blob.read_bytes())
    assert config["x-vendor"] == {"kept": [1]}
    assert config["config"]["Env"] == ["PATH=/bin", "LANG=C"]
    assert config["config"]["Cmd"] == ["/bin/sh", "-c", "date"]
    assert config["config"]["User"] == "5"
    assert config["author"] == "me"
    assert config["history"][-1]["comment"] == "why"
    assert len(config["rootfs"]["diff_ids"]) == 2
    stacker.refused(2, "commit", target, "b:2", "-c", "RUN make")


def test_source_date_epoch_gives_equal_images(
    stacker: Stacker, target: Path, tmp_path: Path
) -> None:
    found = set()
    for number in range(2):
        store = at_home(tmp_path, f"store{number}")
        stacker = Stacker(store.store, environ={**store.environ, "SOURCE_DATE_EPOCH": "1000"})
        stacker("pull", f"oci:{tmp_path}/app")
        stacker("mount", "--rw", "app:1.0", target)
        for name in "ab" if number else "ba":
            (target / name).write_bytes(b"x")
        (target / "gone").unlink()
        found.add(stacker("commit", target, "b:1").last)
        stacker("umount", target)
    assert len(found) == 1
    stacker("mount", "b:1", target)
    assert (target / "a").stat().st_mtime == 1000
    assert json.loads(stacker("inspect", "b:1", "--json").out)["item"]["created"].startswith(
        "1970-01-01T00:16:40"
    )
    wrong = Stacker(stacker.store, environ={**stacker.environ, "SOURCE_DATE_EPOCH": "soon"})
    wrong.refused(2, "commit", target, "b:2")


@pytest.mark.parametrize("mark", ["metacopy", "redirect"])
def test_marks_of_other_overlays_are_refused(
    stacker: Stacker, target: Path, tmp_path: Path, mark: str
) -> None:
    upper = tmp_path / "upper"
    stacker("mount", "--upper", upper, "app:1.0", target)
    (target / "new").write_bytes(b"1")
    stacker("umount", target)
    os.setxattr(upper / "new", f"trusted.overlay.{mark}", b"/d")
    assert f"/new: got a file of an overlay with {mark}" in stacker.refused(
        7, "commit", upper, "b:1"
    )
    stacker.assert_clean(images=1)


def test_what_a_layer_cannot_hold_is_refused_or_omitted_with_a_warning(
    stacker: Stacker, target: Path
) -> None:
    stacker("mount", "--rw", "app:1.0", target)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(target / "socket"))
    listening.close()
    result = stacker("commit", target, "b:1")
    assert "warning: omitted sockets: /socket and others" in result.err
    (target / ".wh.name").touch()
    assert "/.wh.name: got a name that begins with .wh." in stacker.refused(
        7, "commit", target, "b:2"
    )


def test_symlinks_in_the_upper_directory_are_data(
    stacker: Stacker, target: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "file").write_bytes(b"of the host")
    stacker("mount", "--rw", "app:1.0", target)
    (target / "to").symlink_to(secret)
    (target / "file").symlink_to(secret / "file")
    stacker("commit", target, "b:1")
    stacker("umount", target)
    stacker("mount", "b:1", target)
    assert (target / "to").readlink() == secret
    assert (target / "file").readlink() == secret / "file"


def test_what_has_no_writes_is_refused(stacker: Stacker, target: Path, tmp_path: Path) -> None:
    stacker("mount", "app:1.0", target)
    assert "got a read-only mount" in stacker.refused(2, "commit", target, "b:1")
    stacker("umount", target)
    stacker("mount", "--rw", "--driver", "copy", "app:1.0", target)
    assert "got the driver copy" in stacker.refused(7, "commit", target, "b:1")
    stacker("umount", target)
    assert "neither a mount nor an upper directory" in stacker.refused(2, "commit", target, "b:1")
    stacker.refused(3, "commit", tmp_path / "none", "b:1")


def test_a_committed_image_outlives_its_base_and_its_mount(stacker: Stacker, target: Path) -> None:
    stacker("mount", "--rw", "app:1.0", target)
    (target / "new").write_bytes(b"1")
    stacker("commit", target, "b:1")
    stacker("umount", target)
    stacker("rm", "app:1.0")
    stacker("gc", "--older-than", "0s")
    stacker("mount", "b:1", target)
    assert (target / "new").read_bytes() == b"1"
    assert (target / "d/one").read_bytes() == b"1"
    assert stacker("history", "b:1").out.splitlines()[1].endswith("stacker commit")
    assert json.loads(stacker("inspect", "b:1", "--json").out)["item"]["sources"] == []
