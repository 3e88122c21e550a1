"""The default store, and the messages of a session."""

from __future__ import annotations

import inspect
import os
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from stacker.cli.session import Session
from stacker.cli.verbs import SUMMARIES, WITHOUT_STORE, load
from stacker.errors import UsageError
from stacker.store.location import config_files


@pytest.mark.parametrize(
    ("named", "environ", "root"),
    [
        ("/a", {"STACKER_STORE": "/b"}, "/a"),
        ("a", {}, "a"),
        (None, {"STACKER_STORE": "/b", "XDG_DATA_HOME": "/c"}, "/b"),
    ],
)
def test_store_option_precedes_the_environment(
    named: str | None, environ: dict[str, str], root: str
) -> None:
    assert Session.of(Namespace(**({"store": named} if named else {})), environ).root == Path(root)


def test_empty_store_option_is_rejected() -> None:
    with pytest.raises(UsageError):
        Session.of(Namespace(store=""), {})


def test_store_of_root_is_in_var_lib() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root")
    environ = {"STACKER_STORE": "", "XDG_DATA_HOME": "/c"}
    assert Session.of(Namespace(), environ).root == Path("/var/lib/stacker")


@pytest.mark.parametrize(
    ("environ", "root"),
    [
        ({"XDG_DATA_HOME": "/c"}, "/c/stacker"),
        ({"XDG_DATA_HOME": "relative", "HOME": "/home/me"}, "/home/me/.local/share/stacker"),
        ({"HOME": "/home/me"}, "/home/me/.local/share/stacker"),
    ],
)
def test_store_of_a_user_follows_xdg(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], root: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert Session.of(Namespace(), environ).root == Path(root)


def test_user_without_a_home_needs_the_store_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 54321)  # not in /etc/passwd
    with pytest.raises(UsageError, match="no home directory"):
        Session.of(Namespace(), {})


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("stacker umount /mnt", "stacker --store '/my store' umount /mnt"),
        ("umount /a && stacker umount /a", "umount /a && stacker --store '/my store' umount /a"),
        (
            "`stacker pull x`, then `stacker rm`",
            "`stacker --store '/my store' pull x`, then `stacker --store '/my store' rm`",
        ),
        ("log in with `stacker login`", "log in with `stacker login`"),
        ("`stacker --help` lists the verbs", "`stacker --help` lists the verbs"),
        ("update stacker: a newer version wrote it", "update stacker: a newer version wrote it"),
        (
            "stacker umount '/mnt/stacker rm'",
            "stacker --store '/my store' umount '/mnt/stacker rm'",
        ),
    ],
)
def test_commands_in_a_hint_repeat_the_store_option(text: str, want: str) -> None:
    assert Session.of(Namespace(store="/my store"), {}).with_store(text) == want
    assert Session.of(Namespace(), {"STACKER_STORE": "/my store"}).with_store(text) == text


@pytest.mark.parametrize("verb", SUMMARIES)
def test_verbs_without_a_store_are_those_that_do_not_use_its_path(verb: str) -> None:
    load(verb)
    source = inspect.getsource(sys.modules[f"stacker.cli.verbs.{verb}"])
    uses_it = any(word in source for word in ("session.open(", "session.store(", "session.root"))
    assert uses_it == (verb not in WITHOUT_STORE)


@pytest.mark.parametrize(("verbosity", "heard"), [(-1, 0), (0, 1), (1, 2)])
def test_verbosity_selects_messages(
    verbosity: int, heard: int, capsys: pytest.CaptureFixture[str]
) -> None:
    session = Session(Path("/a"), verbosity)
    session.say("one")
    session.detail("two\x1b")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == ["stacker: one", "two\\x1b"][:heard]


def test_bars_need_a_terminal() -> None:
    assert not Session(Path("/a")).draws  # pytest's stderr is not a terminal


@pytest.mark.parametrize(
    ("environ", "temporary"),
    [({}, "/var/tmp"), ({"TMPDIR": ""}, "/var/tmp"), ({"TMPDIR": "/scratch"}, "/scratch")],
)
def test_temporary_directory_follows_tmpdir(environ: dict[str, str], temporary: str) -> None:
    session = Session.of(Namespace(store="/a"), environ)
    assert session.temporary == Path(temporary)


def test_configuration_file_that_the_kernel_cannot_reach_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "stacker").symlink_to("stacker")
    with pytest.raises(OSError, match="symbolic links"):
        config_files({"XDG_CONFIG_HOME": str(tmp_path)})


def test_missing_configuration_files_are_not_read(tmp_path: Path) -> None:
    assert tmp_path / "stacker/config.toml" not in config_files({"XDG_CONFIG_HOME": str(tmp_path)})
