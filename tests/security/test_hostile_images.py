"""Images that attack the host: each attack of a published CVE, by the real commands.

docs/explanation/security.md names these tests.  An image is refused or unpacked; in both cases the
files beside the store stay as they are, and the next command works.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import Stacker, at_home
from tests.support.images import digest_of, layout
from tests.support.mounts import unmount_below
from tests.support.registries import PASSWORD, USER, FakeRegistry, fake_registry
from tests.support.snapshot import snapshot
from tests.support.tars import dir, file, hardlink, header, pax_header, symlink, tar, whiteout  # noqa: A004

IS_ROOT = os.geteuid() == 0
WAYS = pytest.mark.parametrize(
    "way",
    [
        "unpack",
        *(
            pytest.param(driver, marks=pytest.mark.skipif(not IS_ROOT, reason="only root mounts"))
            for driver in ("overlay", "fuse", "copy")
        ),
    ],
)
pytestmark = pytest.mark.usefixtures("alone_among_mounts")


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """Return a directory of the host that no command may change."""
    path = tmp_path / "victim"
    (path / "inner").mkdir(parents=True)
    (path / "secret").write_bytes(b"secret")
    (path / "secret").chmod(0o640)
    (path / "inner" / "file").write_bytes(b"inner")
    return path


@pytest.fixture
def stacker(tmp_path: Path) -> Iterator[Stacker]:
    (tmp_path / "target").mkdir()
    yield at_home(tmp_path)
    unmount_below(tmp_path)


def expose(stacker: Stacker, way: str, target: Path) -> Path:
    """Unpack or mount the image, and read every file of it; return its root."""
    if way == "unpack":
        target = target.with_name("tree")
        stacker.run("unpack", "--pull", "never", "app:1.0", target)
    else:
        stacker.run("mount", "--pull", "never", "--driver", way, "app:1.0", target)
    if target.exists():
        snapshot(target)
    return target


def escaping_chain(victim: Path) -> bytes:
    """Return links whose resolved path is longer than PATH_MAX, which defeats realpath(3)."""
    parts, above, long = [], "", "d" * 247
    for letter in "abcdefghijklmnop":
        parts += [dir(f"{above}{long}"), symlink(f"{above}{letter}", long)]
        above += f"{letter}/"
    up = "../" * 16 + "../" * 12
    return tar(*parts, symlink(f"{above}l", up), file(f"{above}l{victim}/new", b"escaped"))


LAYERS: dict[str, Callable[[Path], list[bytes]]] = {
    "dot-dot": lambda v: [tar(file(f"{'../' * 30}{v}/new"), file(f"a/../../{v}/secret", b"x"))],
    "absolute": lambda v: [tar(file(f"{v}/secret", b"x"), file(f"//{v}/new", b"x"))],
    "root is a symlink": lambda v: [tar(symlink(".", str(v))), tar(file("new", b"x"))],
    "slash is a symlink": lambda v: [tar(symlink("/", str(v))), tar(file("secret", b"x"))],
    "file below a symlink": lambda v: [tar(symlink("l", str(v)), file("l/secret", b"x"))],
    "symlink of a lower layer": lambda v: [
        tar(symlink("l", str(v))),
        tar(file("l/new", b"x"), whiteout("l/secret")),
    ],
    "directory becomes a symlink": lambda v: [
        tar(dir("d"), file("d/a"), symlink("d", str(v)), file("d/new", b"x"))
    ],
    "backslash": lambda v: [tar(dir("d\\e"), symlink("d\\e", str(v)), file("d\\e/new", b"x"))],
    "long chain": lambda v: [escaping_chain(v)],
    "relative symlinks": lambda v: [
        tar(symlink("a", "."), symlink("a/b", ".."), symlink("c", f"a/b/../../..{v}"), file("c/x"))
    ],
    "hard link": lambda v: [tar(hardlink("h", f"{v}/secret"))],
    "hard link with dot-dot": lambda v: [tar(hardlink("h", f"{'../' * 30}{v}/secret"))],
    "hard link through a symlink": lambda v: [
        tar(symlink("l", str(v)), hardlink("h", "l/secret"), file("h", b"x", mode=0o777))
    ],
    "hard link with contents": lambda v: [
        tar(
            symlink("l", f"{v}/secret"),
            hardlink("h", "l"),
            header("h", flag=b"1", link="l", size=4) + b"over".ljust(512, b"\0"),
        )
    ],
    "whiteout through a symlink": lambda v: [
        tar(symlink("l", str(v)), whiteout("l/secret"), whiteout("l/inner"))
    ],
    "mode through a symlink": lambda v: [
        tar(dir("d", mode=0o777), symlink("d", f"{v}/inner", mode=0o777)),
        tar(dir("l/inner", mode=0o777, mtime=1), symlink("l", str(v))),
    ],
    "not a tar": lambda _: [b"\x01" * 1024],
    "empty PAX record": lambda _: [tar(pax_header(b"0 path=x\n"), file("a"))],
    "negative size": lambda _: [tar(header("a", size=b"\xff" * 12), file("b"))],
}


@WAYS
@pytest.mark.parametrize("attack", LAYERS)
def test_hostile_layer_touches_nothing_outside(
    tmp_path: Path, stacker: Stacker, victim: Path, attack: str, way: str
) -> None:
    before = snapshot(victim)
    image = layout(tmp_path / "image", LAYERS[attack](victim))
    pulled = stacker.run("pull", "--sync", image.source)
    assert pulled.code in {0, 5, 6}, pulled.err
    if not pulled.code:
        root = expose(stacker, way, tmp_path / "target")
        secret = (victim / "secret").stat()
        for path in root.rglob("*"):  # no name of the image is the victim's file
            assert not os.path.samestat(path.lstat(), secret)
    assert snapshot(victim) == before
    stacker("images")


def hostile_config(victim: Path) -> Callable[[dict[str, Any]], None]:
    """Let every path and program of a config name the victim's directory."""
    up = f"{'../' * 30}{victim}"

    def change(config: dict[str, Any]) -> None:
        config["config"] = {
            "Volumes": {up: {}, str(victim): {}, "/../../../../": {}},
            "WorkingDir": f"/proc/self/fd/8/{up}",
            "User": "4294967296:4294967296",
            "Entrypoint": [f"{victim}/run"],
            "Env": [f"PATH={victim}", f"LD_PRELOAD={victim}/lib.so", f"HOME={victim}"],
            "Labels": {"io.containerd.image.name": "other:1.0", "org.opencontainers.ref": up},
            "OnBuild": [f"RUN touch {victim}/new"],
        }

    return change


