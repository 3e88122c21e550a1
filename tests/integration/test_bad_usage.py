"""Invalid arguments, targets and stores, full disks and closed streams: one message each."""

from __future__ import annotations

import json
import os
import shlex
import stat
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from stacker.linux import mountapi
from stacker.store.store import Store
from tests.support import images
from tests.support.command import Stacker, conforming
from tests.support.tars import file, tar, whiteout

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
LAYER = tar(file("small", b"1"), file("large", os.urandom(200_000)))
SMALL = 2 << 20
UPPER = tar(whiteout("small"), file("top", b"2"))


@pytest.fixture
def app(tmp_path: Path) -> images.Layout:
    return images.layout(tmp_path / "app", [LAYER, UPPER])


@pytest.fixture
def pulled(stacker: Stacker, app: images.Layout, tmp_path: Path) -> Stacker:
    """Return the command with an image in its store, and create a target."""
    stacker("pull", app.source)
    (tmp_path / "target").mkdir()
    return stacker


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("App", 2),
        ("oci:", 2),
        ("nothing:App:x", 2),
        ("docker://App", 2),
        ("oci:/nowhere", 3),
        ("oci-archive:/nowhere", 3),
        ("docker-archive:/nowhere", 3),
    ],
)
def test_malformed_source_is_rejected(stacker: Stacker, source: str, code: int) -> None:
    stacker.refused(code, "pull", source)
    stacker.assert_clean(layers=0)


def test_missing_tag_is_not_found(stacker: Stacker, app: images.Layout) -> None:
    assert "app:1.0" in stacker.refused(3, "pull", f"{app.source}:app:2.0")
    stacker.assert_clean(layers=0)


@pytest.mark.parametrize("verb", ["mount", "unpack", "inspect", "layers", "history", "rm"])
def test_unknown_image_is_not_found(pulled: Stacker, tmp_path: Path, verb: str) -> None:
    never = ["--pull", "never"]
    more: dict[str, list[str | Path]] = {
        "mount": [tmp_path / "target", *never],
        "unpack": [tmp_path / "tree", *never],
    }
    for text in ("nothing", "f" * 64, "sha256:" + "f" * 64, ""):
        assert "no such image" in pulled.refused(3, verb, text, *more.get(verb, []))
    pulled.assert_clean(images=1)
    assert not (tmp_path / "tree").exists()


def test_ambiguous_prefix_lists_the_images(stacker: Stacker, tmp_path: Path) -> None:
    first, second = _alike(tmp_path)
    for app in (first, second):
        stacker("pull", app.source)
    digit = first.image.config[7]
    text = stacker.refused(2, "inspect", digit)
    for app in (first, second):
        assert app.image.config[7:19] in text


def _alike(directory: Path) -> tuple[images.Layout, images.Layout]:
    """Return two images whose IDs start with the same digit; 17 images have such a pair."""
    made: dict[str, images.Layout] = {}
    for number in range(17):
        layers = [UPPER, *([LAYER] * number)]
        app = images.layout(directory / f"{number}", layers, name=f"app:{number}")
        other = made.setdefault(app.image.config[7], app)
        if other is not app:
            return other, app
    raise AssertionError


def test_digest_of_a_manifest_is_not_an_image_id(pulled: Stacker, app: images.Layout) -> None:
    text = pulled.refused(3, "inspect", app.image.manifest)
    assert app.image.config in text.splitlines()[1]


@pytest.mark.parametrize(
    ("target", "code", "text"),
    [
        ("missing", 9, "does not exist"),
        ("file", 9, "not a directory"),
        ("store", 9, "the store"),
        ("store/layers", 9, "inside the store"),
        (".", 9, "around the store"),
    ],
)
def test_invalid_target_is_rejected(
    pulled: Stacker, tmp_path: Path, target: str, code: int, text: str
) -> None:
    (tmp_path / "file").touch()
    assert text in pulled.refused(code, "mount", "app:1.0", tmp_path / target)
    pulled.assert_clean(images=1, layers=2)


def test_rm_of_several_images_removes_none_if_one_is_mounted(
    pulled: Stacker, tmp_path: Path
) -> None:
    other = images.layout(tmp_path / "other", [UPPER], name="other")
    pulled("pull", "--sync", other.source)
    pulled("mount", "app:1.0", tmp_path / "target")
    pulled.refused(8, "rm", "other", "app:1.0")
    pulled.refused(3, "rm", "other", "nothing")
    assert len(pulled("images", "--json").items) == 2
    pulled("umount", tmp_path / "target")
    pulled("rm", "other", "app:1.0")
    pulled.assert_clean(layers=0)


def test_busy_target_is_refused(pulled: Stacker, tmp_path: Path) -> None:
    pulled("mount", "app:1.0", tmp_path / "target")
    pulled.refused(9, "mount", "app:1.0", tmp_path / "target")
    pulled("umount", tmp_path / "target")
    pulled.assert_clean(images=1)


