"""A client of one repository: questions to the registry's API, asked with the right to ask.

In come paths such as ``manifests/1.0``, out come answers with status 200 or 206, or errors.
What a manifest is, is not known here.
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
from stacker.registry.authentication import LOGIN_HINT, Authenticator, parse_challenges
from stacker.registry.credentials import find_credentials
from stacker.registry.http.exchange import Exchange
from stacker.registry.http.origin import origin_of, schemes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from stacker.registry.credentials import Credentials
    from stacker.registry.http.response import Answer
    from stacker.registry.registries_conf import RegistryAddress
    from stacker.registry.settings import RegistryAccess


_KINDS: dict[int, tuple[str, type[StackerError]]] = {
    401: ("credentials refused", AuthenticationError),
    403: ("access denied", AuthenticationError),
    404: ("not found", NotFoundError),
    416: ("truncated", IntegrityError),
}
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
    """Talks to the registry at `base`, such as ``https://registry.example``, about a repository.

    `actions` are what a token shall allow there: ``pull``, or ``pull,push``.

    A copy that travels to another process keeps the token, and makes connections of its own.
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
        self.what = f"{base.partition('://')[2]}/{repository}"
        self._credentials = credentials
        self._actions = actions
        self._authorization = ""
        self._exchange = Exchange(access, self.what)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the connections behind."""
        return {name: value for name, value in self.__dict__.items() if name != "_exchange"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Start without connections."""
        self.__dict__.update(state)
        self._exchange = Exchange(self.access, self.what, has_met=True)

    def __eq__(self, other: object) -> bool:
        """Say whether both ask the same registry about the same repository."""
        if not isinstance(other, Client):
            return NotImplemented
        return (self.base, self.repository) == (other.base, other.repository)

    def __hash__(self) -> int:
        return hash((self.base, self.repository))

    def get(self, path: str, headers: Mapping[str, str], what: str) -> Answer:
        """Ask for what is at `path` below the repository.

        :param what: the object's name for messages.
        :raises AuthenticationError: the registry wants credentials, or better ones.
        :raises NotFoundError: it does not have that.
        :raises NetworkError: it cannot be reached, or fails.
        """
        answer = self.ask("GET", self.url(path), headers)
        if answer.status not in (200, 206):
            raise refusal(answer, what)
        answer.what = what
        return answer

    def elsewhere(self, url: str, headers: Mapping[str, str], what: str) -> Answer:
        """Ask for what is at any URL, as a stranger.

        :raises NotFoundError: it is not there.
        :raises NetworkError: nobody is, or they fail or refuse.
        """
        try:
            answer = self._exchange.get(url, headers)
        except NetworkError as error:
            raise NetworkError(f"not to be had: {what}: {error.message}") from error
        if answer.status in (200, 206):
            answer.what = what
            return answer
        kind: type[StackerError] = NotFoundError if answer.status == 404 else NetworkError
        answer.close()
        raise kind(f"not to be had: {what}: got status {answer.status}, want 200")

    def url(self, path: str) -> str:
        """Return the URL of what is at `path` below the repository."""
        return f"{self.base}/v2/{self.repository}/{path}"

    def ask(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None = None,
        *,
        once: bool = False,
    ) -> Answer:
        """Ask with the right to ask, and give the answer whatever its status is.

        Where the registry sends us to another host, that one hears no credentials.

        :param url: absolute; of the registry, or what it gave as a location.
        :param once: do not ask again when no answer comes, or a busy server's.
        :raises AuthenticationError: the registry wants credentials, or better ones.
        :raises BrokenOffError: with `once`: no answer.
        :raises NetworkError: it cannot be reached, or fails.
        """
        send = self._exchange.once if once else self._exchange.ask
        mine = origin_of(url, self.what) == origin_of(self.base, self.what)
        answer = send(method, url, self._headed(headers, mine=mine), body)
        if answer.status == 401 and mine and not answer.redirected:
            challenges = parse_challenges(answer.headers("WWW-Authenticate"))
            if method == "HEAD":
                answer.close()  # it announces the length of a body that never comes
            else:
                answer.refusal()  # the connection can be used again
            self._authorization = self._authenticator().answer(challenges)
            answer = send(method, url, self._headed(headers, mine=mine), body)
        return answer

    def wait(self, attempt: int, answer: Answer | None = None) -> None:
        """Wait after failed attempt number `attempt`, for as long as `answer` asks, if it does.

        :raises NetworkError: that is too long.
        """
        timeouts = self.access.timeouts
        pause = timeouts.pause(attempt)
        timeouts.sleep(self._exchange.pause(answer, attempt) if answer else pause)

    def close(self) -> None:
        """Close the connections."""
        self._exchange.close()

    def _headed(self, headers: Mapping[str, str], *, mine: bool) -> dict[str, str]:
        sent = dict(headers)
        if self._authorization and mine:
            sent["Authorization"] = self._authorization
        return sent

    def _authenticator(self) -> Authenticator:
        return Authenticator(
            self._exchange,
            origin_of(self.base, self.what),
            credentials=self._credentials,
            scope=f"repository:{self.repository}:{self._actions}",
            what=self.what,
            insecure=self.access.insecure,
        )


