"""Archives for other engines, and archives on stdin and stdout."""

from __future__ import annotations

import gzip
import json
import os
import pty
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.support import images
from tests.support.command import Stacker, at_home
from tests.support.tars import file, tar, whiteout

LAYERS = [tar(file("a", b"1"), file("b", b"2" * 100_000)), tar(file("c", b"3"), whiteout("a"))]
NAME = "registry.example/team/app:1.0"
needs_skopeo = pytest.mark.skipif(not shutil.which("skopeo"), reason="skopeo is not installed")
needs_podman = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("podman"), reason="needs podman and root"
)
each_archive = pytest.mark.parametrize("transport", ["oci-archive", "docker-archive"])


@pytest.fixture
def stacker(tmp_path: Path) -> Stacker:
    return at_home(tmp_path)


@pytest.fixture
def layout(tmp_path: Path) -> images.Layout:
    return images.layout(tmp_path / "app", LAYERS, name=NAME)


@pytest.fixture
def app(stacker: Stacker, layout: images.Layout) -> str:
    """Return the ID of an image in the store that has the name `NAME`."""
    return stacker("pull", "--no-sync", layout.source).last


def listed(path: Path) -> dict[str, Any]:
    """Return the only image of manifest.json in an archive."""
    with tarfile.open(path) as archive:
        member = archive.extractfile("manifest.json")
        assert member is not None
        (image,) = json.load(member)
        for name in (image["Config"], *image["Layers"]):
            archive.getmember(name)
        found: dict[str, Any] = image
        return found


def piped(stacker: Stacker, *words: str | Path, stdin: bytes | None = None) -> bytes:
    """Return the bytes that a successful command writes to stdout."""
    done = subprocess.run(
        stacker.words(*words),
        input=stdin,
        check=False,
        capture_output=True,
        env=stacker.environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("suffix", "names"),
    [
        ("", [NAME]),
        (":other", ["other:latest"]),
        (":localhost:5000/other:2", ["localhost:5000/other:2"]),
    ],
)
def test_docker_archive_has_the_name_of_the_image_or_of_the_destination(
    stacker: Stacker, app: str, tmp_path: Path, suffix: str, names: list[str]
) -> None:
    stacker("push", NAME, f"docker-archive:{tmp_path}/app.tar{suffix}")
    assert listed(tmp_path / "app.tar")["RepoTags"] == names
    again = at_home(tmp_path, "again")
    assert again("pull", "--no-sync", f"docker-archive:{tmp_path}/app.tar").last == app
    assert again("images", "--json").items[0]["names"] == names


def test_image_pushed_by_its_id_has_no_name(stacker: Stacker, app: str, tmp_path: Path) -> None:
    stacker("push", app[7:20], f"docker-archive:{tmp_path}/app.tar")
    assert listed(tmp_path / "app.tar")["RepoTags"] == []


def test_copied_docker_archive_keeps_its_name(
    stacker: Stacker, layout: images.Layout, tmp_path: Path
) -> None:
    first, second = (f"docker-archive:{tmp_path}/{name}.tar" for name in ("first", "second"))
    stacker("copy", layout.source, f"{first}:{NAME}")
    stacker("copy", first, second)
    assert listed(tmp_path / "second.tar") == listed(tmp_path / "first.tar")
    assert listed(tmp_path / "second.tar")["RepoTags"] == [NAME]


@needs_skopeo
def test_skopeo_reads_the_docker_archive(
    stacker: Stacker, layout: images.Layout, app: str, tmp_path: Path
) -> None:
    stacker("push", NAME, f"docker-archive:{tmp_path}/app.tar")
    skopeo = ("skopeo", "--insecure-policy")
    source = f"docker-archive:{tmp_path}/app.tar"
    seen = subprocess.run(
        [*skopeo, "inspect", "--config", f"{source}:{NAME}"], check=True, capture_output=True
    )
    assert json.loads(seen.stdout)["rootfs"]["diff_ids"] == list(layout.image.diff_ids)
    subprocess.run([*skopeo, "copy", "-q", source, f"oci:{tmp_path}/copy:1"], check=True)
    again = at_home(tmp_path, "again")
    again("pull", "--no-sync", f"oci:{tmp_path}/copy:1")
    again("unpack", "1", tmp_path / "again-tree")
    stacker("unpack", app, tmp_path / "tree")
    compared = subprocess.run(
        ["diff", "-r", tmp_path / "tree", tmp_path / "again-tree"], check=False
    )
    assert compared.returncode == 0


@needs_podman
@each_archive
def test_podman_loads_the_archive_with_its_name(
    stacker: Stacker, app: str, tmp_path: Path, transport: str
) -> None:
    stacker("push", NAME, f"{transport}:{tmp_path}/app.tar:{NAME}")
    with tempfile.TemporaryDirectory(prefix="podman") as place:  # at most 50 characters
        places = {"root": "storage", "runroot": "run", "tmpdir": "tmp"}
        podman = ["podman", *(f"--{key}={place}/{name}" for key, name in places.items())]
        podman.append("--storage-driver=vfs")
        subprocess.run([*podman, "load", "-q", "-i", tmp_path / "app.tar"], check=True)
        words = [*podman, "images", "--no-trunc", "--format", "{{.ID}} {{.Repository}}:{{.Tag}}"]
        shown = subprocess.run(words, check=True, capture_output=True, text=True).stdout
        assert shown.split() == [app, NAME]


