"""Check credentials with a registry, and write them to credential files and helpers.

A host, credentials and the paths of files come in; the names of the changed files and helpers go
out.  podman, skopeo and docker read the same files.  A message of this module must not contain a
value from a credential file or a helper.
Sources: distribution-spec 1.1, "Determining Support"; Docker Registry HTTP API V2, "API Version
Check"; containers-auth.json(5); Docker's config.json, "Credential helpers".
"""

from __future__ import annotations

import json
import os
from base64 import b64encode
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from stacker.errors import AuthenticationError, IntegrityError, StackerError, UsageError
from stacker.image.document import parse_object
from stacker.image.reference import DEFAULT_REGISTRY, Reference
from stacker.linux import lock
from stacker.linux.filesystem import sweep_temporaries, write_atomically
from stacker.registry.authentication import Authenticator, parse_challenges
from stacker.registry.client import base_url, status_error
from stacker.registry.credentials import (
    DOCKER_KEY,
    keys_of,
    names_in_store,
    names_of,
    run_helper,
)
from stacker.registry.http.origin import origin_of
from stacker.registry.http.session import HttpSession

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from stacker.registry.credentials import Credentials
    from stacker.registry.http.response import Response
    from stacker.registry.settings import RegistryAccess

_MODE = 0o600


def check_credentials(host: str, credentials: Credentials, access: RegistryAccess) -> bool:
    """Check whether the registry at ``HOST[:PORT]`` accepts credentials.

    :returns: False if the registry requires none, so that it did not check them.
    :raises AuthenticationError: the registry refuses them.
    :raises NetworkError: the registry cannot be reached.
    :raises UsageError: registries.conf blocks the registry.
    """
    address = access.registries.primary(Reference.parse(f"{host}/any"))
    access = replace(access, insecure=access.insecure or address.insecure)
    base = base_url(host, access, host)
    with closing(HttpSession(access, host)) as session:
        response = session.get(f"{base}/v2/", {})
        if response.status == 200:
            response.close()
            return False
        if response.status != 401 or response.redirected:
            raise status_error(response, host)
        authenticator = Authenticator(
            session,
            origin_of(base, host),
            credentials=credentials,
            scope="",
            what=host,
            insecure=access.insecure,
        )
        _require_accepted(session, f"{base}/v2/", response, authenticator, host)
    return True


def _require_accepted(
    session: HttpSession, url: str, challenged: Response, authenticator: Authenticator, host: str
) -> None:
    """Send the request again, with the credentials that the response `challenged` asks for."""
    challenges = parse_challenges(challenged.headers("WWW-Authenticate"))
    challenged.drain()
    response = session.get(url, {"Authorization": authenticator.authorization(challenges)})
    if response.status in (401, 403):
        raise AuthenticationError(
            f"credentials refused: {host}: got status {response.status}, want 200",
            hint="check the user name and the password, or use an access token as password",
        )
    if response.status != 200:
        raise status_error(response, host)
    response.close()


def save_credentials(paths: Sequence[str], host: str, user: str, password: str) -> str:
    """Save credentials for a host where a reader of `paths` finds them first.

    The first file that has an entry or a helper for the host is updated, else the first file.
    If that file names a helper, the helper stores the secret.  Other entries stay.

    :param paths: absolute paths of credential files, in the order in which they are read.
    :returns: the path of the file, or the name of the helper.
    :raises IntegrityError: a file is malformed.
    :raises AuthenticationError: a helper fails.
    :raises StackerError: a file cannot be written.
    :raises UsageError: the user name contains a colon.
    """
    if ":" in user:
        raise UsageError("malformed user name: got a ':' in it, want none (RFC 7617)")
    path = next((path for path in paths if _covers(_read(path), host)), paths[0])
    with _updating(path) as file:
        helper, (server, *_) = _helper(file, path, host)
        entries = _part(file, "auths", path)
        key = _key(entries, path, host)
        if not helper:
            auth = b64encode(f"{user}:{password}".encode()).decode()
            entries[key] = {"auth": auth}
            return path
        secret = {"ServerURL": server, "Username": user, "Secret": password}
        _update_helper(helper, "store", json.dumps(secret).encode(), host)
        if key in entries or server not in _part(file, "credHelpers", path):
            entries[key] = {}  # as Docker marks an entry whose secret a helper has
    return f"docker-credential-{helper}"