def base_of(host: str, access: RegistryAccess, what: str) -> str:
    """Return the URL of the registry at ``HOST[:PORT]``, with the scheme that it speaks."""
    *others, last = schemes(host, insecure=access.insecure)
    if others:
        exchange = Exchange(access, what)
        try:
            for scheme in others:
                if exchange.answers(f"{scheme}://{host}/v2/"):
                    return f"{scheme}://{host}"
        finally:
            exchange.close()
    return f"{last}://{host}"


def refusal(answer: Answer, what: str, want: int = 200) -> StackerError:
    """Return the error for a status, with the registry's error codes in words.

    :param what: the object's name for messages.
    :param want: the status that was expected.
    """
    failed, kind = _KINDS.get(answer.status, ("registry failed", NetworkError))
    hint = LOGIN_HINT if kind is AuthenticationError else None
    if answer.redirected and kind is AuthenticationError:
        # The other host does not get our credentials, so they cannot be at fault.
        failed, kind, hint = "redirected to a refusal", NetworkError, None
    said = _explained(answer.refusal())
    return kind(f"{failed}: {what}: got status {answer.status}{said}, want {want}", hint=hint)


def _explained(body: bytes) -> str:
    """Return what the codes of a registry's error document mean, empty where it has none."""
    try:
        listed = objects(parse_object(body, "errors"), "errors", "errors")
    except IntegrityError:
        return ""
    codes = dict.fromkeys(code for e in listed[:3] if isinstance(code := e.get("code"), str))
    words = [_CODES.get(code) or f"error code {quoted(code)}" for code in codes]
    return f" ({', '.join(words)})" if words else ""


# FOLDED from stacker.registry.client
# """A client for the repository that a reference names, with the credentials that are known for it.
#
# In come a reference and how registries may be reached, out comes a `Client`.  What is asked of it
# is not known here.
# """


@contextmanager
def connected(
    place: RegistryAddress, access: RegistryAccess, *, actions: str = "pull"
) -> Iterator[Client]:
    """Give a client of one place, whose connections are closed at the end; see `client_at`.

    For what only the registry itself can be asked: `RegistriesConf.home` says where that is.
    """
    client = client_at(place, access, actions=actions)
    try:
        yield client
    finally:
        client.close()


def client_at(place: RegistryAddress, access: RegistryAccess, *, actions: str = "pull") -> Client:
    """Return a client of the repository at `place`.

    :param actions: what a token shall allow: ``pull``, or ``pull,push``.
    :raises NetworkError: the registry cannot be reached.
    :raises StackerError: files with credentials cannot be read.
    """
    reference = place.reference
    access = replace(access, insecure=access.insecure or place.insecure)
    return Client(
        base_of(reference.host, access, reference.name),
        reference.repository,
        access=access,
        credentials=find_credentials(access.auth_files, reference.host, reference.repository),
        actions=actions,
    )
