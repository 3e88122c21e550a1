"""Whether a registry takes credentials, asked before they are kept.

In come a host and credentials, out comes an answer.  Where they are kept is `keyring`.
Source: distribution-spec 1.1, "Determining Support"; Docker Registry HTTP API V2, "API Version
Check".
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
from stacker.image.reference import Reference
from stacker.linux import lock
from stacker.registry.authentication import Authenticator, parse_challenges
from stacker.registry.client import base_of, refusal
from stacker.registry.credentials import ask_helper, host_of
from stacker.registry.http.exchange import Exchange
from stacker.registry.http.origin import origin_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from stacker.registry.credentials import Credentials
    from stacker.registry.settings import RegistryAccess


def log_in(host: str, credentials: Credentials, access: RegistryAccess) -> bool:
    """Ask the registry at ``HOST[:PORT]`` whether it takes credentials.

    :returns: ``False`` when it wants none, so that nobody knows whether they are right.
    :raises AuthenticationError: it does not take them.
    :raises NetworkError: it cannot be reached.
    :raises UsageError: `RegistryAccess.conf` blocks it.
    """
    home = access.registries.primary(Reference.parse(f"{host}/any"))
    access = replace(access, insecure=access.insecure or home.insecure)
    base = base_of(host, access, host)
    url = f"{base}/v2/"
    with closing(Exchange(access, host)) as exchange:
        answer = exchange.get(url, {})
        if answer.status == 200:
            answer.close()
            return False
        if answer.status != 401 or answer.redirected:
            raise refusal(answer, host)
        challenges = parse_challenges(answer.headers("WWW-Authenticate"))
        answer.refusal()  # the connection can be used again
        authenticator = Authenticator(
            exchange,
            origin_of(base, host),
            credentials=credentials,
            scope="",
            what=host,
            insecure=access.insecure,
        )
        answer = exchange.get(url, {"Authorization": authenticator.answer(challenges)})
        if answer.status in (401, 403):
            raise AuthenticationError(
                f"credentials refused: {host}: got status {answer.status}, want 200"
            )
        if answer.status != 200:
            raise refusal(answer, host)
        answer.close()
    return True


# FOLDED from stacker.registry.login
# """Where credentials are kept: the files that podman and docker share, and their helpers.
#
# In come paths, a host and credentials, out comes where they went.  Whether they are any good is
# not known here.  No message shows a value of such a file, or what a helper says.
# Sources: containers-auth.json(5); Docker's config.json, "Credential helpers".
# """

_MODE = 0o600


def keep(paths: Sequence[str], host: str, user: str, password: str) -> str:
    """Keep credentials for a host where a reader of `paths` finds them first.

    That is the first file that knows the host or has a helper for it, else the first of all; a
    helper that it names is given the secret, and the file is not.  Its other entries stay.

    :param paths: absolute paths of files, the first that knows a host counts.
    :returns: the file's path, or the helper's name.
    :raises IntegrityError: a file is malformed.
    :raises AuthenticationError: a helper fails.
    :raises StackerError: a file cannot be written.
    """
    if ":" in user:
        raise UsageError("malformed user name: got one with ':', want none (RFC 7617)")
    path = next((path for path in paths if _covers(_read(path), host)), paths[0])
    with _changed(path) as file:
        helper = _helper(file, path, host)
        entries = _part(file, "auths", path)
        if not helper:
            auth = b64encode(f"{user}:{password}".encode()).decode()
            entries[host] = {"auth": auth}
            return path
        given = {"ServerURL": host, "Username": user, "Secret": password}
        _tell(helper, "store", json.dumps(given).encode(), host)
        if host in entries or host not in _part(file, "credHelpers", path):
            entries[host] = {}  # as docker has it: somewhere else there is more
    return f"docker-credential-{helper}"


def forget(paths: Sequence[str], host: str) -> list[str]:
    """Remove what is kept for a host from every one of `paths`, and from helpers they name.

    :returns: the files and helpers that knew it.
    :raises IntegrityError: a file is malformed.
    :raises AuthenticationError: a helper fails.
    :raises StackerError: a file cannot be written.
    """
    found = []
    for path in paths:
        file = _read(path)
        keys = [key for key in _part(file, "auths", path) if host in (key, host_of(key))]
        helper = _helper(file, path, host)
        if helper and ask_helper(helper, "get", host.encode(), host) is not None:
            _tell(helper, "erase", host.encode(), host)
            found.append(f"docker-credential-{helper}")
        if keys:
            with _changed(path) as changed:
                for key in keys:
                    _part(changed, "auths", path).pop(key, None)
            if not helper:
                found.append(path)
    return found


def _tell(helper: str, action: str, given: bytes, host: str) -> None:
    if ask_helper(helper, action, given, host) is None:
        raise AuthenticationError(f"credential helper failed: docker-credential-{helper}")


def _covers(file: dict[str, object], host: str) -> bool:
    parts = (file.get("auths"), file.get("credHelpers"))
    known = any(host in part for part in parts if isinstance(part, dict))
    return known or bool(file.get("credsStore"))


def _helper(file: dict[str, object], path: str, host: str) -> str:
    name = _part(file, "credHelpers", path).get(host) or file.get("credsStore") or ""
    if not isinstance(name, str):
        raise IntegrityError(f"{path}: credential helper: want a string")
    return name


def _part(file: dict[str, object], name: str, path: str) -> dict[str, object]:
    part = file.get(name)
    if part is None:
        part = {}
        if name == "auths":
            file[name] = part
    if not isinstance(part, dict):
        raise IntegrityError(f"{path}: {name}: want an object")
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
def _changed(path: str) -> Iterator[dict[str, object]]:
    """Give what is in a file, to be changed; the file then has it, whole or not at all."""
    place = Path(os.path.realpath(path))  # a link stays one
    try:
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with lock.exclusive(place.parent, create=False):
            file = _read(path)
            yield file
            _write(place, json.dumps(file, indent="\t").encode())
    except OSError as error:
        raise StackerError(
            f"cannot keep credentials: {path}: {error.strerror}",
            hint="name another file with --authfile",
        ) from error


def _write(place: Path, content: bytes) -> None:
    draft = place.with_name(f".{place.name}.{os.getpid()}")
    try:
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
        with os.fdopen(fd, "wb") as file:
            file.write(content)
        draft.replace(place)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