@WAYS
def test_config_names_no_path_of_the_host(
    tmp_path: Path, stacker: Stacker, victim: Path, way: str
) -> None:
    before = snapshot(victim)
    layers = [tar(dir("."), symlink("work", str(victim)), file("a", b"a"))]
    image = layout(tmp_path / "image", layers, config=hostile_config(victim))
    stacker("pull", "--sync", image.source)
    root = expose(stacker, way, tmp_path / "target")
    assert sorted(os.listdir(root)) == ["a", "work"]
    assert snapshot(victim) == before
    assert [item["names"] for item in stacker("images", "--json").items] == [["app:1.0"]]


PROGRAMS = ("gzip", "unpigz", "igzip", "xz", "zstd", "tar", "mount", "fusermount3", "sh", "python3")


@WAYS
def test_program_of_an_image_is_not_run(tmp_path: Path, stacker: Stacker, way: str) -> None:
    marker = tmp_path / "was run"
    script = f"#!/bin/sh\necho run > '{marker}'\n".encode()
    names = [f"{folder}{name}" for folder in ("", "bin/", "usr/bin/") for name in PROGRAMS]
    modules = [
        file(f"{name}.py", f"open({str(marker)!r}, 'w')".encode()) for name in ("xattr", "zlib")
    ]
    layer = tar(*(file(name, script, mode=0o4755) for name in names), *modules)
    stacker("pull", "--sync", layout(tmp_path / "image", [layer], compression="zstd").source)
    root = expose(stacker, way, tmp_path / "target")
    assert (root / "bin" / "unpigz").exists()
    for words in (("verify", "--all"), ("push", "app:1.0", f"oci:{tmp_path}/{way}"), ("images",)):
        stacker(*words, cwd=root / "bin")
    assert not marker.exists()


