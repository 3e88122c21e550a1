"""Messages and lists of daily use: failures as JSON, narrow terminals, mounts and owners."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from stacker.linux.removal import remove_tree
from tests.support import images
from tests.support.command import Stacker, conforming
from tests.support.mounts import unmount_below
from tests.support.tars import dir, file, tar  # noqa: A004 - tests write `dir` in tars
from tests.support.unprivileged import UNPRIVILEGED

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
_STYLE = re.compile(r"\x1b\[\d*m")


@pytest.fixture
def place() -> Iterator[Path]:
    """Yield a directory of UID 65534; pytest's tmp_path is not accessible to it."""
    path = Path(tempfile.mkdtemp(prefix="stacker-test-"))
    path.chmod(0o755)
    os.chown(path, 65534, 65534)
    yield path
    unmount_below(path)
    remove_tree(path)


def unprivileged(place: Path, python: str) -> Stacker:
    return Stacker(place / "store", wrap=UNPRIVILEGED, python=python, environ={"HOME": str(place)})


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (("inspect", "abc"), 3, ("not-found", "no such image: 'abc'", "images")),
        (("--nope",), 2, ("usage", "unknown option: --nope", "--help")),
        (("pull", "App"), 2, ("usage", "malformed reference", "lowercase")),
        (("pull", "localhost:1/app"), 10, ("network", "Connection refused", "check the host")),
        (("pull", "oci:~/damaged"), 5, ("integrity", "sha256:", "")),
    ],
)
def test_failure_is_one_json_document_on_stderr(
    pulled: Stacker,
    tmp_path: Path,
    words: tuple[str, ...],
    code: int,
    expected: tuple[str, str, str],
) -> None:
    kind, message, hint = expected
    damaged = images.layout(tmp_path / "damaged", [tar(file("x", b"1"))])
    damaged.blob(damaged.image.config).write_bytes(b"{}")
    done = pulled.run(*(word.replace("~", str(tmp_path)) for word in words), "--json")
    assert done.code == code
    error = conforming(json.loads(done.err))["error"]
    assert (error["kind"], error["exit_code"]) == (kind, code)
    assert message in error["message"]
    assert hint in (error["hint"] or "")
    assert (error["hint"] is None) == (hint == "")


def test_full_stdout_has_no_hint_about_the_store(pulled: Stacker) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            pulled.words("images"), check=False, stdout=full, stderr=-1, env=pulled.environment
        )
    assert done.stderr == b"stacker: error: cannot write to stdout: No space left on device\n"


def test_images_keep_the_order_of_their_first_pull(
    pulled: Stacker, app: images.Layout, tmp_path: Path
) -> None:
    other = images.layout(tmp_path / "other", [tar(file("x", b"1"))], name="other:1.0")
    pulled("pull", other.source)
    order = [app.image.config, other.image.config]
    for words in (
        ("pull", app.source),
        ("tag", "app:1.0", "more"),
        ("untag", "more"),
        ("pull", app.source, "--name", "third"),
        ("tag", other.image.config, "third"),
    ):
        pulled(*words)
        assert pulled("images", "-q").out.split() == order, words


@pytest.mark.parametrize("verb", ["images", "layers", "history"])
def test_table_fits_a_terminal_of_50_columns(pulled: Stacker, verb: str) -> None:
    pulled("tag", "app:1.0", "registry.example/a/long/name/of/an/image:1.0")
    pulled.environ["COLUMNS"] = "50"
    person, terminal = pty.openpty()
    words = [verb] if verb == "images" else [verb, "app:1.0"]
    with subprocess.Popen(pulled.words(*words), stdout=terminal, env=pulled.environment) as command:
        os.close(terminal)
        assert command.wait() == 0
    lines = _STYLE.sub("", os.read(person, 1 << 16).decode()).splitlines()
    os.close(person)
    assert max(map(len, lines)) <= 50
    identity = pulled(*words, "--json").items[0]
    whole = identity.get("image_id") or identity["diff_id"]
    assert any(whole[7:19] in line for line in lines)  # no ID is folded


