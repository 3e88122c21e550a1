"""The configuration files: their keys, their precedence, and their errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from stacker.api.config import KEYS, Config, read_config
from stacker.cli.options import parse, verb_parser
from stacker.cli.session import Session
from stacker.cli.verbs import SUMMARIES, load
from stacker.errors import UsageError
from stacker.store.location import config_files

WHOLE = """
store = "/srv/store"
additional-stores = ["/srv/shared"]
jobs = 3
driver = "copy"
form = "erofs"
sync = true
[limits]
max-bytes = "10G"
max-pax-bytes = 4096
max-names = "1M"
max-window = "64K"
max-entries = 7
max-depth = 8
max-ratio = 9
max-archive-ratio = 10
"""


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.fixture
def whole(tmp_path: Path) -> Config:
    return read_config([written(tmp_path / "config.toml", WHOLE)])


def test_every_key_is_read(whole: Config) -> None:
    assert len(whole.sources) == len(KEYS)
    assert (whole.store, whole.jobs, whole.sync) == (Path("/srv/store"), 3, True)
    assert whole.additional_stores == (Path("/srv/shared"),)
    assert (whole.max_bytes, whole.max_pax_bytes) == (10 << 30, 4096)


def test_every_key_changes_the_default_of_an_option(whole: Config) -> None:
    changed = {
        name
        for verb in SUMMARIES
        for name in whole.defaults(verb)
        if name in {action.dest for action in verb_parser(verb, load(verb))._actions}
    }
    assert changed == set(whole.sources) - {"store", "additional_stores"}


def test_config_replaces_defaults_and_options_override_it(whole: Config) -> None:
    _, args = parse(["pull", "oci:a"], whole)
    assert (args.jobs, args.form, args.sync, args.max_bytes) == (3, "erofs", True, 10 << 30)
    _, args = parse(["pull", "oci:a", "--jobs=1", "--form=tree", "--no-sync"], whole)
    assert (args.jobs, args.form, args.sync) == (1, "tree", False)
    _, args = parse(["index", "push", "a", "oci:b"], whole)
    assert args.jobs == 3


def test_sync_and_form_of_the_config_are_those_of_pull_only(whole: Config) -> None:
    _, args = parse(["bench", "oci:a"], whole)
    assert (args.sync, args.jobs) == (False, 3)
    with pytest.raises(UsageError, match="--form"):
        parse(["convert", "app"], whole)


def test_later_file_overrides_single_keys(tmp_path: Path) -> None:
    system = written(tmp_path / "system", 'jobs = 1\ndriver = "copy"\n[limits]\nmax-depth = 5')
    user = written(tmp_path / "user", "jobs = 2\n[limits]\nmax-ratio = 6")
    found = read_config([system, user])
    assert (found.jobs, found.driver, found.max_depth, found.max_ratio) == (2, "copy", 5, 6)
    assert (found.sources["jobs"], found.sources["driver"]) == (user, system)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("job = 1", "job: got an unknown key, want one of additional-stores, driver, form, jobs"),
        ("[limits]\nmax-size = 1", "limits.max-size: got an unknown key, want one of"),
        ("[more]\na = 1", "more: got an unknown key"),
        ("limits = 3", "limits: got 3, want a table"),
        ('jobs = "2"', "jobs: got '2', want a whole number, one or more"),
        ("jobs = 0", "jobs: got 0, want a whole number, one or more"),
        ("jobs = true", "jobs: got True, want a whole number"),
        ('sync = "yes"', "sync: got 'yes', want true or false"),
        ('driver = "aufs"', "driver: got 'aufs', want one of auto, overlay"),
        ("form = 1", "form: got 1, want one of auto, tree, erofs"),
        ('store = "store"', "store: got 'store', want an absolute path"),
        ("[limits]\nmax-bytes = 1.5", "limits.max-bytes: got 1.5, want a number of bytes"),
        ('[limits]\nmax-bytes = "1X"', "limits.max-bytes: got '1X', want a number of bytes"),
        ("jobs =", "malformed TOML"),
    ],
)
def test_error_names_file_key_and_values(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path / "config.toml", text)
    with pytest.raises(UsageError) as caught:
        read_config([path])
    assert message in caught.value.message
    assert str(path) in caught.value.message


def test_store_of_the_config_yields_to_option_and_environment(whole: Config) -> None:
    _, args = parse(["images"], whole)
    assert Session.of(args, {}, config=whole).root == Path("/srv/store")
    assert Session.of(args, {"STACKER_STORE": "/e"}, config=whole).root == Path("/e")
    _, args = parse(["images", "--store", "/o"], whole)
    assert Session.of(args, {"STACKER_STORE": "/e"}, config=whole).root == Path("/o")


def test_tilde_in_the_store_is_the_home_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/user")
    assert read_config([written(tmp_path / "a", 'store = "~/layers"')]).store == Path(
        "/home/user/layers"
    )


def test_only_existing_files_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system, base = tmp_path / "etc.toml", tmp_path / "user"
    monkeypatch.setattr("stacker.store.location._SYSTEM_CONFIG", system)
    environ = {"XDG_CONFIG_HOME": str(base)}
    assert config_files(environ) == []
    (base / "stacker").mkdir(parents=True)
    user = written(base / "stacker/config.toml", "")
    assert config_files(environ) == [user]
    system.touch()
    assert config_files(environ) == [system, user]
