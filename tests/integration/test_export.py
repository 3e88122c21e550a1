"""``stacker export`` through the real command."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import shutil
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support import images
from tests.support.command import Stacker, at_home, conforming, wait_until
from tests.support.fsck import assert_sound, needs_fsck
from tests.support.snapshot import extracted, snapshot
from tests.support.tars import char, fifo, file, hardlink, opaque, symlink, tar, whiteout
from tests.support.tars import dir as folder

HOLE = bytes(3 << 20)
LOWER = tar(
    folder("./", mode=0o711, mtime=5),
    folder("etc/", mode=0o750, uid=3, gid=4),
    file("etc/hosts", b"127.0.0.1 localhost\n" * 800, mode=0o640, xattrs={"user.note": b"yes"}),
    file("etc/passwd", b"root:x:0:0::/:/bin/sh\n"),
    hardlink("etc/link", "etc/passwd"),
    symlink("lib", "usr/lib"),
    folder("usr/"),
    folder("usr/lib/"),
    file("usr/lib/gone", b"g"),
    file("var/old", b"o"),
    fifo("pipe"),
    char("tty", 5, 0),
)
UPPER = tar(
    whiteout("usr/lib/gone"),
    file("lib/x", b"x" * 9999),
    hardlink("etc/second", "etc/passwd"),
    opaque("var"),
    file("var/new", b"n"),
    file("sparse", b"head" + HOLE + b"tail"),
)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="makes devices and owners: needs root")
each_form = pytest.mark.parametrize("form", ["tree", "erofs"])


@pytest.fixture
def app(tmp_path: Path) -> images.Layout:
    return images.layout(tmp_path / "app", [LOWER, UPPER])


def pulled(stacker: Stacker, app: images.Layout, form: str = "tree") -> str:
    return stacker("pull", "--no-sync", "--form", form, app.source).last


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


@needs_root
@each_form
def test_extracted_export_equals_the_unpacked_image(
    stacker: Stacker, app: images.Layout, tmp_path: Path, form: str
) -> None:
    image = pulled(stacker, app, form)
    stacker("unpack", image, tmp_path / "wanted")
    stacker("export", image, "-o", tmp_path / "app.tar")
    assert extracted(tmp_path / "app.tar") == snapshot(tmp_path / "wanted")
    assert (tmp_path / "app.tar").stat().st_size < len(HOLE), "holes are not data"


@needs_root
def test_same_image_gives_the_same_tar_in_both_forms_and_any_pull_order(
    app: images.Layout, tmp_path: Path
) -> None:
    base = images.layout(tmp_path / "base", [LOWER])
    other = images.layout(tmp_path / "other", [LOWER, tar(file("etc/hosts", b"other"))])
    found = set()
    for number, form in enumerate(("tree", "erofs", "tree")):
        store = at_home(tmp_path, f"store{number}")
        if number == 2:
            pulled(store, other)
            pulled(store, base)
        store("export", pulled(store, app, form), "-o", tmp_path / f"{number}.tar")
        found.add((tmp_path / f"{number}.tar").read_bytes())
    assert len(found) == 1


@each_form
@pytest.mark.parametrize("number", [1, 2])
def test_exported_layer_is_the_original_tar(
    stacker: Stacker, tmp_path: Path, form: str, number: int
) -> None:
    layers = [tar(file("a", b"1")) + b"after the end", tar(file("b", b"2"))]
    app = images.layout(tmp_path / "app", layers)
    image = pulled(stacker, app, form)
    stacker("export", image, "--layer", str(number), "-o", tmp_path / "layer.tar")
    found = (tmp_path / "layer.tar").read_bytes()
    assert found == layers[number - 1]
    assert f"sha256:{hashlib.sha256(found).hexdigest()}" == app.image.diff_ids[number - 1]


@pytest.mark.parametrize("words", [(), ("-o", "-"), ("-o", "/dev/stdout")])
def test_export_without_a_file_writes_to_stdout(
    stacker: Stacker, app: images.Layout, tmp_path: Path, words: tuple[str, ...]
) -> None:
    image = pulled(stacker, app)
    stacker("export", image, "-o", tmp_path / "app.tar")
    done = subprocess.run(
        stacker.words("export", image, *words),
        check=True,
        capture_output=True,
        env=stacker.environment,
    )
    assert done.stdout == (tmp_path / "app.tar").read_bytes()


def test_tar_is_not_written_to_a_terminal(stacker: Stacker, app: images.Layout) -> None:
    image = pulled(stacker, app)
    main, side = pty.openpty()
    try:
        done = subprocess.run(
            stacker.words("export", image),
            stdout=side,
            stderr=subprocess.PIPE,
            check=False,
            env=stacker.environment,
        )
    finally:
        os.close(main)
        os.close(side)
    assert done.returncode == 2
    wanted = b"refusing to write a tar to a terminal\nhint: name a file with -o"
    assert wanted in done.stderr


@each_form
def test_changed_attribute_is_refused_and_no_file_is_left(
    stacker: Stacker, app: images.Layout, tmp_path: Path, form: str
) -> None:
    image = pulled(stacker, app, form)
    (out := tmp_path / "out").mkdir()
    if form == "tree":
        (changed,) = stacker.store.glob("layers/*/*/diff/etc/hosts")
        changed.chmod(0o777)
        message = "etc/hosts: mode: "
    else:
        changed = next(stacker.store.glob("layers/*/*/index.erofs"))
        data = bytearray(changed.read_bytes())
        data[1300] ^= 1
        changed.write_bytes(data)
        message = "index.erofs"
    refused = stacker.refused(5, "export", image, "-o", out / "app.tar")
    assert "damaged: layer" in refused
    assert message in refused
    assert names(out) == set()


@each_form
def test_changed_content_is_refused_with_verify_full_and_in_a_layer(
    stacker: Stacker, app: images.Layout, tmp_path: Path, form: str
) -> None:
    image = pulled(stacker, app, form)
    where = "layers/*/*/diff/etc/hosts" if form == "tree" else "layers/*/*/layer.tar"
    for changed in stacker.store.glob(where):
        times, data = changed.stat(), bytearray(changed.read_bytes())
        at = data.index(b"localhost") if b"localhost" in data else 0
        data[at : at + 1] = b"L"
        changed.write_bytes(data)
        os.utime(changed, ns=(times.st_atime_ns, times.st_mtime_ns))
    (out := tmp_path / "out").mkdir()
    stacker.refused(5, "export", "--verify", "full", image, "-o", out / "app.tar")
    stacker.refused(5, "export", "--layer", "1", image, "-o", out / "app.tar")
    assert names(out) == set()


def test_file_obeys_the_umask_and_replaces_an_older_one(
    stacker: Stacker, app: images.Layout, tmp_path: Path
) -> None:
    image = pulled(stacker, app)
    (path := tmp_path / "app.tar").write_bytes(b"old")
    words = stacker.words("export", image, "-o", path)
    subprocess.run(
        ["sh", "-c", 'umask 027; "$@"', "sh", *words], check=True, env=stacker.environment
    )
    assert path.stat().st_mode & 0o7777 == 0o640
    assert path.stat().st_size > 10_240


def test_json_describes_the_file(stacker: Stacker, app: images.Layout, tmp_path: Path) -> None:
    image = pulled(stacker, app)
    done = stacker("export", "--json", image, "-o", tmp_path / "app.tar")
    item = conforming(json.loads(done.last))["item"]
    data = (tmp_path / "app.tar").read_bytes()
    listed = subprocess.run(
        ["tar", "-tf", tmp_path / "app.tar"], check=True, capture_output=True, text=True
    )
    assert item == {
        "image_id": image,
        "path": str(tmp_path / "app.tar"),
        "format": "tar",
        "digest": f"sha256:{hashlib.sha256(data).hexdigest()}",
        "size": len(data),
        "entries": len(listed.stdout.splitlines()),
    }


@pytest.mark.parametrize(
    ("words", "total"), [((), None), (("--format", "erofs"), None), (("--layer", "2"), len(UPPER))]
)
def test_export_reports_the_bytes_that_it_has_written(
    stacker: Stacker, app: images.Layout, tmp_path: Path, words: tuple[str, ...], total: int | None
) -> None:
    image, path = pulled(stacker, app), tmp_path / "file"
    done = stacker("export", "--json", *words, image, "-o", path)
    lines = [conforming(json.loads(line)) for line in done.out.splitlines()]
    *running, last = [line for line in lines if line["kind"] == "export-progress"]
    assert {line["total"] for line in running} <= {total}
    assert last["done"] == last["total"] > 0
    assert last["done"] <= path.stat().st_size


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--layer", "3", "-o", "x"), "no such layer: got --layer 3, want 1 to 2"),
        (("--layer", "1", "--format", "squashfs", "-o", "x"), "--layer writes a tar"),
        (("--format", "squashfs"), "--format squashfs requires -o FILE"),
        (("--format", "erofs"), "--format erofs requires -o FILE"),
        (("--json",), "--json requires -o FILE"),
        (("-o", "/dev/null"), "not a regular file: /dev/null"),
        (("-o", "/"), "is a directory: /: want the path of a file"),
    ],
)
def test_wrong_options_are_refused(
    stacker: Stacker, app: images.Layout, words: tuple[str, ...], message: str
) -> None:
    assert message in stacker.refused(2, "export", pulled(stacker, app), *words)


def test_interrupted_export_leaves_no_file(stacker: Stacker, tmp_path: Path) -> None:
    # More than a pipe holds, so the program that does not read blocks the export.
    layer = tar(*(file(f"file{number}", b"x" * 1000) for number in range(100)))
    image = pulled(stacker, images.layout(tmp_path / "app", [layer]))
    (tools := tmp_path / "tools").mkdir()
    started = tmp_path / "started"
    (tools / "tar2sqfs").write_text(f"#!/bin/sh\n: > {started}\nexec sleep 600\n")
    (tools / "tar2sqfs").chmod(0o755)
    (out := tmp_path / "out").mkdir()
    environment = {**stacker.environment, "PATH": f"{tools}:{os.environ['PATH']}"}
    words = stacker.words("export", "--format", "squashfs", image, "-o", out / "app.squashfs")
    with subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL, text=True) as process:
        wait_until(started.exists, process)
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 128 + signal.SIGTERM
    assert names(out) == set()


def test_missing_squashfs_programs_are_named_with_their_packages(
    stacker: Stacker, app: images.Layout, tmp_path: Path
) -> None:
    image = pulled(stacker, app)
    (out := tmp_path / "out").mkdir()
    environment = {**stacker.environment, "PATH": str(out)}
    words = stacker.words("export", "--format", "squashfs", image, "-o", out / "app.squashfs")
    done = subprocess.run(words, env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 7
    assert "install the package squashfs-tools or squashfs-tools-ng" in done.stderr
    assert names(out) == set()


def test_failing_squashfs_program_is_reported_and_no_file_is_left(
    stacker: Stacker, app: images.Layout, tmp_path: Path
) -> None:
    image = pulled(stacker, app)
    (tools := tmp_path / "tools").mkdir()
    (tools / "tar2sqfs").write_text("#!/bin/sh\necho no more space >&2; exit 3\n")
    (tools / "tar2sqfs").chmod(0o755)
    (out := tmp_path / "out").mkdir()
    environment = {**stacker.environment, "PATH": f"{tools}:{os.environ['PATH']}"}
    words = stacker.words("export", "--format", "squashfs", image, "-o", out / "app.squashfs")
    done = subprocess.run(words, env=environment, check=False, capture_output=True, text=True)
    assert (done.returncode, names(out)) == (1, set())
    assert "cannot make a squashfs image: tar2sqfs: no more space" in done.stderr


@needs_root
@pytest.mark.usefixtures("alone_among_mounts")
@pytest.mark.parametrize("program", ["tar2sqfs", "sqfstar"])
def test_squashfs_equals_the_unpacked_image(
    stacker: Stacker, app: images.Layout, tmp_path: Path, program: str
) -> None:
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed")
    image = pulled(stacker, app)
    stacker("unpack", image, tmp_path / "wanted")
    (tools := tmp_path / "tools").mkdir()
    for name in (program, "env"):
        (tools / name).symlink_to(shutil.which(name) or "")
    environment = {**stacker.environment, "PATH": str(tools), "SOURCE_DATE_EPOCH": "1"}
    if libraries := os.environ.get("LD_LIBRARY_PATH"):
        environment["LD_LIBRARY_PATH"] = libraries
    paths = [tmp_path / "one.squashfs", tmp_path / "two.squashfs"]
    for path in paths:
        words = stacker.words("export", "--format", "squashfs", image, "-o", path)
        subprocess.run(words, env=environment, check=True)
    if program == "tar2sqfs":
        assert paths[0].read_bytes() == paths[1].read_bytes(), "it is reproducible"
    (target := tmp_path / "mounted").mkdir()
    subprocess.run(["mount", "-t", "squashfs", "-o", "loop,ro", paths[0], target], check=True)
    try:
        got, wanted = snapshot(target), snapshot(tmp_path / "wanted")
        if program == "sqfstar":  # version 4.5 ignores -root-time
            got[b""] = replace(got[b""], mtime=wanted[b""].mtime)
        assert got == wanted
    finally:
        subprocess.run(["umount", target], check=True)


@needs_root
@needs_fsck
@pytest.mark.usefixtures("alone_among_mounts")
def test_erofs_image_equals_the_unpacked_image_and_is_the_same_in_both_forms(
    app: images.Layout, tmp_path: Path
) -> None:
    stores = {form: at_home(tmp_path, form) for form in ("tree", "erofs")}
    paths = {form: tmp_path / f"{form}.erofs" for form in stores}
    for form, store in stores.items():
        store("export", "--format", "erofs", pulled(store, app, form), "-o", paths[form])
        assert_sound(paths[form])
    path, stacker, image = paths["tree"], stores["tree"], app.image.config
    assert path.read_bytes() == paths["erofs"].read_bytes()
    assert path.stat().st_size < len(HOLE), "holes are not data"
    stacker("unpack", image, tmp_path / "wanted")
    (target := tmp_path / "mounted").mkdir()
    subprocess.run(["mount", "-t", "erofs", "-o", "loop,ro", path, target], check=True)
    try:
        assert snapshot(target) == snapshot(tmp_path / "wanted")
    finally:
        subprocess.run(["umount", target], check=True)


@needs_root
def test_image_without_layers_exports_an_empty_root(stacker: Stacker, tmp_path: Path) -> None:
    empty = images.layout(tmp_path / "empty", [])
    stacker("export", pulled(stacker, empty), "-o", tmp_path / "empty.tar")
    listed = subprocess.run(
        ["tar", "-tvf", tmp_path / "empty.tar", "--utc"], check=True, capture_output=True, text=True
    )
    assert listed.stdout.split() == ["drwxr-xr-x", "0/0", "0", "1970-01-01", "00:00", "./"]
