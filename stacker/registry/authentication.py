"""Answer the authentication challenge of a registry: WWW-Authenticate in, Authorization out.

Challenges and credentials come in; the value of the Authorization header goes out, with the
password (Basic) or a token (Bearer).  This module must not know which request needs it.
Sources: RFC 9110, sections 11.3 and 11.6.1; RFC 7617 (Basic); distribution's "Token
Authentication Specification" and "OAuth 2".
"""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from stacker.errors import AuthenticationError, NetworkError
from stacker.image.document import parse_object, quoted
from stacker.registry.http.origin import check_scheme, is_loopback, origin_of
from stacker.registry.http.response import TransferInterruptedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from stacker.registry.credentials import Credentials
    from stacker.registry.http.origin import Origin
    from stacker.registry.http.response import Response
    from stacker.registry.http.session import HttpSession


_TOKEN_BYTES = 1 << 20
_CLIENT = "stacker"
LOGIN_HINT = "log in with `stacker login`, or name a credential file with --authfile"

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - the grammar's word, not a secret
_PARAMETER = re.compile(rf'({_TOKEN})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|({_TOKEN}))[ \t]*')
_SCHEME = re.compile(rf"({_TOKEN})(?:[ \t]+|(?=,|$))")
_ESCAPED = re.compile(r"\\(.)")
_LONGEST = 16 * 1024


@dataclass(frozen=True, slots=True)
class Challenge:
    """An authentication scheme and its parameters; scheme and parameter names in lower case."""

    scheme: str
    parameters: Mapping[str, str] = field(default_factory=dict)


def parse_challenges(values: Iterable[str]) -> list[Challenge]:
    """Return the challenges in all WWW-Authenticate headers of a response, in their order.

    A malformed header gives the challenges before the malformed part.
    """
    return [challenge for value in values for challenge in _challenges(value[:_LONGEST])]


def _challenges(text: str) -> list[Challenge]:
    found: list[tuple[str, dict[str, str]]] = []
    at = 0
    while at < len(text):
        if text[at] in ", \t":
            at += 1
        elif found and (match := _PARAMETER.match(text, at)):
            name, escaped, plain = match.groups()
            value = plain if escaped is None else _ESCAPED.sub(r"\1", escaped)
            found[-1][1].setdefault(name.lower(), value)
            at = match.end()
        elif match := _SCHEME.match(text, at):
            found.append((match[1].lower(), {}))
            at = match.end()
        else:
            break
    return [Challenge(scheme, parameters) for scheme, parameters in found]


class Authenticator:
    """Answers the challenges of one registry for one scope.

    :param origin: the registry; only it and its token server receive credentials.
    :param scope: the token's scope, unless the challenge names one.
    :param what: the repository's name for messages.
    """

    def __init__(
        self,
        session: HttpSession,
        origin: Origin,
        *,
        credentials: Credentials | None,
        scope: str,
        what: str,
        insecure: bool,
    ) -> None:
        self._session = session
        self._origin = origin
        self._credentials = credentials
        self._scope = scope
        self._what = what
        self._insecure = insecure

    def authorization(self, challenges: Sequence[Challenge]) -> str:
        """Return the value of the Authorization header that answers one of `challenges`.

        :raises AuthenticationError: no credentials, refused credentials, or no supported scheme.
        :raises NetworkError: the token server cannot be reached, or fails.
        :raises IntegrityError: the token server's response is malformed.
        """
        schemes = {challenge.scheme: challenge for challenge in reversed(challenges)}
        if "bearer" in schemes:
            return f"Bearer {self._token(schemes['bearer'])}"
        if "basic" not in schemes:
            got = ", ".join(schemes) or "none"
            raise AuthenticationError(
                f"unsupported authentication: {self._what}: got {quoted(got)}, want Basic or Bearer"
            )
        if basic := self._basic():
            return basic
        raise AuthenticationError(
            f"authentication required: {self._what}: got no credentials, want a login",
            hint=LOGIN_HINT,
        )

    def _basic(self) -> str:
        known = self._credentials
        if known is None or not known.user:
            return ""
        return "Basic " + b64encode(f"{known.user}:{known.password}".encode()).decode()

    def _token(self, challenge: Challenge) -> str:
        known = self._credentials
        if known and known.registry_token:
            return known.registry_token
        realm = challenge.parameters.get("realm", "")
        self._check(realm)
        service = challenge.parameters.get("service", "")
        scope = merge_scopes(challenge.parameters.get("scope", ""), self._scope)
        if known and known.identity_token:
            response = self._request_by_refresh(realm, service, scope, known.identity_token)
        else:
            response = self._request_by_password(realm, service, scope)
        return self._read_token(response)

    def _check(self, realm: str) -> None:
        """Refuse a token server that would receive credentials over plain HTTP."""
        what = f"{self._what}: token server"
        origin = origin_of(realm, what)
        check_scheme(origin, self._origin, what, insecure=self._insecure)
        if is_loopback(origin.host) and not is_loopback(self._origin.host):
            raise NetworkError(
                f"refused to follow: {what}: got loopback host {quoted(origin.host)}, "
                "want a remote one"
            )

    def _request_by_password(self, realm: str, service: str, scope: str) -> Response:
        query = [("service", service)] if service else []
        query += [("scope", part) for part in scope.split()]
        joint = "&" if "?" in realm else "?"
        basic = self._basic()
        headers = {"Authorization": basic} if basic else {}
        return self._session.get(f"{realm}{joint}{urlencode(query)}", headers)

    def _request_by_refresh(self, realm: str, service: str, scope: str, token: str) -> Response:
        form = {
            "grant_type": "refresh_token",
            "service": service,
            "client_id": _CLIENT,
            "scope": scope,
            "refresh_token": token,
        }
        return self._session.post(realm, form)

    def _read_token(self, response: Response) -> str:
        what = f"{self._what}: token server"
        if response.status in (400, 401, 403):
            response.close()
            raise self._refused(response.status)
        if response.status != 200:
            response.close()
            raise NetworkError(
                f"cannot get a token: {what}: got status {response.status}, want 200"
            )
        try:
            raw = response.read_all(_TOKEN_BYTES)
        except TransferInterruptedError as error:
            raise NetworkError(f"cannot get a token: {error.message}") from error
        document = parse_object(raw, what)
        token = document.get("token") or document.get("access_token")
        # A token becomes a header, so it must not contain a line break.
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise NetworkError(
                f"cannot get a token: {what}: got no token in the response, want one"
            )
        return token

    def _refused(self, status: int) -> AuthenticationError:
        failed = "credentials refused" if self._credentials else "authentication required"
        return AuthenticationError(
            f"{failed}: {self._what}: got status {status} from the token server, want 200",
            hint=LOGIN_HINT,
        )


def merge_scopes(challenged: str, wanted: str) -> str:
    """Return the scopes of a challenge, with the actions of `wanted` added to the same resource.

    A registry challenges the first request of a push, which asks whether a blob exists, with
    the action ``pull`` only.  A token with ``pull,push`` avoids a second challenge.

    Source: distribution's "Token Scope Documentation".

    >>> merge_scopes("repository:app:pull", "repository:app:pull,push")
    'repository:app:pull,push'
    """
    name, _, actions = wanted.rpartition(":")
    scopes = []
    for scope in challenged.split():
        resource, _, had = scope.rpartition(":")
        if resource and resource == name:
            had = ",".join(dict.fromkeys([*had.split(","), *actions.split(",")]))
        scopes.append(f"{resource}:{had}" if resource else scope)
    return " ".join(scopes) or wanted
