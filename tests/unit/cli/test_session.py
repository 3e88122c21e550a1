"""Where the store is, and who hears what."""

from __future__ import annotations

import os
from argparse import Namespace
from pathlib import Path

import pytest

from stacker.cli.session import Session
from stacker.errors import UsageError


@pytest.mark.parametrize(
    ("named", "environ", "root"),
    [
        ("/a", {"STACKER_STORE": "/b"}, "/a"),
        ("a", {}, "a"),
        (None, {"STACKER_STORE": "/b", "XDG_DATA_HOME": "/c"}, "/b"),
    ],
)
def test_the_store_is_the_one_named_first(
    named: str | None, environ: dict[str, str], root: str
) -> None:
    assert Session.of(Namespace(**({"store": named} if named else {})), environ).root == Path(root)


def test_no_store_by_an_empty_name() -> None:
    with pytest.raises(UsageError):
        Session.of(Namespace(store=""), {})


def test_root_keeps_a_store_for_the_machine() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root")
    environ = {"STACKER_STORE": "", "XDG_DATA_HOME": "/c"}
    assert Session.of(Namespace(), environ).root == Path("/var/lib/stacker")


@pytest.mark.parametrize(
    ("environ", "root"),
    [
        ({"XDG_DATA_HOME": "/c"}, "/c/stacker"),
        ({"XDG_DATA_HOME": "relative"}, "/home/me/.local/share/stacker"),
        ({}, "/home/me/.local/share/stacker"),
    ],
)
def test_a_user_has_a_store_of_their_own(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], root: str
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert Session.of(Namespace(), environ).root == Path(root)


def test_who_has_no_home_is_told_to_name_a_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 54321)  # in no list of users
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    with pytest.raises(UsageError, match="no home directory"):
        Session.of(Namespace(), {})


@pytest.mark.parametrize(("verbosity", "heard"), [(-1, 0), (0, 1), (1, 2)])
def test_the_more_is_asked_for_the_more_is_said(
    verbosity: int, heard: int, capsys: pytest.CaptureFixture[str]
) -> None:
    session = Session(Path("/a"), verbosity)
    session.say("one")
    session.detail("two\x1b")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == ["stacker: one", "two\\x1b"][:heard]


def test_bars_are_for_terminals() -> None:
    assert not Session(Path("/a")).draws  # pytest's stderr is none
