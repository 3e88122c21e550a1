"""Find the credentials for a registry in credential files and credential helpers.

The paths of files and a repository come in; credentials or None go out.  The caller chooses the
files.  A message of this module must not contain a value from a credential file or a helper.
Sources: containers-auth.json(5); Docker's config.json, "Credential helpers".
"""

from __future__ import annotations

import re
from base64 import b64decode
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stacker.errors import AuthenticationError, IntegrityError, StackerError
from stacker.image.document import parse_object
from stacker.image.reference import DEFAULT_REGISTRY

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator
    from subprocess import CompletedProcess

_HELPER = re.compile("[A-Za-z0-9_.-]+")
_HELPER_SECONDS = 60  # the keyring behind a helper may have to ask the user
_IS_TOKEN = "<token>"  # noqa: S105 - the user name that marks the secret as an identity token
_NOT_FOUND = b"credentials not found"
DOCKER_KEY = "https://index.docker.io/v1/"
"""The key of `DEFAULT_REGISTRY` in Docker's file, and its name for a helper of all registries."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user name and a password, or a token in their place; repr() hides all of them.

    :param identity_token: an OAuth 2 refresh token, exchanged for access tokens.
    :param registry_token: an access token.
    """

    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)


def find_credentials(paths: Iterable[str], host: str, repository: str) -> Credentials | None:
    """Return the credentials for the repository from the first file that has any.

    Within a file the order is: the helper for the host; entries for the repository, for its
    parents and for the host; the helper for all hosts.

    :param paths: absolute paths; a missing file is skipped.
    :raises IntegrityError: a file is malformed.
    :raises AuthenticationError: a helper fails.
    :raises StackerError: a file cannot be read.
    """
    for path in paths:
        if (raw := _read(path)) is not None:
            file = parse_object(raw, path) if raw.strip() else {}
            if (found := _in_file(file, path, host, repository)) is not None:
                return found
    return None


def _read(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StackerError(f"cannot read credentials: {path}: {error.strerror}") from error


def _in_file(file: dict[str, object], path: str, host: str, repository: str) -> Credentials | None:
    helpers = _object(file.get("credHelpers"), f"{path}: credHelpers")
    for name in names_of(host):
        if name in helpers:
            return _helper_credentials(_text(helpers[name], f"{path}: credHelpers"), name)
    entries = _object(file.get("auths"), f"{path}: auths")
    for key in _keys(entries, host, repository):
        where = f"{path}: auths: {host}"
        if (found := _entry(_object(entries[key], where), where)) is not None:
            return found
    store = _text(file.get("credsStore"), f"{path}: credsStore")
    asked = (_helper_credentials(store, name) for name in names_in_store(host) if store)
    return next(filter(None, asked), None)


def names_of(host: str) -> tuple[str, ...]:
    """Return the names that credential files and helpers have for a registry."""
    if host != DEFAULT_REGISTRY:
        return (host,)
    return host, DOCKER_KEY, "index.docker.io", "registry-1.docker.io"


def names_in_store(host: str) -> tuple[str, ...]:
    """Return the names of a registry in the helper for all registries: Docker's, then podman's."""
    return (DOCKER_KEY, host) if host == DEFAULT_REGISTRY else (host,)


def keys_of(entries: Collection[str], host: str) -> list[str]:
    """Return the keys of `entries` that are a name or a URL of a host, names first."""
    names = names_of(host)
    exact = [name for name in names if name in entries]
    # Older versions of Docker wrote URLs.
    return [*exact, *(key for key in entries if key not in names and host_of(key) in names)]


def _keys(entries: dict[str, object], host: str, repository: str) -> Iterator[str]:
    """Yield the keys that cover a repository, longest first."""
    parts = repository.split("/")
    for count in range(len(parts), 0, -1):
        for name in names_of(host):
            key = "/".join([name, *parts[:count]])
            if key in entries:
                yield key
    yield from keys_of(entries, host)


def host_of(url: str) -> str:
    """Return the host of a URL that is used as a key."""
    return url.partition("://")[2].partition("/")[0]


def _entry(entry: dict[str, object], where: str) -> Credentials | None:
    """Return the credentials of an entry; None if the entry is empty, as for a helper."""
    user, colon, password = _decoded(_text(entry.get("auth"), where), where).partition(":")
    if not colon:
        user = _text(entry.get("username"), where)
        password = _text(entry.get("password"), where)
    identity = _text(entry.get("identitytoken"), where)
    registry = _text(entry.get("registrytoken"), where)
    if not (user or identity or registry):
        return None
    return Credentials(user, password.rstrip("\0"), identity, registry)


def _decoded(text: str, where: str) -> str:
    if not text:
        return ""
    try:
        decoded = b64decode(text, validate=True).decode()
    except ValueError:
        decoded = ""
    if ":" not in decoded:
        raise IntegrityError(f"{where}: auth: got another form, want USER:PASSWORD in base64")
    return decoded


def _helper_credentials(name: str, host: str) -> Credentials | None:
    output = run_helper(name, "get", host.encode(), host)
    return None if output is None else _parsed(output, f"docker-credential-{name}")


def run_helper(name: str, action: str, stdin: bytes, host: str) -> bytes | None:
    """Run ``docker-credential-NAME ACTION``.

    :param action: ``get``, ``store`` or ``erase``.
    :returns: its standard output, which may contain secrets; None if it has no credentials.
    :raises AuthenticationError: the helper is not installed, or fails.
    :raises IntegrityError: the name is malformed.
    """
    what = f"docker-credential-{name}"
    if not _HELPER.fullmatch(name):
        raise IntegrityError(
            f"malformed name of a credential helper: for {host}: got other characters, want only "
            "letters, digits, '_', '.' and '-'",
            hint="correct credHelpers and credsStore in the credential file",
        )
    done = _finished(what, action, stdin, host)
    if done.returncode:
        if _NOT_FOUND in done.stdout:
            return None
        raise AuthenticationError(
            f"credential helper failed: {what}, for {host}: got exit code {done.returncode}, want 0"
        )
    return done.stdout


def _finished(what: str, action: str, stdin: bytes, host: str) -> CompletedProcess[bytes]:
    import subprocess

    try:
        return subprocess.run(
            [what, action],
            input=stdin,
            capture_output=True,
            check=False,
            timeout=_HELPER_SECONDS,
        )
    except FileNotFoundError:
        raise AuthenticationError(
            f"no such credential helper: {what}, for {host}", hint="install it, or use --authfile"
        ) from None
    except OSError as error:
        raise AuthenticationError(
            f"credential helper failed: {what}, for {host}: cannot run it: {error.strerror}"
        ) from None
    except subprocess.TimeoutExpired:
        raise AuthenticationError(
            f"credential helper failed: {what}, for {host}: got no answer in {_HELPER_SECONDS} s, "
            "want one"
        ) from None


def _parsed(output: bytes, what: str) -> Credentials:
    members = parse_object(output, what)
    user, secret = _text(members.get("Username"), what), _text(members.get("Secret"), what)
    if user == _IS_TOKEN:
        return Credentials(identity_token=secret)
    return Credentials(user, secret)


def _object(value: object, where: str) -> dict[str, object]:
    if value is not None and not isinstance(value, dict):
        raise IntegrityError(f"{where}: got another type, want an object")
    return value or {}


def _text(value: object, where: str) -> str:
    if value is not None and not isinstance(value, str):
        raise IntegrityError(f"{where}: got another type, want a string")
    return value or ""
