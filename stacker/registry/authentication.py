"""How a registry's challenge is met: the Authorization header, by password or by token.

In come challenges and credentials, out comes a header's value.  What is then asked for with it
is not known here.
Sources: RFC 7617 (Basic); distribution's "Token Authentication Specification" and "OAuth 2".
"""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from stacker.errors import AuthenticationError, NetworkError
from stacker.image.document import parse_object, quoted
from stacker.registry.http.origin import check_plain, is_loopback, origin_of
from stacker.registry.http.response import BrokenOffError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from stacker.registry.credentials import Credentials
    from stacker.registry.http.exchange import Exchange
    from stacker.registry.http.origin import Origin
    from stacker.registry.http.response import Answer


_TOKEN_BYTES = 1 << 20
_CLIENT = "stacker"
LOGIN_HINT = "`stacker login` asks for credentials; or name a file that has some with --authfile"


class Authenticator:
    """Meets the challenges of one registry for one scope.

    :param origin: the registry's; credentials go there and where it says tokens are had.
    :param scope: what a token is to allow, unless the challenge says.
    :param what: the repository's name for messages.
    """

    def __init__(
        self,
        exchange: Exchange,
        origin: Origin,
        *,
        credentials: Credentials | None,
        scope: str,
        what: str,
        insecure: bool,
    ) -> None:
        self._exchange = exchange
        self._origin = origin
        self._credentials = credentials
        self._scope = scope
        self._what = what
        self._insecure = insecure

    def answer(self, challenges: Sequence[Challenge]) -> str:
        """Return the Authorization header's value that meets one of `challenges`.

        :raises AuthenticationError: there are no credentials, they are refused, or no scheme of
            the challenges is known.
        :raises NetworkError: who gives out tokens cannot be reached.
        """
        schemes = {challenge.scheme: challenge for challenge in reversed(challenges)}
        if "bearer" in schemes:
            return f"Bearer {self._token(schemes['bearer'])}"
        if "basic" not in schemes:
            got = ", ".join(schemes) or "none"
            raise AuthenticationError(
                f"no way to log in: {self._what}: got {quoted(got)}, want Basic or Bearer"
            )
        if basic := self._basic():
            return basic
        raise AuthenticationError(
            f"credentials wanted: {self._what}: got none for {self._origin.host}", hint=LOGIN_HINT
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
        scope = widened(challenge.parameters.get("scope", ""), self._scope)
        if known and known.identity_token:
            answer = self._by_refresh(realm, service, scope, known.identity_token)
        else:
            answer = self._by_password(realm, service, scope)
        return self._read(answer)

    def _check(self, realm: str) -> None:
        """Refuse a token server that credentials would reach in the clear."""
        what = f"{self._what}: token server"
        origin = origin_of(realm, what)
        check_plain(origin, self._origin, what, insecure=self._insecure)
        if is_loopback(origin.host) and not is_loopback(self._origin.host):
            raise NetworkError(
                f"refused to ask: {what}: got {quoted(origin.host)}, want another machine"
            )

    def _by_password(self, realm: str, service: str, scope: str) -> Answer:
        query = [("service", service)] if service else []
        query += [("scope", part) for part in scope.split()]
        joint = "&" if "?" in realm else "?"
        basic = self._basic()
        headers = {"Authorization": basic} if basic else {}
        return self._exchange.get(f"{realm}{joint}{urlencode(query)}", headers)

    def _by_refresh(self, realm: str, service: str, scope: str, token: str) -> Answer:
        form = {
            "grant_type": "refresh_token",
            "service": service,
            "client_id": _CLIENT,
            "scope": scope,
            "refresh_token": token,
        }
        return self._exchange.post(realm, form)

    def _read(self, answer: Answer) -> str:
        what = f"{self._what}: token server"
        if answer.status in (400, 401, 403):
            answer.close()
            raise self._refused(answer.status)
        if answer.status != 200:
            answer.close()
            raise NetworkError(f"no token: {what}: got status {answer.status}, want 200")
        try:
            raw = answer.whole(_TOKEN_BYTES)
        except BrokenOffError as error:
            raise NetworkError(f"no token: {error.message}") from error
        document = parse_object(raw, what)
        token = document.get("token") or document.get("access_token")
        # It becomes a header: nothing in it may end the line.
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise NetworkError(f"no token: {what}: got an answer without one")
        return token

    def _refused(self, status: int) -> AuthenticationError:
        known = "credentials refused" if self._credentials else "credentials wanted"
        return AuthenticationError(
            f"{known}: {self._what}: the token server gave status {status}", hint=LOGIN_HINT
        )


def widened(asked: str, wanted: str) -> str:
    """Return the scopes of a challenge, those of the same object with what is wanted added.

    A registry challenges the first question, which is whether something is there, with the right
    to pull; who is going to push asks for that at once.  Its own words for an object stay.

    Source: distribution's "Token Scope Documentation".

    >>> widened("repository:app:pull", "repository:app:pull,push")
    'repository:app:pull,push'
    """
    name, _, actions = wanted.rpartition(":")
    scopes = []
    for scope in asked.split():
        of, _, had = scope.rpartition(":")
        if of and of == name:
            had = ",".join(dict.fromkeys([*had.split(","), *actions.split(",")]))
        scopes.append(f"{of}:{had}" if of else scope)
    return " ".join(scopes) or wanted


# FOLDED from stacker.registry.authentication
# """What a server asks of who wants in: the WWW-Authenticate header.
#
# In come header values, out come challenges.  How one is met is not known here.
# Source: RFC 9110, sections 11.3 and 11.6.1; distribution's token specification for ``Bearer``.
# """

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - the grammar's word, not a secret
_PARAMETER = re.compile(rf'({_TOKEN})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|({_TOKEN}))[ \t]*')
_SCHEME = re.compile(rf"({_TOKEN})(?:[ \t]+|(?=,|$))")
_ESCAPED = re.compile(r"\\(.)")
_LONGEST = 16 * 1024


@dataclass(frozen=True, slots=True)
class Challenge:
    """One scheme in lower case, such as ``bearer``, with its parameters; their names, too."""

    scheme: str
    parameters: Mapping[str, str] = field(default_factory=dict)


def parse_challenges(values: Iterable[str]) -> list[Challenge]:
    """Return the challenges of all WWW-Authenticate headers of an answer, in their order.

    What is malformed ends the reading of its header: what came before it counts.
    """
    return [challenge for value in values for challenge in _challenges(value[:_LONGEST])]


def _challenges(text: str) -> list[Challenge]:
    found: list[tuple[str, dict[str, str]]] = []
    at = 0
    while at < len(text):
        if text[at] in ", \t":
            at += 1
        elif found and (match := _PARAMETER.match(text, at)):
            name, quoted, plain = match.groups()
            value = plain if quoted is None else _ESCAPED.sub(r"\1", quoted)
            found[-1][1].setdefault(name.lower(), value)
            at = match.end()
        elif match := _SCHEME.match(text, at):
            found.append((match[1].lower(), {}))
            at = match.end()
        else:
            break
    return [Challenge(scheme, parameters) for scheme, parameters in found]
