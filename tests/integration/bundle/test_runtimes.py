"""Bundles run under the OCI runtimes of Debian."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from stacker import Store, UnsupportedError
from tests.support import runtimes
from tests.support.command import Stacker
from tests.support.runtimes import run

RUNTIMES = ("runc", "crun", "systemd-nspawn")


def kind(runtime: str) -> str:
    return runtime if runtime == "systemd-nspawn" else "oci"


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_runtime_runs_the_process_of_the_image(app: Stacker, bundle: Path, runtime: str) -> None:
    app(
        *("bundle", "--runtime", kind(runtime), "-u", "0"),
        *("app:1.0", bundle, "id -u; pwd; echo $GREETING"),
    )
    done = run(runtime, bundle)
    assert (done.code, done.out) == (0, "0\n/srv\nhello\n"), done.err


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_user_by_name_has_its_groups_and_no_capabilities(
    app: Stacker, bundle: Path, runtime: str
) -> None:
    script = "id -u; id -G; cat /proc/self/status"
    app("bundle", "--runtime", kind(runtime), "app:1.0", bundle, script)
    done = run(runtime, bundle)
    assert done.out.startswith("1000\n1001 10\n"), done.err
    assert "CapEff:\t0000000000000000\n" in done.out
    if runtime != "systemd-nspawn":  # version 252 ignores noNewPrivileges
        assert "NoNewPrivs:\t1\n" in done.out
    assert "Seccomp:\t2\n" in done.out


@pytest.mark.parametrize("runtime", ["runc", "crun"])
def test_a_read_only_root_has_the_mount_points_that_the_image_lacks(
    app: Stacker, bundle: Path, runtime: str
) -> None:
    script = "ls -d /proc/self /dev/null /sys/kernel; touch /x"
    app("bundle", "--read-only", "-u", "0", "app:1.0", bundle, script)
    done = run(runtime, bundle)
    assert done.out == "/dev/null\n/proc/self\n/sys/kernel\n"
    assert "Read-only file system" in done.err


@pytest.mark.parametrize("runtime", ["runc", "crun"])
def test_options_reach_the_process(
    app: Stacker, bundle: Path, tmp_path: Path, runtime: str
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/file").write_text("shared")
    options = ("-v", f"{tmp_path}/data:/data:ro", "--tmpfs", "/t", "--ulimit", "nofile=64:64")
    script = "cat /data/file; touch /data/x /t/x; ls /t; ulimit -n; hostname"
    app("bundle", *options, "--hostname", "web", "-u", "0", "app:1.0", bundle, script)
    done = run(runtime, bundle)
    assert done.out == "sharedx\n64\nweb\n"
    assert "/data/x: Read-only file system" in done.err


def test_a_runtime_with_fewer_capabilities_can_run_a_bundle(app: Stacker, bundle: Path) -> None:
    drop = ("setpriv", "--bounding-set=-setfcap,-sys_chroot")
    replace(app, wrap=drop)("bundle", "app:1.0", bundle)
    done = subprocess.run(
        [*drop, *runtimes.command("runc", bundle, f"test-{bundle.stat().st_ino}")],
        check=True,
        capture_output=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.stdout == b"1000\n/srv\n"


@pytest.mark.parametrize("form", ["tree", "erofs"])
def test_every_driver_makes_a_root_filesystem_of_every_form(
    tmp_path: Path, bundle: Path, form: Literal["tree", "erofs"]
) -> None:
    script = "ls -d /proc/self; echo written > /file; cat /file"
    source = runtimes.layout(tmp_path / "layout", Cmd=["/bin/sh", "-c", script]).source
    store = Store.open(tmp_path / "store")
    store.pull(source, form=form, sync=False)
    drivers = ("overlay", "fuse", "copy")
    for driver in drivers if form == "erofs" else (*drivers, "runtime"):
        with store.bundle("app:1.0", bundle, driver=driver):
            done = run("runc", bundle)
        assert done.out == "/proc/self\nwritten\n", (driver, done.err)
    if form == "erofs":
        with pytest.raises(UnsupportedError, match="a runtime cannot mount an index"):
            store.bundle("app:1.0", bundle, driver="runtime")


def test_a_terminal_is_one(app: Stacker, bundle: Path) -> None:
    app("bundle", "-t", "app:1.0", bundle, "test -t 0 && echo $TERM")
    words = runtimes.command("runc", bundle, "test-terminal")
    script = ["script", "--quiet", "--return", "--command", " ".join(words), "/dev/null"]
    done = subprocess.run(script, check=True, capture_output=True, stdin=subprocess.DEVNULL)
    assert done.stdout.endswith(b"xterm\r\n")
