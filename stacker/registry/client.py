"""A client of one repository: requests to the registry API, with authentication.

Paths such as ``manifests/1.0`` come in; responses go out, or errors for their statuses.  This
module does not parse manifests.
Sources: OCI distribution-spec, "API" and "Error Codes"; Docker Registry HTTP API V2.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from stacker.errors import (
    AuthenticationError,
    IntegrityError,
    NetworkError,
    NotFoundError,
    StackerError,
)
from stacker.image.document import objects, parse_object, quoted
from stacker.image.reference import DEFAULT_REGISTRY
from stacker.registry.authentication import LOGIN_HINT, Authenticator, parse_challenges
from stacker.registry.credentials import find_credentials
from stacker.registry.http.origin import origin_of, schemes_for
from stacker.registry.http.session import HttpSession

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from stacker.image.reference import Reference
    from stacker.registry.credentials import Credentials
    from stacker.registry.http.response import Response
    from stacker.registry.registries_conf import RegistryAddress
    from stacker.registry.settings import RegistryAccess


_ERRORS: dict[int, tuple[str, type[StackerError]]] = {
    401: ("credentials refused", AuthenticationError),
    403: ("access denied", AuthenticationError),
    404: ("not found", NotFoundError),
    416: ("truncated", IntegrityError),
}
_SERVERS = {DEFAULT_REGISTRY: "registry-1.docker.io"}
"""Hosts of names → hosts that serve them, where the two differ."""
_NAMES = {server: name for name, server in _SERVERS.items()}
# OCI distribution-spec, "Error Codes", and those that only Docker's registry has.
_CODES = {
    "BLOB_UNKNOWN": "no such blob",
    "BLOB_UPLOAD_INVALID": "invalid upload",
    "BLOB_UPLOAD_UNKNOWN": "no such upload",
    "DENIED": "access denied",
    "DIGEST_INVALID": "the content does not match the digest",
    "MANIFEST_BLOB_UNKNOWN": "the manifest refers to a missing blob",
    "MANIFEST_INVALID": "invalid manifest",
    "MANIFEST_UNKNOWN": "no such manifest",
    "MANIFEST_UNVERIFIED": "the manifest's signature is not valid",
    "NAME_INVALID": "invalid repository name",
    "NAME_UNKNOWN": "no such repository",
    "RANGE_INVALID": "invalid range",
    "SIZE_INVALID": "the content does not match the size",
    "TAG_INVALID": "the tag does not match the manifest",
    "TOOMANYREQUESTS": "too many requests",
    "UNAUTHORIZED": "authentication required",
    "UNAVAILABLE": "service unavailable",
    "UNSUPPORTED": "operation not supported",
}


class Client:
    """A client of a repository in the registry at `base`, such as ``https://registry.example``.

    A copy in another process keeps the token and opens its own connections.

    :param actions: what a token must allow: ``pull``, or ``pull,push``.
    """

    def __init__(
        self,
        base: str,
        repository: str,
        *,
        access: RegistryAccess,
        credentials: Credentials | None,
        actions: str = "pull",
    ) -> None:
        self.base = base
        self.repository = repository
        self.access = access
        host = base.partition("://")[2]
        self.what = f"{_NAMES.get(host, host)}/{repository}"
        self._credentials = credentials
        self._actions = actions
        self._authorization = ""
        self._session = HttpSession(access, self.what)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the connections."""
        return {name: value for name, value in self.__dict__.items() if name != "_session"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the state, without connections."""
        self.__dict__.update(state)
        self._session = HttpSession(self.access, self.what, was_reached=True)

    def __eq__(self, other: object) -> bool:
        """Return whether both are clients of the same repository."""
        if not isinstance(other, Client):
            return NotImplemented
        return (self.base, self.repository) == (other.base, other.repository)

    def __hash__(self) -> int:
        return hash((self.base, self.repository))

    def get(self, path: str, headers: Mapping[str, str], what: str) -> Response:
        """Return the response for `path` below the repository, with status 200 or 206.

        :param what: the object's name for messages.
        :raises AuthenticationError: the registry refuses the request or the credentials.
        :raises NotFoundError: the registry does not have the object.
        :raises IntegrityError: the object ends before the requested range.
        :raises NetworkError: the registry cannot be reached, or fails.
        """
        response = self.request("GET", self.url(path), headers)
        if response.status not in (200, 206):
            raise status_error(response, what)
        response.what = what
        return response

    def get_foreign(self, url: str, headers: Mapping[str, str], what: str) -> Response:
        """Return the response for any URL, without credentials.

        :raises NotFoundError: the server does not have the object.
        :raises NetworkError: the server cannot be reached, fails, or refuses the request.
        """
        try:
            response = self._session.get(url, headers)
        except NetworkError as error:
            raise NetworkError(f"cannot fetch: {what}: {error.message}") from error
        if response.status in (200, 206):
            response.what = what
            return response
        kind: type[StackerError] = NotFoundError if response.status == 404 else NetworkError
        response.close()
        raise kind(f"cannot fetch: {what}: got status {response.status}, want 200")

    def url(self, path: str) -> str:
        """Return the URL of `path` below the repository."""
        return f"{self.base}/v2/{self.repository}/{path}"

    def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None = None,
        *,
        once: bool = False,
    ) -> Response:
        """Send a request with authentication, and return the response of any status.

        A host that the registry redirects to does not receive the credentials.

        :param url: an absolute URL of the registry, or a location that the registry returned.
        :param once: do not retry after a lost response, or after a busy server's response.
        :raises AuthenticationError: the registry requires credentials, or rejects those sent.
        :raises TransferInterruptedError: no response arrived, and `once` is set.
        :raises NetworkError: the registry cannot be reached, or fails.
        """
        send = self._session.request_once if once else self._session.request
        is_own = origin_of(url, self.what) == origin_of(self.base, self.what)
        response = send(method, url, self._authorized(headers, is_own=is_own), body)
        if response.status == 401 and is_own and not response.redirected:
            challenges = parse_challenges(response.headers("WWW-Authenticate"))
            if method == "HEAD":
                response.close()  # it has a Content-Length but no body
            else:
                response.drain()
            self._authorization = self._authenticator().authorization(challenges)
            response = send(method, url, self._authorized(headers, is_own=is_own), body)
        return response

    def wait(self, attempt: int, response: Response | None = None) -> None:
        """Wait after failed attempt number `attempt`, for the Retry-After of `response` if any.

        :raises NetworkError: Retry-After exceeds `Timeouts.max_wait`.
        """
        timeouts = self.access.timeouts
        pause = timeouts.pause(attempt)
        timeouts.sleep(self._session.pause(response, attempt) if response else pause)

    def close(self) -> None:
        """Close all connections."""
        self._session.close()

    def _authorized(self, headers: Mapping[str, str], *, is_own: bool) -> dict[str, str]:
        sent = dict(headers)
        if self._authorization and is_own:
            sent["Authorization"] = self._authorization
        return sent

    def _authenticator(self) -> Authenticator:
        return Authenticator(
            self._session,
            origin_of(self.base, self.what),
            credentials=self._credentials,
            scope=f"repository:{self.repository}:{self._actions}",
            what=self.what,
            insecure=self.access.insecure,
        )


def make_client(address: RegistryAddress, access: RegistryAccess, actions: str = "pull") -> Client:
    """Return a client of the repository at `address`, with its credentials.

    :param actions: what a token must allow: ``pull``, or ``pull,push``.
    :raises NetworkError: the registry cannot be reached.
    :raises StackerError: a credential file cannot be read.
    """
    reference = address.reference
    access = replace(access, insecure=access.insecure or address.insecure)
    return Client(
        base_url(reference.host, access, reference.name),
        reference.repository,
        access=access,
        credentials=_credentials(access, reference),
        actions=actions,
    )


def _credentials(access: RegistryAccess, reference: Reference) -> Credentials | None:
    """Return the credentials for a repository: a mirror does not get those for another host."""
    if access.login is not None and access.login[0] == reference.host:
        return access.login[1]
    return find_credentials(access.auth_files, reference.host, reference.repository)


@contextmanager
def connected_client(
    address: RegistryAddress, access: RegistryAccess, *, actions: str = "pull"
) -> Iterator[Client]:
    """Yield a client of the repository at `address`, and close its connections at the end.

    Requests that no mirror may answer use `RegistriesConf.primary` as the address.
    """
    client = make_client(address, access, actions)
    try:
        yield client
    finally:
        client.close()


def base_url(host: str, access: RegistryAccess, what: str) -> str:
    """Return the URL of the registry at ``HOST[:PORT]``, with the scheme that it speaks."""
    host = _SERVERS.get(host, host)
    *others, last = schemes_for(host, insecure=access.insecure)
    if others:
        session = HttpSession(access, what)
        try:
            for scheme in others:
                if session.is_reachable(f"{scheme}://{host}/v2/"):
                    return f"{scheme}://{host}"
        finally:
            session.close()
    return f"{last}://{host}"


def status_error(response: Response, what: str, want: int = 200) -> StackerError:
    """Return the error for a status, with the registry's error codes in words.

    :param what: the object's name for messages.
    :param want: the expected status.
    """
    failed, kind = _ERRORS.get(response.status, ("registry failed", NetworkError))
    hint = LOGIN_HINT if kind is AuthenticationError else None
    if response.redirected and kind is AuthenticationError:
        # The other host does not receive our credentials, so they cannot be at fault.
        failed, kind, hint = "refused after a redirect", NetworkError, None
    codes = _explained_codes(response.drain())
    return kind(f"{failed}: {what}: got status {response.status}{codes}, want {want}", hint=hint)


def _explained_codes(body: bytes) -> str:
    """Return the codes of a registry's error document in words, empty without such a document."""
    try:
        listed = objects(parse_object(body, "errors"), "errors", "errors")
    except IntegrityError:
        return ""
    codes = dict.fromkeys(code for e in listed[:3] if isinstance(code := e.get("code"), str))
    words = [_CODES.get(code) or f"error code {quoted(code)}" for code in codes]
    return f" ({', '.join(words)})" if words else ""