DIGESTS = (
    "sha256:",
    "sha256:../../../../../../../../tmp/x",
    "sha256:" + "A" * 64,
    "../../x:" + "a" * 64,
    "x" * 100_000,
)


@pytest.mark.parametrize("place", ["manifest", "config", "layer", "diff_id"])
@pytest.mark.parametrize("digest", DIGESTS, ids=range(len(DIGESTS)))
def test_malformed_digest_names_no_file(
    tmp_path: Path, stacker: Stacker, place: str, digest: str
) -> None:
    def change_config(config: dict[str, Any]) -> None:
        if place == "diff_id":
            config["rootfs"]["diff_ids"] = [digest]

    def change_manifest(manifest: dict[str, Any]) -> None:
        if place == "config":
            manifest["config"]["digest"] = digest
        if place == "layer":
            manifest["layers"][0]["digest"] = digest

    image = layout(
        tmp_path / "image", [tar(file("a"))], config=change_config, manifest=change_manifest
    )
    if place == "manifest":
        index = json.loads((image.path / "index.json").read_bytes())
        index["manifests"][0]["digest"] = digest
        (image.path / "index.json").write_text(json.dumps(index))
    before = snapshot(image.path)
    result = stacker.run("pull", image.source)
    assert result.code in {3, 5}, result.err
    assert len(result.err) < 2000
    assert snapshot(image.path) == before
    assert sorted(os.listdir(tmp_path)) == ["home", "image", "store", "target"]
    assert stacker("images", "--json").items == []


@pytest.mark.parametrize("wrong", ["content", "diff_id"])
def test_layer_cannot_take_the_place_of_another(
    tmp_path: Path, stacker: Stacker, wrong: str
) -> None:
    good, evil = tar(file("bin/sh", b"good")), tar(file("bin/sh", b"evil"))
    stacker("pull", "--sync", layout(tmp_path / "good", [good]).source)

    def claim(config: dict[str, Any]) -> None:
        config["rootfs"]["diff_ids"] = [digest_of(good)]

    image = layout(
        tmp_path / "evil", [evil], name="evil", config=claim if wrong == "diff_id" else None
    )
    if wrong == "content":
        manifest = json.loads(image.blob(image.image.manifest).read_bytes())
        image.blob(manifest["layers"][0]["digest"]).write_bytes(b"other bytes")
    with suppress(AssertionError):
        stacker("pull", image.source)
    stacker("unpack", "app:1.0", tmp_path / "tree")
    assert (tmp_path / "tree" / "bin" / "sh").read_bytes() == b"good"


@pytest.fixture
def server() -> Iterator[FakeRegistry]:
    with fake_registry() as server:
        yield server


def test_helper_inherits_no_descriptor(
    tmp_path: Path, stacker: Stacker, server: FakeRegistry
) -> None:
    helper = tmp_path / "bin" / "docker-credential-list"
    helper.parent.mkdir()
    helper.write_text(f"#!/bin/sh\nls /proc/$$/fd > '{tmp_path}/descriptors'\ncat > /dev/null\n")
    helper.chmod(0o755)
    (tmp_path / "auth.json").write_text(json.dumps({"credsStore": "list"}))
    words = ("login", "-u", USER, "--password-stdin", "--authfile", tmp_path / "auth.json")
    environment = {**stacker.environment, "PATH": f"{helper.parent}:{os.environ['PATH']}"}
    with open("/etc/passwd", "rb") as leaked:
        subprocess.run(
            stacker.words(*words, server.host),
            input=PASSWORD,
            text=True,
            check=True,
            env=environment,
            pass_fds=[leaked.fileno()],
        )
    found = {int(name) for name in (tmp_path / "descriptors").read_text().split()}
    assert {number for number in found if number < 10} <= {0, 1, 2}, found
