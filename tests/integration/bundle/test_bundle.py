"""`stacker bundle` and `stacker bundle rm`: what they write, refuse and leave."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from stacker import Store
from stacker.linux import mountinfo
from tests.support.command import Stacker, conforming
from tests.support.schemas import RUNTIME_SPEC, validator


def config(bundle: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((bundle / "config.json").read_bytes())
    return document


def test_config_has_the_images_process_and_the_changes_of_options(
    app: Stacker, bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "env").write_text("# comment\n\nA=file\nB=b=c \nSHELL_COPY\n")
    (tmp_path / "data").mkdir()
    options = (
        *("-e", "A=1", "--env-file", tmp_path / "env", "-w", "/tmp", "-u", "app:wheel", "-t"),
        *("-v", f"{tmp_path}/data:/data:ro", "--tmpfs", "/run:size=1m", "--hostname", "web"),
        *("--ulimit", "nofile=10:20", "--read-only", "--network", "host"),
    )
    Stacker(app.store, environ={**app.environ, "SHELL_COPY": "copied"})(
        "bundle", *options, "app:1.0", bundle, "exec", "--env", "x"
    )
    found = config(bundle)
    process = found["process"]
    assert process["args"] == ["/bin/sh", "-c", "exec", "--env", "x"]
    assert {"GREETING=hello", "A=1", "B=b=c ", "SHELL_COPY=copied", "HOME=/home/app"} <= set(
        process["env"]
    )
    assert process["user"] == {"uid": 1000, "gid": 10}
    assert (process["cwd"], process["terminal"], found["hostname"]) == ("/tmp", True, "web")
    assert process["rlimits"] == [{"type": "RLIMIT_NOFILE", "soft": 10, "hard": 20}]
    assert found["root"] == {"path": "rootfs", "readonly": True}
    mounts = {mount["destination"]: mount for mount in found["mounts"]}
    assert mounts["/data"]["options"] == ["rbind", "rprivate", "ro"]
    assert {"/run", "/etc/hosts"} <= set(mounts)


def test_written_config_is_valid_by_the_schema_of_runtime_spec(app: Stacker, bundle: Path) -> None:
    if not RUNTIME_SPEC.is_dir():
        pytest.skip(f"no runtime-spec schemas in {RUNTIME_SPEC}")
    item = conforming(app("bundle", "--json", "app:1.0", bundle).document)["item"]
    validator(RUNTIME_SPEC, "config-schema.json").validate(config(bundle))
    assert config(bundle)["annotations"]["stacker.image"] == item["image_id"]
    assert config(bundle)["hostname"] == item["image_id"].removeprefix("sha256:")[:12]


def test_bundle_is_private_and_its_mount_is_listed_and_interprets_no_device(
    app: Stacker, bundle: Path
) -> None:
    assert app("bundle", "app:1.0", bundle).last == "overlay"
    assert bundle.stat().st_mode & 0o777 == 0o700
    (mount,) = app("mounts", "--json").items
    assert (mount["target"], mount["read_only"]) == (str(bundle / "rootfs"), False)
    assert os.statvfs(bundle / "rootfs").f_flag & os.ST_NODEV
    assert "in use" in app.refused(8, "rm", "app:1.0")


def test_rm_unmounts_and_removes_the_bundle(app: Stacker, bundle: Path) -> None:
    app("bundle", "app:1.0", bundle)
    removed = app("bundle", "--json", "rm", bundle).document
    assert conforming(removed)["item"] == {"path": str(bundle)}
    assert not bundle.exists()
    assert app("mounts", "--json").items == []


def test_rm_keeps_files_of_the_caller_and_the_upper_directory(
    app: Stacker, bundle: Path, tmp_path: Path
) -> None:
    upper = tmp_path / "upper"
    app("bundle", "--upper", upper, "app:1.0", bundle)
    (bundle / "rootfs/written").touch()
    (bundle / "log").touch()
    done = app.run("bundle", "rm", bundle)
    assert os.listdir(bundle) == ["log"], done.err
    assert (upper / "written").exists()


def test_rm_works_after_umount(app: Stacker, bundle: Path) -> None:
    app("bundle", "app:1.0", bundle)
    app("umount", bundle / "rootfs")
    app("bundle", "rm", bundle)
    assert not bundle.exists()


def test_rm_refuses_a_directory_that_is_no_bundle_of_stacker(app: Stacker, bundle: Path) -> None:
    bundle.mkdir()
    for text in ("{}", "[]", "no JSON", '{"annotations": []}'):
        (bundle / "config.json").write_text(text)
        assert "no such bundle" in app.refused(3, "bundle", "rm", bundle)
    assert (bundle / "config.json").exists()


def test_rm_refuses_a_bundle_in_use_and_keeps_it_complete(app: Stacker, bundle: Path) -> None:
    app("bundle", "app:1.0", bundle)
    with (bundle / "rootfs/etc/passwd").open():
        assert "it is in use" in app.refused(9, "bundle", "rm", bundle)
    assert (bundle / "config.json").exists()


def test_rm_refuses_the_mount_of_another_store(app: Stacker, bundle: Path, tmp_path: Path) -> None:
    app("bundle", "app:1.0", bundle)
    other = Stacker(tmp_path / "other", environ=app.environ)
    assert "this store does not list" in other.refused(9, "bundle", "rm", bundle)


@pytest.mark.parametrize("name", ["config.json", "other"])
def test_a_directory_with_files_is_refused_and_unchanged(
    app: Stacker, bundle: Path, name: str
) -> None:
    bundle.mkdir()
    (bundle / name).touch()
    app.refused(2, "bundle", "app:1.0", bundle)
    assert os.listdir(bundle) == [name]


def test_a_directory_that_others_can_write_to_is_refused(app: Stacker, bundle: Path) -> None:
    bundle.mkdir()
    bundle.chmod(0o777)
    assert "another user" in app.refused(9, "bundle", "app:1.0", bundle)


def test_a_directory_in_the_store_is_refused(app: Stacker) -> None:
    assert "inside the store" in app.refused(9, "bundle", "app:1.0", app.store / "bundle")


def test_the_leftover_of_a_killed_process_is_replaced(app: Stacker, bundle: Path) -> None:
    app("bundle", "app:1.0", bundle)
    (bundle / "config.json").rename(bundle / ".config.json.123456")
    app("bundle", "app:1.0", bundle)
    assert len(app("mounts", "--json").items) == 1
    assert sorted(os.listdir(bundle)) == ["config.json", "rootfs"]


def test_rm_accepts_the_leftover_of_a_killed_process(app: Stacker, bundle: Path) -> None:
    app("bundle", "app:1.0", bundle)
    (bundle / "config.json").unlink()
    app("bundle", "rm", bundle)
    assert not bundle.exists()


def test_a_failure_after_the_mount_leaves_nothing(app: Stacker, bundle: Path) -> None:
    assert "no such user" in app.refused(3, "bundle", "-u", "nobody", "app:1.0", bundle)
    assert not bundle.exists()
    assert mountinfo.at(bundle / "rootfs") is None
    assert app("mounts", "--json").items == []


def test_the_library_writes_and_removes_a_bundle(app: Stacker, bundle: Path) -> None:
    store = Store.open(app.store)
    with store.bundle("app:1.0", bundle, command=["id -u"], env={"A": "1"}) as written:
        assert (written.path, written.mount.driver) == (bundle, "overlay")
        assert config(bundle)["process"]["args"] == ["/bin/sh", "-c", "id -u"]
    assert not bundle.exists()
