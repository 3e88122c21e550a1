"""Credential files are replaced atomically, or stay unchanged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stacker.errors import AuthenticationError, IntegrityError, StackerError, UsageError
from stacker.registry.credentials import find_credentials
from stacker.registry.login import remove_credentials, save_credentials

HOST, SECRET = "registry.example", "open-sesame"


def test_saved_credentials_are_found_first(tmp_path: Path) -> None:
    first, second = tmp_path / "new" / "first.json", tmp_path / "second.json"
    paths = [str(first), str(second)]
    assert save_credentials(paths, HOST, "me", SECRET) == paths[0]
    second.write_text(json.dumps({"auths": {"other.example": {"auth": "YTpi"}}}))
    assert save_credentials(paths, "other.example", "me", SECRET) == paths[1]
    for host in (HOST, "other.example"):
        found = find_credentials(paths, host, "app")
        assert found is not None
        assert (found.user, found.password) == ("me", SECRET)


def test_an_entry_for_one_repository_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    mine = {f"{HOST}/team": {"auth": "YTpi"}, f"https://{HOST}/v1/": {"auth": "YTpi"}}
    path.write_text(json.dumps({"auths": mine}))
    save_credentials([str(path)], HOST, "me", SECRET)
    assert remove_credentials([str(path)], HOST) == [str(path)]
    assert list(json.loads(path.read_bytes())["auths"]) == [f"{HOST}/team"]
    assert remove_credentials([str(path)], HOST) == []


@pytest.mark.parametrize(
    "content", ["[]", "{", '{"auths": 1}', '{"credHelpers": {"registry.example": 1}}']
)
def test_malformed_credential_file_is_not_changed(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(IntegrityError) as caught:
        save_credentials([str(path)], HOST, "me", SECRET)
    assert SECRET not in str(caught.value)
    assert path.read_text() == content


@pytest.mark.parametrize("helper", ["no-such-helper-here", "../evil"])
def test_failing_helper_leaves_the_file_unchanged(tmp_path: Path, helper: str) -> None:
    path = tmp_path / "a.json"
    content = json.dumps({"credsStore": helper, "auths": {HOST: {"auth": "YTpi"}}})
    path.write_text(content)
    with pytest.raises((AuthenticationError, IntegrityError)):
        save_credentials([str(path)], HOST, "me", SECRET)
    assert path.read_text() == content
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


def test_unwritable_credential_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StackerError, match="cannot write credentials"):
        save_credentials([str(tmp_path / "file" / "a.json")], HOST, "me", SECRET)


def test_user_name_with_a_colon_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        save_credentials([str(tmp_path / "a.json")], HOST, "a:b", SECRET)


def test_killed_writer_s_temporary_file_is_removed_by_the_next_login(tmp_path: Path) -> None:
    path, other = tmp_path / "a.json", tmp_path / ".b.json.12.new"
    (tmp_path / ".a.json.12.new").write_bytes(b"half")
    other.write_bytes(b"of another file")
    save_credentials([str(path)], HOST, "me", SECRET)
    assert {entry.name for entry in tmp_path.iterdir()} == {"a.json", other.name}
    assert path.stat().st_mode & 0o777 == 0o600
