"""Bad input: one line on stderr, an exit code of its own, nothing left in the store."""

from __future__ import annotations

import json
import os
import shlex
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from stacker.linux import mountapi
from tests.support import images
from tests.support.command import Stacker
from tests.support.mounts import unmount_below
from tests.support.tars import char, entry, file, hardlink, pax, pax_header, symlink, tar, whiteout

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
LAYER = tar(file("small", b"1"), file("large", os.urandom(200_000)))
SMALL = 2 << 20
UPPER = tar(whiteout("small"), file("top", b"2"))


@pytest.fixture(autouse=True)
def unmounted(tmp_path: Path) -> Iterator[None]:
    """Nothing stays mounted, whatever failed."""
    yield
    unmount_below(tmp_path)


@pytest.fixture
def stacker(tmp_path: Path) -> Stacker:
    return Stacker(tmp_path / "store")


@pytest.fixture
def app(tmp_path: Path) -> images.Layout:
    return images.layout(tmp_path / "app", [LAYER, UPPER])


@pytest.fixture
def here(stacker: Stacker, app: images.Layout, tmp_path: Path) -> Stacker:
    """A store with an image, and a target to mount on."""
    stacker("pull", app.source)
    (tmp_path / "target").mkdir()
    return stacker


def broken(data: bytes) -> bytes:
    """Change a byte in the middle."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
@pytest.mark.parametrize(
    "change",
    [
        broken,
        lambda data: data[:-1],
        lambda data: data[: len(data) // 2],
        lambda data: data + b"\0",
        lambda _: b"",
    ],
    ids=["changed", "one-short", "cut", "longer", "empty"],
)
def test_a_blob_that_is_not_what_its_digest_says_is_refused(
    stacker: Stacker,
    tmp_path: Path,
    change: Callable[[bytes], bytes],
    compression: images.Compression,
) -> None:
    app = images.layout(tmp_path / "app", [LAYER], compression=compression)
    blob = app.blob(app.image.layers[0])
    blob.write_bytes(change(blob.read_bytes()))
    assert app.image.layers[0][7:] in stacker.refused(5, "pull", app.source)
    stacker.assert_clean(layers=0)


def test_a_layer_that_unpacks_to_another_diff_id_is_refused(
    stacker: Stacker, tmp_path: Path
) -> None:
    def lie(config: dict[str, Any]) -> None:
        config["rootfs"]["diff_ids"][0] = images.digest_of(b"something else")

    app = images.layout(tmp_path / "app", [LAYER], config=lie)
    text = stacker.refused(5, "pull", app.source)
    assert images.digest_of(LAYER)[7:] in text
    assert images.digest_of(b"something else")[7:] in text
    stacker.assert_clean(layers=0)


@pytest.mark.parametrize("difference", [-1, 1])
def test_a_descriptor_of_the_wrong_size_is_refused(
    stacker: Stacker, tmp_path: Path, difference: int
) -> None:
    def lie(manifest: dict[str, Any]) -> None:
        manifest["layers"][0]["size"] += difference

    app = images.layout(tmp_path / "app", [LAYER], manifest=lie)
    assert "size" in stacker.refused(5, "pull", app.source)
    stacker.assert_clean(layers=0)


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
@pytest.mark.parametrize("change", [broken, lambda data: data[:-9]], ids=["corrupt", "truncated"])
def test_corrupt_compression_under_a_right_digest_is_refused(
    stacker: Stacker,
    tmp_path: Path,
    compression: images.Compression,
    change: Callable[[bytes], bytes],
) -> None:
    data = change(images.compressed(LAYER, compression))

    def agree(manifest: dict[str, Any]) -> None:
        layer = manifest["layers"][0]
        layer["digest"], layer["size"] = images.digest_of(data), len(data)

    app = images.layout(tmp_path / "app", [LAYER], compression=compression, manifest=agree)
    app.blob(images.digest_of(data)).write_bytes(data)
    stacker.refused(5, "pull", app.source)
    stacker.assert_clean(layers=0)


@pytest.mark.parametrize("part", ["layer", "config", "manifest"])
def test_a_missing_blob_is_named(stacker: Stacker, app: images.Layout, part: str) -> None:
    image = app.image
    digest = {"layer": image.layers[1], "config": image.config, "manifest": image.manifest}[part]
    app.blob(digest).unlink()
    assert digest[7:] in stacker.refused(3, "pull", app.source)
    stacker.assert_clean()


@pytest.mark.parametrize("part", ["config", "manifest"])
@pytest.mark.parametrize(
    "content",
    [b"{", b"[]", b"\xff", b'{"a": 1, "a": 2}', b"[" * 100_000, b" " * (4 << 20) + b"{}"],
    ids=["cut", "list", "no-utf8", "twice", "deep", "over-4-MiB"],
)
def test_malformed_documents_are_refused(
    stacker: Stacker, app: images.Layout, tmp_path: Path, part: str, content: bytes
) -> None:
    digest = images.digest_of(content)
    new = {"digest": digest, "size": len(content)}
    if part == "config":
        app = images.layout(
            tmp_path / "other", [LAYER], manifest=lambda manifest: manifest["config"].update(new)
        )
    else:
        index = json.loads((app.path / "index.json").read_bytes())
        index["manifests"][0].update(new)
        (app.path / "index.json").write_text(json.dumps(index))
    app.blob(digest).write_bytes(content)
    assert digest in stacker.refused(5, "pull", app.source)
    stacker.assert_clean(layers=0)


@pytest.mark.parametrize("content", [b"{", b'{"schemaVersion": 2, "manifests": 7}'])
def test_a_malformed_index_is_refused(stacker: Stacker, app: images.Layout, content: bytes) -> None:
    (app.path / "index.json").write_bytes(content)
    stacker.refused(5, "pull", app.source)
    stacker.assert_clean(layers=0)


def test_a_manifest_that_is_also_an_index_is_refused(stacker: Stacker, tmp_path: Path) -> None:
    app = images.layout(
        tmp_path / "app", [LAYER], manifest=lambda manifest: manifest.update(manifests=[])
    )
    assert "also an index" in stacker.refused(5, "pull", app.source)
    stacker.assert_clean(layers=0)


def test_a_manifest_and_a_config_with_different_numbers_of_layers_are_refused(
    stacker: Stacker, tmp_path: Path
) -> None:
    app = images.layout(
        tmp_path / "app", [LAYER, UPPER], config=lambda config: config["rootfs"]["diff_ids"].pop()
    )
    text = stacker.refused(5, "pull", app.source)
    assert "manifest lists 2 layers, config lists 1 diff_ids" in text
    stacker.assert_clean(layers=0)


@pytest.mark.parametrize(
    "lie",
    [
        lambda manifest: manifest["layers"][0].update(mediaType="application/x-layer"),
        lambda manifest: manifest["config"].update(mediaType="application/x-config"),
        lambda manifest: manifest.update(schemaVersion=1),
    ],
    ids=["layer", "config", "schema-1"],
)
def test_an_unknown_form_is_unsupported(
    stacker: Stacker, tmp_path: Path, lie: images.Change
) -> None:
    app = images.layout(tmp_path / "app", [LAYER], manifest=lie)
    stacker.refused(7, "pull", app.source)
    stacker.assert_clean(layers=0)


def test_no_matching_platform_says_which_there_are(stacker: Stacker, tmp_path: Path) -> None:
    both = [(("linux", "s390x"), [LAYER]), (("windows", "amd64"), [LAYER])]
    layout = images.several(tmp_path / "app", both)
    text = stacker.refused(3, "pull", layout.source, "--platform", "linux/arm64")
    assert "linux/s390x, windows/amd64" in text
    assert "linux/arm64" in text
    single = images.layout(tmp_path / "single", [LAYER])
    stacker.refused(3, "pull", single.source, "--platform", "linux/arm64")
    stacker.assert_clean(layers=0)


HOSTILE = {
    "device-0-0": tar(char("hidden", 0, 0)),
    "bare-whiteout": tar(whiteout("")),
    "wrong-checksum": tar(file("a", b"1", checksum=1)),
    "cut-member": tar(file("a", b"x" * 2000), end=False)[:-1024],
    "no-end": tar(file("a", b"1"), end=False) + b"rubbish" * 100,
    "root-is-a-file": tar(file(".", b"1")),
    "malformed-pax": tar(pax_header(b"9999 path=x\n"), file("a")),
    "empty-symlink": tar(symlink("a", "")),
    "negative-size": tar(entry("a", size=b"\xff" * 12)),
}


@pytest.mark.parametrize("layer", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_layer_is_refused(stacker: Stacker, tmp_path: Path, layer: bytes) -> None:
    app = images.layout(tmp_path / "app", [layer])
    stacker.refused(6, "pull", app.source)
    stacker.assert_clean(layers=0)


def test_a_hard_link_to_nothing_is_refused_when_the_layers_are_stacked(
    stacker: Stacker, tmp_path: Path
) -> None:
    app = images.layout(tmp_path / "app", [LAYER, tar(hardlink("a", "nowhere"))])
    stacker.refused(6, "pull", app.source)
    stacker.assert_clean(layers=2)  # on another image the link may have a target
    assert not list((stacker.store / "chains").rglob("chain.json"))


def test_a_layer_cannot_leave_the_store(stacker: Stacker, tmp_path: Path) -> None:
    app = images.layout(
        tmp_path / "app",
        [tar(symlink("up", "/../.."), file("up/a", b"1"), file("../../../b", b"2"))],
    )
    before = sorted(os.listdir(tmp_path))
    stacker("pull", app.source)
    assert sorted(os.listdir(tmp_path)) == sorted([*before, "store"])
    stacker("unpack", "app:1.0", tmp_path / "tree")
    assert sorted(os.listdir(tmp_path / "tree")) == ["a", "b", "up"]


@pytest.mark.parametrize(
    ("flag", "value", "layer"),
    [
        ("--max-bytes", "100K", LAYER),
        ("--max-entries", "1", LAYER),
        ("--max-depth", "3", tar(file("a/b/c/d"))),
        ("--max-pax-bytes", "1K", tar(pax(comment="x" * 2000), file("a"))),
        ("--max-names", "20", tar(file("n" * 21 + "/x"))),
        ("--max-ratio", "2", tar(file("zeros", bytes(80 << 20)))),
    ],
)
def test_a_layer_over_a_limit_is_refused_with_the_limits_flag(
    stacker: Stacker, tmp_path: Path, flag: str, value: str, layer: bytes
) -> None:
    app = images.layout(tmp_path / "app", [layer])
    assert f"raise the limit with {flag} " in stacker.refused(6, "pull", app.source, flag, value)
    stacker.assert_clean(layers=0)
    assert stacker("pull", app.source).last == app.image.config


def test_a_path_that_no_program_can_name_is_refused_in_few_words(
    stacker: Stacker, tmp_path: Path
) -> None:
    deep = "/".join(["d" * 200] * 30)
    app = images.layout(tmp_path / "app", [tar(file(f"{deep}/x"))])
    said = stacker.refused(6, "pull", app.source)
    assert "want at most 4095" in said
    assert len(said) < 1000


def test_a_raised_limit_holds_when_a_layer_is_applied_anew(
    stacker: Stacker, tmp_path: Path
) -> None:
    deep = "lib/" + "/".join("d" * 600)
    app = images.layout(tmp_path / "app", [tar(symlink("lib", "usr")), tar(file(deep))])
    assert stacker("pull", app.source, "--max-depth", "700").last == app.image.config


def test_layers_that_were_good_stay_when_another_is_bad(
    stacker: Stacker, app: images.Layout
) -> None:
    blob = app.blob(app.image.layers[1])
    good = blob.read_bytes()
    blob.write_bytes(broken(good))
    stacker.refused(5, "pull", app.source, "--jobs", "1")
    stacker.assert_clean(layers=1)
    assert stacker("df", "--json").item["bytes"]["unlisted"] == 200_001
    blob.write_bytes(good)
    app.blob(app.image.layers[0]).unlink()
    stacker("pull", app.source)
    stacker.assert_clean(images=1, layers=2)


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("app", 2),
        ("oci:", 2),
        ("nothing:app", 2),
        ("docker://app", 2),
        ("oci:/nowhere", 3),
        ("oci-archive:/nowhere", 3),
        ("docker-archive:/nowhere", 3),
    ],
)
def test_a_source_that_is_none_is_refused(stacker: Stacker, source: str, code: int) -> None:
    stacker.refused(code, "pull", source)
    stacker.assert_clean(layers=0)


def test_a_tag_that_is_not_there_is_refused(stacker: Stacker, app: images.Layout) -> None:
    assert "app:1.0" in stacker.refused(3, "pull", f"{app.source}:app:2.0")
    stacker.assert_clean(layers=0)


@pytest.mark.parametrize("verb", ["mount", "unpack", "inspect", "layers", "history", "rm"])
def test_no_such_image(here: Stacker, tmp_path: Path, verb: str) -> None:
    more = {"mount": [tmp_path / "target"], "unpack": [tmp_path / "tree"]}.get(verb, [])
    for text in ("nothing", "f" * 64, "sha256:" + "f" * 64, ""):
        assert "no such image" in here.refused(3, verb, text, *more)
    here.assert_clean(images=1)
    assert not (tmp_path / "tree").exists()


def test_an_ambiguous_prefix_is_refused_with_what_it_could_mean(
    stacker: Stacker, tmp_path: Path
) -> None:
    first, second = _alike(tmp_path)
    for app in (first, second):
        stacker("pull", app.source)
    digit = first.image.config[7]
    text = stacker.refused(2, "inspect", digit)
    for app in (first, second):
        assert app.image.config[7:19] in text


def _alike(place: Path) -> tuple[images.Layout, images.Layout]:
    """Make two images whose IDs begin alike; seventeen tries are enough for one digit."""
    made: dict[str, images.Layout] = {}
    for number in range(17):
        layers = [UPPER, *([LAYER] * number)]
        app = images.layout(place / f"{number}", layers, name=f"app:{number}")
        other = made.setdefault(app.image.config[7], app)
        if other is not app:
            return other, app
    raise AssertionError


def test_the_digest_of_a_manifest_is_no_image_id(here: Stacker, app: images.Layout) -> None:
    text = here.refused(3, "inspect", app.image.manifest)
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
def test_a_target_that_cannot_be_mounted_on_is_refused(
    here: Stacker, tmp_path: Path, target: str, code: int, text: str
) -> None:
    (tmp_path / "file").touch()
    assert text in here.refused(code, "mount", "app:1.0", tmp_path / target)
    here.assert_clean(images=1, layers=2)


def test_a_busy_target_is_refused(here: Stacker, tmp_path: Path) -> None:
    here("mount", "app:1.0", tmp_path / "target")
    here.refused(9, "mount", "app:1.0", tmp_path / "target")
    here("umount", tmp_path / "target")
    here.assert_clean(images=1)


@needs_root
def test_a_mount_in_use_is_not_taken_away(here: Stacker, tmp_path: Path) -> None:
    target = tmp_path / "target"
    here("mount", "app:1.0", target)
    with (target / "top").open():
        assert "in use" in here.refused(9, "umount", target)
        assert (target / "top").exists()
        here("umount", "--lazy", target)
    assert os.listdir(target) == []


def test_nothing_to_unmount(here: Stacker, tmp_path: Path) -> None:
    here.refused(3, "umount", tmp_path / "target")


@needs_root
def test_no_permission_to_mount_is_exit_code_9(app: images.Layout, tmp_path: Path) -> None:
    inside = Stacker(tmp_path / "store", wrap=("unshare", "--user", "--map-root-user"))
    target = tmp_path / "target"
    target.mkdir()
    inside("pull", app.source)
    inside.refused(9, "mount", "--driver", "overlay", "app:1.0", target)
    inside.assert_clean(images=1)
    assert os.listdir(target) == []


def test_a_copy_cannot_keep_writes(here: Stacker, tmp_path: Path) -> None:
    words = ("mount", "app:1.0", tmp_path / "target", "--driver", "copy")
    here.refused(7, *words, "--upper", tmp_path / "upper")
    (tmp_path / "target" / "mine").touch()
    here.refused(9, *words)
    assert os.listdir(tmp_path / "target") == ["mine"]
    assert not (tmp_path / "upper").exists()
    here.assert_clean(images=1)


@pytest.mark.parametrize(
    ("directory", "code"), [("full", 2), ("file", 2), ("store/new", 2), ("missing/new", 1)]
)
def test_a_directory_that_cannot_be_filled_is_refused(
    here: Stacker, tmp_path: Path, directory: str, code: int
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    (tmp_path / "file").touch()
    here.refused(code, "unpack", "app:1.0", tmp_path / directory)
    assert sorted(os.listdir(tmp_path)) == ["app", "file", "full", "store", "target"]
    assert os.listdir(tmp_path / "full") == ["mine"]
    here.assert_clean(images=1, layers=2)


def test_a_store_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    Stacker(tmp_path / "file").refused(1, "images")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter").touch()
    Stacker(tmp_path / "home").refused(2, "images")
    assert os.listdir(tmp_path / "home") == ["letter"]


def test_a_store_of_a_newer_version_is_refused(here: Stacker) -> None:
    (here.store / "stacker.json").write_text('{"version": 99}')
    here.refused(7, "images")


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A tmpfs of 2 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    mountapi.mount("tmpfs", place, "tmpfs", 0, b"size=%d" % SMALL)
    return place


def fill(place: Path) -> None:
    """Write until the tmpfs is full; never write more than it can hold."""
    assert os.path.ismount(place)
    with suppress(OSError), (place / "filler").open("wb", 0) as filler:
        for _ in range(SMALL // 4096 + 1):
            filler.write(bytes(4096))


@needs_root
def test_a_full_disk_is_one_line_and_leaves_nothing(small: Path, tmp_path: Path) -> None:
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
def test_a_full_disk_for_a_copy_leaves_the_target_empty(
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
def test_a_store_that_is_full_when_the_image_is_listed_keeps_no_half_document(
    small: Path, tmp_path: Path
) -> None:
    stacker = Stacker(small / "store")
    first = images.layout(tmp_path / "first", [UPPER], name="first")
    second = images.layout(
        tmp_path / "second", [UPPER], name="second", config=lambda c: c.update(x="y" * 3000)
    )
    stacker("pull", first.source)
    fill(small)
    stacker.refused(1, "pull", second.source)
    blobs = [path.name for path in (stacker.store / "blobs" / "sha256").iterdir()]
    image = first.image
    assert sorted(f"sha256:{name}" for name in blobs) == sorted([image.config, image.manifest])
    stacker.assert_clean(images=1, layers=1)


def test_full_disk_on_stdout_is_one_message(here: Stacker) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            here.words("images"), check=False, stdout=full, stderr=-1, env=here.environment
        )
    assert done.returncode == 1
    assert done.stderr.startswith(
        b"stacker: error: cannot write to stdout: No space left on device"
    )
    assert b"Traceback" not in done.stderr
    assert b"Exception" not in done.stderr


@pytest.mark.parametrize("words", [("images",), ("--help",), ("images", "--json"), ("df",)])
def test_closed_stdout_is_one_message(here: Stacker, words: tuple[str, ...]) -> None:
    command = shlex.join(here.words(*words))
    done = subprocess.run(
        ["sh", "-c", f"{command} 1>&-"], check=False, stderr=-1, env=here.environment
    )
    message = b"stacker: error: cannot write to stdout: Bad file descriptor\n"
    assert (done.returncode, done.stderr) == (1, message)


@pytest.mark.parametrize(("words", "code"), [(("images", "-v"), 0), (("nothing",), 2)])
def test_closed_stderr_discards_messages(here: Stacker, words: tuple[str, ...], code: int) -> None:
    command = shlex.join(here.words(*words))
    done = subprocess.run(
        ["sh", "-c", f"{command} 2>&-"], check=False, stdout=-1, env=here.environment
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


def test_a_reader_that_went_away_is_no_error(here: Stacker) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        here.words("images"), check=False, stdout=write, stderr=-1, env=here.environment
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
def test_words_that_make_no_sense_are_exit_code_2(tmp_path: Path, words: tuple[str, ...]) -> None:
    Stacker(tmp_path / "store").refused(2, *words)
    left = list(tmp_path.rglob("*"))
    assert not [path for path in left if path.is_file() and path.parent.name == "staging"]


def test_a_store_is_closed_to_others(stacker: Stacker) -> None:
    stacker("images")
    assert stat.S_IMODE(stacker.store.stat().st_mode) == 0o700
