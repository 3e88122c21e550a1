"""Where credentials are looked for."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest

from stacker.cli.registry_options import registry_access
from stacker.errors import NotFoundError
from stacker.registry.environment import auth_files


@pytest.mark.parametrize(
    ("named", "environ", "files"),
    [
        ("mine", {"REGISTRY_AUTH_FILE": "/other"}, ["mine"]),
        (None, {"REGISTRY_AUTH_FILE": "/other"}, ["/other"]),
        (
            None,
            {"XDG_RUNTIME_DIR": "/r", "XDG_CONFIG_HOME": "/c", "DOCKER_CONFIG": "/d"},
            ["/r/containers/auth.json", "/c/containers/auth.json", "/d/config.json"],
        ),
        (
            None,
            {},
            [
                "/run/containers/7/auth.json",
                "/home/tests/.config/containers/auth.json",
                "/home/tests/.docker/config.json",
            ],
        ),
    ],
)
def test_files_are_asked_in_this_order(
    monkeypatch: pytest.MonkeyPatch, named: str | None, environ: dict[str, str], files: list[str]
) -> None:
    monkeypatch.setenv("HOME", "/home/tests")
    assert auth_files(named, environ, 7) == files


def named(authfile: Path, *, insecure: bool = False) -> Namespace:
    """Return the options of a command with ``--authfile``."""
    return Namespace(authfile=str(authfile), insecure=insecure, cert_dir=None, registries_conf=None)


def test_missing_authfile_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="--authfile"):
        registry_access(named(tmp_path / "none"), {})


def test_workers_may_have_another_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "auth.json").touch()
    found = registry_access(named(Path("auth.json"), insecure=True), {})
    assert found.auth_files == (str(tmp_path / "auth.json"),)
    assert found.insecure