@each_archive
@pytest.mark.parametrize("path", ["-", "/dev/stdout"])
@pytest.mark.parametrize("verb", ["push", "copy"])
def test_archive_on_stdout_equals_the_file(
    *, stacker: Stacker, layout: images.Layout, tmp_path: Path, transport: str, path: str, verb: str
) -> None:
    source = layout.source
    if verb == "push":
        source = stacker("pull", "--no-sync", layout.source).last
    stacker(verb, source, f"{transport}:{tmp_path}/app.tar:{NAME}")
    found = piped(stacker, verb, source, f"{transport}:{path}:{NAME}")
    assert found == (tmp_path / "app.tar").read_bytes()


@each_archive
@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "gzip"])
def test_archive_on_stdin_is_pulled_and_copied(
    *, stacker: Stacker, layout: images.Layout, tmp_path: Path, transport: str, compressed: bool
) -> None:
    archive = piped(stacker, "copy", layout.source, f"{transport}:-:{NAME}")
    archive = gzip.compress(archive) if compressed else archive
    words = ("pull", "--no-sync", "--jobs", "2", f"{transport}:-:{NAME}")
    assert piped(stacker, *words, stdin=archive).decode().strip() == layout.image.config
    piped(stacker, "copy", f"{transport}:-", f"oci:{tmp_path}/copy:1", stdin=archive)
    (tmp_path / "archive").write_bytes(archive)
    with (tmp_path / "archive").open("rb") as file:
        again = at_home(tmp_path, "again")
        subprocess.run(
            again.words("pull", "--no-sync", "--jobs", "2", f"{transport}:/dev/stdin"),
            stdin=file,
            check=True,
            env=again.environment,
        )
    assert again("images", "--json").items[0]["image_id"] == layout.image.config


def test_repair_does_not_read_stdin_again(
    stacker: Stacker, layout: images.Layout, tmp_path: Path
) -> None:
    archive = piped(stacker, "copy", layout.source, "oci-archive:-")
    piped(stacker, "pull", "--sync", "oci-archive:-", stdin=archive)
    damaged = next(path for path in stacker.store.glob("layers/*/*/diff/*") if path.is_file())
    damaged.write_bytes(b"other")
    done = subprocess.run(
        stacker.words("repair", layout.image.config),
        input=archive,
        check=False,
        capture_output=True,
        env=stacker.environment,
    )
    assert done.returncode == 5
    assert b"kept blobs: " in done.stderr
    assert b"hint: pull the image again" in done.stderr
    assert b"oci-archive" not in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("push", "APP", "docker-archive:x.tar:App"), "malformed name: 'App'"),
        (("push", "APP", f"docker-archive:x.tar:app@sha256:{'0' * 64}"), "malformed name: "),
        (("push", "--json", "APP", "oci-archive:-"), "--json requires a file"),
        (
            ("push", "APP", "docker-daemon:app:1.0"),
            "then `skopeo copy oci-archive:image.tar docker-daemon:app:1.0` copies the image",
        ),
        (
            ("pull", "containers-storage:app:1.0"),
            "`skopeo copy containers-storage:app:1.0 oci-archive:image.tar` writes an archive",
        ),
        (("copy", "docker-daemon:app:1.0", "oci:x"), "stacker has no access to docker-daemon"),
        (("copy", "oci:x", "containers-storage:app"), "no such directory"),
        (("copy", "SOURCE", "containers-storage:app"), "no access to containers-storage"),
    ],
)
def test_wrong_location_is_refused(
    stacker: Stacker, layout: images.Layout, app: str, words: tuple[str, ...], message: str
) -> None:
    given = {"APP": app, "SOURCE": layout.source}
    code = 3 if "oci:x" in words[1:2] else 2
    assert message in stacker.refused(code, *(given.get(word, word) for word in words))


@each_archive
@pytest.mark.parametrize("verb", ["push", "copy"])
def test_archive_in_the_place_of_a_directory_is_refused_with_a_file_to_name(
    *, stacker: Stacker, layout: images.Layout, app: str, tmp_path: Path, transport: str, verb: str
) -> None:
    (directory := tmp_path / "directory").mkdir()
    source = layout.source if verb == "copy" else app
    refused = stacker.refused(2, verb, source, f"{transport}:{directory}")
    assert f"is a directory: {transport}:{directory}: want the path of a file" in refused
    assert f"name a file, such as {directory}/image.tar" in refused
    assert list(directory.iterdir()) == []


@pytest.mark.parametrize("verb", ["index push", "copy"])
def test_no_byte_of_an_index_is_written_to_a_docker_archive(
    stacker: Stacker, app: str, tmp_path: Path, verb: str
) -> None:
    stacker("index", "create", "both", app)
    stacker("index", "push", "both", f"oci:{tmp_path}/both:1")
    words = (
        ("copy", "--all", f"oci:{tmp_path}/both:1") if verb == "copy" else (*verb.split(), "both")
    )
    done = subprocess.run(
        stacker.words(*words, "docker-archive:-"),
        check=False,
        capture_output=True,
        env=stacker.environment,
    )
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"got an index, want one image" in done.stderr


@each_archive
def test_archive_is_neither_written_to_nor_read_from_a_terminal(
    stacker: Stacker, app: str, transport: str
) -> None:
    main, side = pty.openpty()
    try:
        for words, streams in (
            (("push", app, f"{transport}:-"), {"stdout": side}),
            (("pull", f"{transport}:-"), {"stdin": side}),
        ):
            done = subprocess.run(
                stacker.words(*words),
                stdin=streams.get("stdin", subprocess.DEVNULL),
                stdout=streams.get("stdout", subprocess.DEVNULL),
                stderr=subprocess.PIPE,
                check=False,
                env=stacker.environment,
            )
            assert (done.returncode, b"a terminal" in done.stderr) == (2, True)
    finally:
        os.close(main)
        os.close(side)
