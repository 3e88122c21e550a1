"""Images that attack an OCI runtime: stacker refuses them before a runtime sees them.

docs/explanation/security.md names these tests.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stacker import IntegrityError, NotFoundError, StackerError, Store, UsageError
from stacker.linux import mountinfo
from tests.support import runtimes
from tests.support.mounts import unmount_below
from tests.support.tars import char, fifo, symlink, tar, whiteout
from tests.support.tars import dir as directory

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts: needs root"),
    pytest.mark.skipif(not runtimes.BUSYBOX.exists(), reason="busybox is not installed"),
    pytest.mark.usefixtures("alone_among_mounts"),
]
Pull = Callable[..., Store]


@pytest.fixture
def pull(tmp_path: Path) -> Iterator[Pull]:
    """Return a function that pulls an image with more layers and fields of the config."""

    def pulled(*layers: bytes, **execution: object) -> Store:
        store = Store.open(tmp_path / "store")
        members = {"Cmd": ["/bin/sh"], **execution}
        store.pull(runtimes.layout(tmp_path / "layout", *layers, **members).source, sync=False)
        return store

    yield pulled
    unmount_below(tmp_path)


def refused(store: Store, bundle: Path, kind: type[StackerError], text: str) -> None:
    with pytest.raises(kind, match=text):
        store.bundle("app:1.0", bundle)
    assert not bundle.exists()
    assert store.mounts() == []


@pytest.mark.parametrize("name", ["proc", "dev", "sys"])
def test_a_link_at_a_mount_point_is_refused_before_a_runtime_sees_it(
    pull: Pull, tmp_path: Path, name: str
) -> None:
    layer = tar(directory("tmp/"), symlink(name, "tmp"))
    refused(pull(layer), tmp_path / "bundle", IntegrityError, f"'/{name}' in the image")


@pytest.mark.parametrize("target", ["/proc/self/fd/7", "../../proc/self/cwd"])
def test_a_working_directory_at_a_descriptor_of_the_host_is_refused(
    pull: Pull, tmp_path: Path, target: str
) -> None:
    store = pull(tar(symlink("work", target)), WorkingDir="/work/../work")
    refused(store, tmp_path / "bundle", IntegrityError, "unsafe working directory")


def test_a_user_database_outside_of_the_image_is_not_read(pull: Pull, tmp_path: Path) -> None:
    outside = tmp_path / "passwd"
    outside.write_text("evil:x:666:666::/:/bin/sh\n")
    layer = tar(whiteout("etc/passwd"), symlink("passwd", str(outside)))
    links = tar(symlink("etc/passwd", "../passwd"))
    refused(pull(layer, links, User="evil"), tmp_path / "bundle", NotFoundError, "no such user")


@pytest.mark.parametrize("entry", [fifo("etc/passwd"), char("etc/passwd", 1, 5)])
def test_a_user_database_that_never_ends_is_refused(
    pull: Pull, tmp_path: Path, entry: bytes
) -> None:
    store = pull(tar(entry), User="app")
    refused(store, tmp_path / "bundle", IntegrityError, "want a regular file")


@pytest.mark.parametrize("user", ["4294967295", "-1", "0:99999999999", "app:", "a:b:c"])
def test_a_user_out_of_range_is_refused(pull: Pull, tmp_path: Path, user: str) -> None:
    with pytest.raises((UsageError, NotFoundError)):
        pull(User=user).bundle("app:1.0", tmp_path / "bundle")
    assert mountinfo.at(tmp_path / "bundle/rootfs") is None


def test_variables_and_labels_of_an_image_add_no_variable_and_no_setting(
    pull: Pull, tmp_path: Path
) -> None:
    store = pull(
        Env=["A=1\nLD_PRELOAD=/evil.so", "LD_PRELOAD", "=x"],
        Labels={"run.oci.handler": "krun", "stacker.image": "other", "kept": "yes"},
        Cmd=["/bin/sh", "-c", 'echo "${LD_PRELOAD-unset}"; echo "$A"'],
    )
    bundle = tmp_path / "bundle"
    with store.bundle("app:1.0", bundle):
        annotations = json.loads((bundle / "config.json").read_bytes())["annotations"]
        assert annotations["kept"] == "yes"
        assert "run.oci.handler" not in annotations
        assert annotations["stacker.image"].startswith("sha256:")
        done = runtimes.run("runc", bundle)
    assert done.out == "unset\n1\nLD_PRELOAD=/evil.so\n", done.err


@pytest.mark.parametrize("outside", [False, True])
def test_a_working_directory_behind_a_link_is_entered_inside_the_container(
    pull: Pull, tmp_path: Path, *, outside: bool
) -> None:
    target = tmp_path / "outside"
    links = tar(symlink("link", str(target) if outside else "/srv"))
    store = pull(links, WorkingDir="/link", Cmd=["/bin/pwd"])
    with store.bundle("app:1.0", tmp_path / "bundle") as bundle:
        done = runtimes.run("runc", bundle.path)
    assert done.out in ("", f"{target}\n") if outside else done.out == "/srv\n"
    assert not target.exists()


def test_a_process_has_no_inheritable_capability(pull: Pull, tmp_path: Path) -> None:
    store = pull(Cmd=["/bin/cat", "/proc/self/status"])
    with store.bundle("app:1.0", tmp_path / "bundle") as bundle:
        status = runtimes.run("runc", bundle.path).out
    for name in ("CapInh", "CapAmb"):
        assert f"{name}:\t0000000000000000\n" in status


def test_two_bundles_of_an_image_share_no_writable_file(pull: Pull, tmp_path: Path) -> None:
    store = pull()
    first = store.bundle("app:1.0", tmp_path / "first")
    second = store.bundle("app:1.0", tmp_path / "second")
    (first.path / "rootfs/etc/passwd").write_text("changed")
    assert (second.path / "rootfs/etc/passwd").read_bytes() == runtimes.PASSWD
    config = json.loads((second.path / "config.json").read_bytes())
    assert [mount for mount in config["mounts"] if mount["type"] == "bind"] == []


def test_a_device_node_of_an_image_gives_no_access(pull: Pull, tmp_path: Path) -> None:
    store = pull(
        tar(char("null", 1, 3, mode=0o666)), Cmd=["/bin/sh", "-c", "echo x > /null || echo denied"]
    )
    with store.bundle("app:1.0", tmp_path / "bundle") as bundle:
        with pytest.raises(PermissionError):
            (bundle.path / "rootfs/null").write_bytes(b"x")
        assert runtimes.run("runc", bundle.path).out == "denied\n"