@needs_root
@pytest.mark.usefixtures("alone_among_mounts")
def test_mounts_show_whether_programs_can_write_now(pulled: Stacker, tmp_path: Path) -> None:
    single = images.layout(tmp_path / "single", [tar(file("x", b"1"))], name="single")
    pulled("pull", single.source)
    target = tmp_path / "target"

    def modes() -> tuple[bool, str]:
        (item,) = conforming(pulled("mounts", "--json").document)["items"]
        row = pulled("mounts").out.splitlines()[1].split()
        return item["writable"], row[3]

    pulled("mount", "single", target)
    assert modes() == (False, "ro")
    subprocess.run(["mount", "-o", "remount,bind,rw", target], check=True)
    assert modes() == (True, "rw")
    pulled("umount", target)
    for driver in ("overlay", "fuse"):
        for options, writable in (([], False), (["--rw"], True)):
            pulled("mount", "--driver", driver, *options, "app:1.0", target)
            assert modes() == (writable, "rw" if writable else "ro")
            pulled("umount", target)


@needs_root
@pytest.mark.usefixtures("alone_among_mounts")
def test_copy_that_could_not_be_made_read_only_is_shown_as_writable(
    place: Path, unprivileged_python: str
) -> None:
    app = images.layout(place / "app", [tar(file("a", b"1"))])
    subprocess.run(["chmod", "-R", "a+rX", app.path], check=True)
    stacker = unprivileged(place, unprivileged_python)
    stacker("pull", app.source)
    (place / "target").mkdir()
    os.chown(place / "target", 65534, 65534)
    stacker("mount", "--driver", "copy", "app:1.0", place / "target")
    (item,) = stacker("mounts", "--json").items
    assert (item["read_only"], item["writable"]) == (True, True)
    stacker("umount", place / "target")


@needs_root
def test_store_of_another_id_map_names_the_owner_and_the_way_to_use_it(
    place: Path, unprivileged_python: str
) -> None:
    os.chown(place, 0, 0)  # root pulls first
    layers = [tar(dir("d/", mode=0o700), file("d/a", b"1")), tar(file("b", b"2"))]
    app = images.layout(place / "app", layers)
    Stacker(place / "store", environ={"HOME": str(place)})("pull", "--sync", app.source)
    subprocess.run(["chown", "-R", "65534:65534", place], check=True)
    owned = next((place / "store").glob("layers/sha256/*/diff/d"))
    subprocess.run(["chown", "-R", "100032:100032", owned], check=True)
    stacker = unprivileged(place, unprivileged_python)
    for words in (("unpack", "app:1.0", place / "tree"), ("rm", "app:1.0"), ("gc",)):
        text = stacker.refused(1, *words)
        assert "user 100032 owns" in text
        assert "`podman unshare stacker`" in text


def test_mount_error_without_another_owner_has_no_hint_about_owners(
    pulled: Stacker, tmp_path: Path
) -> None:
    assert "unshare" not in pulled.refused(9, "mount", "app:1.0", tmp_path / "none")


@pytest.mark.parametrize("name", ["stacker.json", "oci-layout", "index.json"])
def test_damaged_or_missing_file_of_the_store_is_written_again_and_reported(
    pulled: Stacker, name: str
) -> None:
    path = pulled.store / name
    before = json.loads(path.read_bytes())
    for fault in ("damaged", "missing"):
        path.unlink() if fault == "missing" else path.write_bytes(b"{")
        expected = f"stacker: warning: {fault}: {path}: stacker wrote it again\n"
        assert pulled("images").err == expected
        assert json.loads(path.read_bytes()) == before
        assert pulled("images").err == ""


def test_damaged_checksums_are_written_again_and_reported(pulled: Stacker) -> None:
    for form, names in (("tree", ("checksums",)), ("erofs", ("checksums", "index.sha256"))):
        pulled("convert", "--form", form, "app:1.0")
        for words in (("verify", "app:1.0"), ("repair", "--all")):
            pulled("verify", "--all")
            paths = {path for name in names for path in pulled.store.rglob(name)}
            assert paths
            for path in paths:
                path.write_bytes(b"damage")
            warnings = {
                f"stacker: warning: damaged: {path}: stacker wrote it again" for path in paths
            }
            assert set(pulled(*words).err.splitlines()) == warnings
            assert pulled("verify", "--all").err == ""
