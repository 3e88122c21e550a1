"""Options of the process and of the container become overrides and settings."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest

from stacker.cli.container_options import overrides_of, settings_of
from stacker.cli.options import parse
from stacker.errors import NotFoundError, UsageError
from stacker.runtime.process import Overrides, Rlimit
from stacker.runtime.spec import Settings


def parsed(*words: str) -> Namespace:
    return parse(["bundle", *words, "app", "dir"])[1]


def overrides(*words: str, **environ: str) -> Overrides:
    return overrides_of(parsed(*words), environ)


def test_without_options_nothing_changes() -> None:
    assert overrides() == Overrides(env={})
    assert settings_of(parsed()) == Settings()


def test_words_after_the_directory_are_the_command() -> None:
    args = parse(["bundle", "-t", "app", "dir", "sh", "-e", "--", "x"])[1]
    assert (args.command, args.env, args.tty) == (["sh", "-e", "--", "x"], [], True)


def test_env_overrides_env_files_and_a_bare_name_is_copied(tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_bytes(b"# no\n\n  A=file\r\nB=b = c \nCOPIED\nMISSING\n")
    found = overrides("-e", "A=1\n2", "--env-file", str(file), COPIED="x", OTHER="y")
    assert found.env == {"A": "1\n2", "B": "b = c ", "COPIED": "x"}


def test_only_the_command_may_be_missing() -> None:
    assert parse(["bundle", "app", "dir"])[1].command == []
    with pytest.raises(UsageError, match=r"missing argument: DIR$"):
        parse(["bundle", "app"])


@pytest.mark.parametrize(
    ("text", "words"), [("sh", ("sh",)), ("", ()), ('["a", "b c"]', ("a", "b c")), ("[]", ())]
)
def test_entrypoint_is_a_word_or_a_list(text: str, words: tuple[str, ...]) -> None:
    assert overrides("--entrypoint", text).entrypoint == words


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("nofile=1:2", Rlimit("NOFILE", 1, 2)),
        ("RLIMIT_CORE=0", Rlimit("CORE", 0, 0)),
        ("core=-1:unlimited", Rlimit("CORE", (1 << 64) - 1, (1 << 64) - 1)),
    ],
)
def test_ulimit_has_a_soft_and_a_hard_limit(text: str, limit: Rlimit) -> None:
    assert overrides("--ulimit", text).rlimits == (limit,)


@pytest.mark.parametrize("text", ["nofile", "nofile=a", "=1", "nofile=1:", "nofile=" + "9" * 20])
def test_a_malformed_ulimit_is_an_error(text: str) -> None:
    with pytest.raises(UsageError, match="--ulimit"):
        parsed("--ulimit", text)


@pytest.mark.parametrize(
    ("option", "text"),
    [("-e", "=x"), ("-e", ""), ("--entrypoint", "[1]"), ("--entrypoint", "[x")],
)
def test_a_malformed_process_is_an_error(option: str, text: str) -> None:
    with pytest.raises(UsageError, match="malformed"):
        overrides(option, text)


def test_env_file_must_exist_and_be_utf_8(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such file: --env-file"):
        overrides("--env-file", str(tmp_path / "missing"))
    (tmp_path / "bytes").write_bytes(b"A=\xff\n")
    with pytest.raises(UsageError, match="malformed --env-file"):
        overrides("--env-file", str(tmp_path / "bytes"))


def test_volumes_are_relative_to_the_working_directory_and_must_exist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (volume,) = settings_of(parsed("-v", ".:/data:ro")).mounts
    assert (volume.source, volume.destination) == (str(tmp_path), "/data")
    with pytest.raises(NotFoundError, match="--volume"):
        settings_of(parsed("-v", "./missing:/data"))
    with pytest.raises(UsageError, match="malformed volume"):
        settings_of(parsed("-v", "name:/data"))


def test_network_of_the_host_has_its_resolver_unless_a_volume_replaces_it(tmp_path: Path) -> None:
    own = f"{tmp_path}:/etc/hosts"
    found = settings_of(parsed("--network", "host", "-v", own)).mounts
    assert [mount.source for mount in found if mount.destination == "/etc/hosts"] == [str(tmp_path)]
    assert settings_of(parsed("--network", "host")).mounts[-1].destination == "/etc/hosts"