@needs_root
def test_mount_in_use_is_not_unmounted(pulled: Stacker, tmp_path: Path) -> None:
    target = tmp_path / "target"
    pulled("mount", "app:1.0", target)
    with (target / "top").open():
        assert "in use" in pulled.refused(9, "umount", target)
        assert (target / "top").exists()
        pulled("umount", "--lazy", target)
    assert os.listdir(target) == []


@needs_root
@pytest.mark.usefixtures("alone_among_mounts")
def test_umount_names_the_mount_point_that_keeps_a_mount(pulled: Stacker, tmp_path: Path) -> None:
    target, second = tmp_path / "target", tmp_path / "second"
    second.mkdir()
    pulled("mount", "--rw", "app:1.0", target)
    subprocess.run(["mount", "--bind", target, second], check=True)
    assert f"the same mount is still at {second}: " in pulled("umount", target).err
    subprocess.run(["umount", second], check=True)
    pulled("gc")
    pulled.assert_clean(images=1)


@needs_root
def test_mount_without_privileges_has_nosuid_and_nodev(
    stacker: Stacker, app: images.Layout, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    target.mkdir(exist_ok=True)
    pull, mount = (
        shlex.join(stacker.words(*words))
        for words in (("pull", "--sync", app.source), ("mount", "app:1.0", target))
    )
    shown = shlex.join(["findmnt", "-no", "OPTIONS", str(target)])
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-ec"]
    done = subprocess.run(
        [*command, f"{pull} && {mount} && {shown}"],
        env=stacker.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert {"nosuid", "nodev"} <= set(done.stdout.splitlines()[-1].split(","))


def test_error_about_a_path_of_thousands_of_bytes_is_short(pulled: Stacker, tmp_path: Path) -> None:
    for verb in (["unpack", "app:1.0"], ["mount", "app:1.0"], ["umount"]):
        failed = pulled.run(*verb, tmp_path / ("x/" * 3000))
        assert failed.code != 0
        assert len(failed.err) < 500


def test_unmount_without_a_mount_is_not_found(pulled: Stacker, tmp_path: Path) -> None:
    pulled.refused(3, "umount", tmp_path / "target")


@needs_root
def test_missing_permission_to_mount_is_exit_code_9(app: images.Layout, tmp_path: Path) -> None:
    inside = Stacker(tmp_path / "store", wrap=("unshare", "--user", "--map-root-user"))
    target = tmp_path / "target"
    target.mkdir()
    inside("pull", app.source)
    inside.refused(9, "mount", "--driver", "overlay", "app:1.0", target)
    inside.assert_clean(images=1)
    assert os.listdir(target) == []


def test_copy_driver_rejects_an_upper_directory(pulled: Stacker, tmp_path: Path) -> None:
    words = ("mount", "app:1.0", tmp_path / "target", "--driver", "copy")
    pulled.refused(7, *words, "--upper", tmp_path / "upper")
    (tmp_path / "target" / "mine").touch()
    pulled.refused(9, *words)
    assert os.listdir(tmp_path / "target") == ["mine"]
    assert not (tmp_path / "upper").exists()
    pulled.assert_clean(images=1)


@pytest.mark.parametrize(
    ("directory", "code"), [("full", 2), ("file", 2), ("store/new", 2), ("missing/new", 1)]
)
def test_unpack_rejects_an_unsuitable_directory(
    pulled: Stacker, tmp_path: Path, directory: str, code: int
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    (tmp_path / "file").touch()
    pulled.refused(code, "unpack", "app:1.0", tmp_path / directory)
    assert sorted(os.listdir(tmp_path)) == ["app", "file", "full", "home", "store", "target"]
    assert os.listdir(tmp_path / "full") == ["mine"]
    pulled.assert_clean(images=1, layers=2)


def test_foreign_directory_is_not_a_store(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    Stacker(tmp_path / "file").refused(1, "images")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter").touch()
    Stacker(tmp_path / "home").refused(2, "images")
    assert os.listdir(tmp_path / "home") == ["letter"]


def test_store_of_a_newer_version_is_rejected(pulled: Stacker) -> None:
    (pulled.store / "stacker.json").write_text('{"version": 99}')
    pulled.refused(7, "images")


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Mount a tmpfs of 2 MiB."""
    mountpoint = tmp_path / "small"
    mountpoint.mkdir()
    mountapi.mount("tmpfs", mountpoint, "tmpfs", 0, b"size=%d" % SMALL)
    return mountpoint


def fill(mountpoint: Path) -> None:
    """Write until the tmpfs is full; never write more than it can hold."""
    assert os.path.ismount(mountpoint)
    with suppress(OSError), (mountpoint / "filler").open("wb", 0) as filler:
        for _ in range(SMALL // 4096 + 1):
            filler.write(bytes(4096))


@needs_root
def test_full_disk_is_one_message_and_leaves_no_files(small: Path, tmp_path: Path) -> None:
    stacker = Stacker(small / "store")
    noise = os.urandom(1 << 20)
    app = images.layout(tmp_path / "app", [tar(*(file(f"{n}", noise) for n in range(4)))])
    assert "No space left" in stacker.refused(1, "pull", app.source)
    stacker.assert_clean(layers=0)
    archive = tmp_path / "packed.tar.gz"
    archive.write_bytes(images.compressed(noise * 4, "gzip"))
    assert "No space left" in stacker.refused(1, "pull", f"oci-archive:{archive}")
    stacker.assert_clean(layers=0)


@needs_root
def test_full_disk_leaves_the_target_of_a_copy_empty(
    small: Path, stacker: Stacker, tmp_path: Path
) -> None:
    noise = os.urandom(1 << 20)
    app = images.layout(tmp_path / "app", [tar(*(file(f"{n}", noise) for n in range(4)))])
    stacker("pull", app.source)
    assert "No space left" in stacker.refused(1, "unpack", "app:1.0", small / "tree")
    (small / "target").mkdir()
    words = ("mount", "--driver", "copy", "app:1.0", small / "target")
    assert "No space left" in stacker.refused(1, *words)
    assert os.listdir(small) == ["target"]
    assert os.listdir(small / "target") == []
    stacker.assert_clean(images=1)


@needs_root
def test_full_disk_leaves_no_truncated_document(small: Path, tmp_path: Path) -> None:
    stacker = Stacker(small / "store")
    first = images.layout(tmp_path / "first", [UPPER], name="first")
    second = images.layout(
        tmp_path / "second", [UPPER], name="second", config=lambda c: c.update(x="y" * 3000)
    )
    stacker("pull", "--sync", first.source)
    fill(small)
    stacker.refused(1, "pull", second.source)
    blobs = [path.name for path in (stacker.store / "blobs" / "sha256").iterdir()]
    image = first.image
    assert sorted(f"sha256:{name}" for name in blobs) == sorted([image.config, image.manifest])
    stacker.assert_clean(images=1, layers=1)


def test_full_disk_on_stdout_is_one_message(pulled: Stacker) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            pulled.words("images"), check=False, stdout=full, stderr=-1, env=pulled.environment
        )
    assert done.returncode == 1
    assert done.stderr.startswith(
        b"stacker: error: cannot write to stdout: No space left on device"
    )
    assert b"Traceback" not in done.stderr
    assert b"Exception" not in done.stderr


@pytest.mark.parametrize("words", [("images",), ("--help",), ("images", "--json"), ("df",)])
def test_closed_stdout_is_one_message(pulled: Stacker, words: tuple[str, ...]) -> None:
    command = shlex.join(pulled.words(*words))
    done = subprocess.run(
        ["sh", "-c", f"{command} 1>&-"], check=False, stderr=-1, env=pulled.environment
    )
    message = "cannot write to stdout: Bad file descriptor"
    assert done.returncode == 1
    if "--json" in words:
        assert conforming(json.loads(done.stderr))["error"]["message"] == message
    else:
        assert done.stderr.decode() == f"stacker: error: {message}\n"


@pytest.mark.parametrize(("words", "code"), [(("images", "-v"), 0), (("nothing",), 2)])
def test_closed_stderr_discards_messages(
    pulled: Stacker, words: tuple[str, ...], code: int
) -> None:
    command = shlex.join(pulled.words(*words))
    done = subprocess.run(
        ["sh", "-c", f"{command} 2>&-"], check=False, stdout=-1, env=pulled.environment
    )
    assert done.returncode == code
    assert b"Traceback" not in done.stdout


def test_files_of_the_store_do_not_become_closed_streams(stacker: Stacker, tmp_path: Path) -> None:
    app = images.layout(tmp_path / "app", [UPPER])
    command = shlex.join(stacker.words("pull", "-v", app.source))
    closed = ["sh", "-c", f"{command} 0<&- 1>&- 2>&-"]
    done = subprocess.run(closed, check=False, env=stacker.environment)
    assert done.returncode == 1
    assert stacker("inspect", "app:1.0", "--json").item["image_id"] == app.image.config
    stacker.assert_clean(images=1, layers=1)


def test_closed_pipe_is_exit_code_141(pulled: Stacker) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        pulled.words("images"), check=False, stdout=write, stderr=-1, env=pulled.environment
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("nothing",),
        ("--nothing", "images"),
        ("images", "--nothing"),
        ("images", "more"),
        ("mount", "app:1.0"),
        ("pull", "oci:x", "--jobs", "0"),
        ("pull", "oci:x", "--jobs", "many"),
        ("pull", "oci:x", "--max-bytes", "1X"),
        ("pull", "oci:x", "--platform", "linux"),
        ("mount", "--driver", "zfs", "app:1.0", "/mnt"),
        ("pul", "x"),
        ("ima\x1bges",),
    ],
)
def test_invalid_words_are_exit_code_2(tmp_path: Path, words: tuple[str, ...]) -> None:
    Stacker(tmp_path / "store").refused(2, *words)
    left = list(tmp_path.rglob("*"))
    assert not [path for path in left if path.is_file() and path.parent.name == "staging"]


def test_store_has_mode_0700(stacker: Stacker) -> None:
    Store.open(stacker.store)
    assert stat.S_IMODE(stacker.store.stat().st_mode) == 0o700
