"""Credentials from the files and helpers of podman and docker; never printed."""

from __future__ import annotations

import json
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest

from stacker.errors import AuthenticationError, IntegrityError, StackerError
from stacker.registry.credentials import Credentials, find_credentials

HOST = "registry.example:5000"
SECRET = "open-sesame"


def auth(user: str, password: str = SECRET) -> dict[str, str]:
    return {"auth": b64encode(f"{user}:{password}".encode()).decode()}


def find(tmp_path: Path, document: Any, repository: str = "team/app") -> Credentials | None:
    path = tmp_path / "auth.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return find_credentials([str(path)], HOST, repository)


@pytest.mark.parametrize(
    ("entries", "user"),
    [
        ({HOST: auth("host")}, "host"),
        ({HOST: auth("host"), f"{HOST}/team": auth("team")}, "team"),
        ({f"{HOST}/team/app": auth("app"), f"{HOST}/team": auth("team")}, "app"),
        ({f"{HOST}/team/ap": auth("other"), HOST: auth("host")}, "host"),
        ({f"{HOST}/other": auth("other")}, None),
        ({"registry.example": auth("other")}, None),
        ({f"https://{HOST}/v1/": auth("url")}, "url"),
        ({f"https://{HOST}": auth("url"), HOST: auth("host")}, "host"),
        ({HOST: {}}, None),
        ({HOST: {"username": "plain", "password": SECRET}}, "plain"),
        ({}, None),
    ],
)
def test_longest_matching_key_counts(
    tmp_path: Path, entries: dict[str, Any], user: str | None
) -> None:
    found = find(tmp_path, {"auths": entries})
    assert found == (None if user is None else Credentials(user, SECRET))


def test_a_password_may_have_colons(tmp_path: Path) -> None:
    assert find(tmp_path, {"auths": {HOST: auth("u", "a:b")}}) == Credentials("u", "a:b")


def test_token_parameters_are_parsed(tmp_path: Path) -> None:
    entry = {**auth("u", ""), "identitytoken": "i", "registrytoken": "r"}
    assert find(tmp_path, {"auths": {HOST: entry}}) == Credentials("u", "", "i", "r")


@pytest.mark.parametrize("text", ["", "{}", '{"auths": null}', '{"auths": {}, "other": 1}'])
def test_file_without_an_entry_is_skipped(tmp_path: Path, text: str) -> None:
    assert find(tmp_path, text) is None


def test_first_file_with_an_entry_counts(tmp_path: Path) -> None:
    for name, entries in (("1", {}), ("2", {HOST: auth("two")}), ("3", {HOST: auth("three")})):
        (tmp_path / name).write_text(json.dumps({"auths": entries}))
    paths = [str(tmp_path / name) for name in ("none", "1", "2", "3")]
    assert find_credentials(paths, HOST, "app") == Credentials("two", SECRET)


@pytest.mark.parametrize(
    "document",
    [
        f'{{"auths": "{SECRET}"',
        "[]",
        {"auths": SECRET},
        {"auths": {HOST: SECRET}},
        {"auths": {HOST: {"auth": [SECRET]}}},
        {"auths": {HOST: {"auth": SECRET}}},
        {"auths": {HOST: {"auth": b64encode(SECRET.encode()).decode()}}},
        {"credHelpers": {HOST: {"secret": SECRET}}},
        {"credHelpers": {HOST: f"../{SECRET}"}},
        {"credsStore": f"a/{SECRET}"},
    ],
    ids=str,
)
def test_a_malformed_file_is_an_error_without_its_contents(tmp_path: Path, document: Any) -> None:
    with pytest.raises(IntegrityError) as caught:
        find(tmp_path, document)
    assert SECRET not in caught.value.message + str(caught.value.hint)


def test_unreadable_credential_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StackerError, match="cannot read credentials: "):
        find_credentials([str(tmp_path)], HOST, "app")


def test_credentials_are_not_printed_by_repr() -> None:
    assert SECRET not in repr(Credentials("u", SECRET, SECRET, SECRET))


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the path of a helper named ``tests``; the test writes it."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    path = tmp_path / "docker-credential-tests"
    path.touch(0o755)
    return path


HELPED: list[dict[str, Any]] = [
    {"credHelpers": {HOST: "tests"}},
    {"credsStore": "tests", "auths": {HOST: {}}},
]


@pytest.mark.parametrize("document", HELPED, ids=["helper", "store"])
def test_helper_gets_the_host_on_stdin(tmp_path: Path, helper: Path, document: Any) -> None:
    answer = json.dumps({"ServerURL": HOST, "Username": "u", "Secret": SECRET})
    helper.write_text(f"#!/bin/sh\n[ $1 = get ] && [ $(cat) = {HOST} ] && echo '{answer}'\n")
    assert find(tmp_path, document) == Credentials("u", SECRET)


def test_helper_may_return_an_identity_token(tmp_path: Path, helper: Path) -> None:
    answer = json.dumps({"Username": "<token>", "Secret": SECRET})
    helper.write_text(f"#!/bin/sh\ncat >/dev/null; echo '{answer}'\n")
    assert find(tmp_path, HELPED[0]) == Credentials(identity_token=SECRET)


def test_host_helper_precedes_entries_of_the_file(tmp_path: Path, helper: Path) -> None:
    helper.write_text("""#!/bin/sh\ncat >/dev/null; echo '{"Username": "h", "Secret": "s"}'\n""")
    document = {**HELPED[0], "auths": {HOST: auth("written")}}
    assert find(tmp_path, document) == Credentials("h", "s")


def test_helper_may_have_no_credentials(tmp_path: Path, helper: Path) -> None:
    helper.write_text(
        "#!/bin/sh\ncat >/dev/null; echo credentials not found in native keychain; exit 1\n"
    )
    assert find(tmp_path, HELPED[0]) is None


@pytest.mark.parametrize(
    "script",
    [f"echo {SECRET}; echo {SECRET} >&2; exit 3", f"cat >/dev/null; kill -9 $$ # {SECRET}"],
)
def test_failing_helper_is_an_error_without_its_output(
    tmp_path: Path, helper: Path, script: str
) -> None:
    helper.write_text(f"#!/bin/sh\n{script}\n")
    with pytest.raises(AuthenticationError, match="credential helper failed: ") as caught:
        find(tmp_path, HELPED[0])
    assert SECRET not in caught.value.message


def test_missing_helper_is_an_error_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(AuthenticationError, match="docker-credential-nowhere") as caught:
        find(tmp_path, {"credsStore": "nowhere"})
    assert "--authfile" in (caught.value.hint or "")