def remove_credentials(paths: Sequence[str], host: str) -> list[str]:
    """Remove the credentials for a host from all files in `paths` and from their helpers.

    :returns: the files and helpers that had credentials.
    :raises IntegrityError: a file is malformed.
    :raises AuthenticationError: a helper fails.
    :raises StackerError: a file cannot be written.
    """
    found = []
    for path in paths:
        file = _read(path)
        keys = keys_of(_part(file, "auths", path), host)
        helper, servers = _helper(file, path, host)
        for server in servers if helper else ():
            if run_helper(helper, "get", server.encode(), host) is not None:
                _update_helper(helper, "erase", server.encode(), host)
                found.append(f"docker-credential-{helper}")
        if keys:
            with _updating(path) as changed:
                for key in keys:
                    _part(changed, "auths", path).pop(key, None)
            if not helper:
                found.append(path)
    return list(dict.fromkeys(found))


def _update_helper(helper: str, action: str, stdin: bytes, host: str) -> None:
    if run_helper(helper, action, stdin, host) is None:
        raise AuthenticationError(
            f"credential helper failed: docker-credential-{helper}, for {host}: cannot {action}"
        )


def _covers(file: dict[str, object], host: str) -> bool:
    parts = (file.get("auths"), file.get("credHelpers"))
    known = any(name in part for part in parts if isinstance(part, dict) for name in names_of(host))
    return known or bool(file.get("credsStore"))


def _key(entries: dict[str, object], path: str, host: str) -> str:
    """Return the key of a registry in a file, or the key for a new entry."""
    if found := [name for name in names_of(host) if name in entries]:
        return found[0]
    # Docker finds its own registry only under this key; podman reads both.
    is_docker_s = os.path.basename(path) == "config.json"
    return DOCKER_KEY if is_docker_s and host == DEFAULT_REGISTRY else host


def _helper(file: dict[str, object], path: str, host: str) -> tuple[str, tuple[str, ...]]:
    """Return the helper for a registry, empty without one, and the registry's names in it."""
    helpers = _part(file, "credHelpers", path)
    servers = tuple(name for name in names_of(host) if helpers.get(name))[:1]
    name = helpers[servers[0]] if servers else file.get("credsStore") or ""
    if not isinstance(name, str):
        raise IntegrityError(f"{path}: credential helper: got another type, want a string")
    return name, servers or names_in_store(host)


def _part(file: dict[str, object], name: str, path: str) -> dict[str, object]:
    part = file.get(name)
    if part is None:
        part = {}
        if name == "auths":
            file[name] = part
    if not isinstance(part, dict):
        raise IntegrityError(f"{path}: {name}: got another type, want an object")
    return part


def _read(path: str) -> dict[str, object]:
    try:
        raw = Path(path).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise StackerError(f"cannot read credentials: {path}: {error.strerror}") from error
    return parse_object(raw, path) if raw.strip() else {}


@contextmanager
def _updating(path: str) -> Iterator[dict[str, object]]:
    """Yield the members of a file, and replace the file atomically by their new values."""
    target = Path(os.path.realpath(path))  # replace the target of a symbolic link, not the link
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with lock.exclusive(target.parent, create=False):
            file = _read(path)
            yield file
            _write(target, json.dumps(file, indent="\t").encode())
    except OSError as error:
        raise StackerError(
            f"cannot write credentials: {path}: {error.strerror}",
            hint="name another file with --authfile",
        ) from error


def _write(target: Path, content: bytes) -> None:
    sweep_temporaries(target.parent, target.name)
    write_atomically(target, content, mode=_MODE)
