"""The real command with configuration files."""

from __future__ import annotations

import dataclasses
import os
import subprocess
from pathlib import Path

import pytest

from tests.support import images
from tests.support.command import Stacker
from tests.support.sample import BASE


@pytest.fixture
def stacker(tmp_path: Path) -> Stacker:
    environ = {"XDG_CONFIG_HOME": str(tmp_path / "config")}
    return Stacker(tmp_path / "store", environ=environ)


def configure(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config/stacker/config.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def run(stacker: Stacker, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a command without ``--store``."""
    command = [stacker.python, "-m", "stacker", *words]
    variables = {**stacker.environment, **environ}
    return subprocess.run(command, check=False, capture_output=True, text=True, env=variables)


def test_store_precedence_is_option_environment_config(stacker: Stacker, tmp_path: Path) -> None:
    app = images.layout(tmp_path / "app", [BASE])
    configure(tmp_path, f'store = "{tmp_path / "configured"}"')
    assert run(stacker, "pull", app.source).returncode == 0
    assert (tmp_path / "configured/stacker.json").exists()
    assert run(stacker, "pull", app.source, STACKER_STORE=str(tmp_path / "env")).returncode == 0
    assert (tmp_path / "env/stacker.json").exists()
    stacker("pull", app.source)
    stacker.assert_clean(images=1, layers=1)


def test_form_and_limits_come_from_the_config(stacker: Stacker, tmp_path: Path) -> None:
    app = images.layout(tmp_path / "app", [BASE])
    configure(tmp_path, "[limits]\nmax-entries = 1")
    stacker.refused(6, "pull", app.source)
    stacker("pull", "--max-entries", "1000", app.source)
    stacker("rm", "app:1.0")
    configure(tmp_path, 'form = "erofs"\nsync = true')
    stacker("pull", app.source)
    (layer,) = stacker.layers()
    assert {"layer.tar", "index.erofs"} <= set(os.listdir(layer))


def test_driver_of_the_config_is_used_unless_one_is_named(stacker: Stacker, tmp_path: Path) -> None:
    app = images.layout(tmp_path / "app", [BASE])
    configure(tmp_path, 'driver = "copy"')
    (tmp_path / "target").mkdir()
    stacker("pull", app.source)
    plan = stacker("mount", "app:1.0", tmp_path / "target", "--print-plan").document
    assert plan["item"]["driver"] == "copy"


def test_error_in_the_config_is_one_message_and_help_still_works(
    stacker: Stacker, tmp_path: Path
) -> None:
    path = configure(tmp_path, "jobs = 0")
    text = stacker.refused(2, "images")
    assert f"{path}: jobs: got 0, want a whole number" in text
    assert "Usage: stacker pull" in stacker("pull", "--help").out


def test_unreadable_config_is_an_error(stacker: Stacker, tmp_path: Path) -> None:
    path = configure(tmp_path, "")
    path.unlink()
    path.mkdir()
    assert str(path) in stacker.refused(1, "images")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts over /etc: needs root")
@pytest.mark.usefixtures("alone_among_mounts")
def test_user_config_overrides_the_system_s(stacker: Stacker, tmp_path: Path) -> None:
    etc = tmp_path / "etc"
    (etc / "stacker").mkdir(parents=True)
    (etc / "stacker/config.toml").write_text("jobs = 0")
    script = 'mount --bind "$0" /etc && exec "$@"'
    wrap = ("unshare", "-m", "sh", "-c", script, str(etc))
    inside = dataclasses.replace(stacker, wrap=wrap)
    assert "/etc/stacker/config.toml: jobs: got 0" in inside.refused(2, "images")
    (etc / "stacker/config.toml").write_text(f'store = "{tmp_path / "wrong"}"\ndriver = "copy"')
    configure(tmp_path, 'driver = "fuse"')
    stacker("pull", images.layout(tmp_path / "app", [BASE]).source)
    (tmp_path / "target").mkdir()
    plan = inside("mount", "app:1.0", tmp_path / "target", "--print-plan").document
    assert plan["item"]["driver"] == "fuse"
