"""Bundles whose runtime makes the mount."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from stacker.linux import mountinfo
from tests.support import runtimes
from tests.support.command import Stacker
from tests.support.schemas import RUNTIME_SPEC, validator


@pytest.fixture
def planned(app: Stacker, bundle: Path) -> Path:
    """Return a bundle that sleeps, and whose root filesystem is not mounted."""
    script = "id -u; touch /written; ls -d /proc/self; sleep ${SECONDS_TO_SLEEP:-0}"
    words = ("--no-mount", "-u", "0", "-e", "SECONDS_TO_SLEEP")
    assert app("bundle", *words, "app:1.0", bundle, script).last == "runtime"
    return bundle


def test_the_config_describes_an_overlay_at_the_root_and_nothing_is_mounted(planned: Path) -> None:
    config = json.loads((planned / "config.json").read_bytes())
    assert mountinfo.at(planned / "rootfs") is None
    root = config["mounts"][0]
    assert (root["destination"], root["type"]) == ("/", "overlay")
    assert "nodev" in root["options"]
    assert "volatile" not in root["options"]
    if RUNTIME_SPEC.is_dir():
        validator(RUNTIME_SPEC, "config-schema.json").validate(config)


def test_runc_mounts_the_image_again_at_each_start(planned: Path) -> None:
    for _ in range(2):
        done = runtimes.run("runc", planned)
        assert (done.code, done.out) == (0, "0\n/proc/self\n"), done.err
    assert os.listdir(planned / "rootfs") == []


def test_the_store_keeps_the_layers_until_the_bundle_is_removed(
    app: Stacker, planned: Path
) -> None:
    (mount,) = app("mounts", "--json").items
    assert (mount["target"], mount["driver"]) == (str(planned / "rootfs"), "runtime")
    assert "in use" in app.refused(8, "rm", "app:1.0")
    app("gc")
    assert runtimes.run("runc", planned).code == 0
    app("bundle", "rm", planned)
    assert app("mounts", "--json").items == []
    assert not planned.exists()


def test_a_bundle_that_was_deleted_without_stacker_is_forgotten(
    app: Stacker, planned: Path
) -> None:
    (planned / "config.json").unlink()
    (planned / "rootfs").rmdir()
    assert app("mounts", "--json").items == []


def test_rm_refuses_a_bundle_whose_container_runs(app: Stacker, bundle: Path) -> None:
    app("bundle", "--no-mount", "app:1.0", bundle, "echo started; sleep 60")
    words = runtimes.command("runc", bundle, f"test-{bundle.stat().st_ino}")
    with subprocess.Popen(words, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as container:
        assert container.stdout is not None
        assert container.stdout.readline() == b"started\n"
        assert "runs in it" in app.refused(9, "bundle", "rm", bundle)
        container.terminate()
        subprocess.run(["runc", "kill", words[-1], "KILL"], check=True)
    app("bundle", "rm", bundle)


def test_without_a_capability_the_hint_is_to_mount(app: Stacker, bundle: Path) -> None:
    inside = replace(app, wrap=("setpriv", "--bounding-set=-sys_admin"))
    message = inside.refused(9, "bundle", "--no-mount", "app:1.0", bundle)
    assert "omit --no-mount" in message


@pytest.mark.parametrize("option", [("--driver", "copy"), ("--runtime", "systemd-nspawn")])
def test_options_that_need_a_mount_are_refused(
    app: Stacker, bundle: Path, option: tuple[str, str]
) -> None:
    assert "exclude" in app.refused(2, "bundle", "--no-mount", *option, "app:1.0", bundle)
