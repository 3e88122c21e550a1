"""One question to an HTTP server and its answer: redirects, retries and time-outs.

In comes a URL with headers, out comes an `Answer` of whatever status.  What a registry is, and
who may ask it, is not known here; but credentials go to nobody else than whom they were meant
for, and nothing goes from https to http.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urljoin

import urllib3
from urllib3 import exceptions

import stacker
from stacker.errors import NetworkError
from stacker.registry.http.failures import is_certificate, reason
from stacker.registry.http.origin import check_plain, origin_of
from stacker.registry.http.pool import Connections
from stacker.registry.http.response import Answer, BrokenOffError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from urllib3.response import BaseHTTPResponse

    from stacker.registry.settings import RegistryAccess

_AGENT = f"stacker/{stacker.__version__}"
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_FOLLOWED = frozenset({"GET", "HEAD"})  # a body is for whom it was meant for
_MOST_REDIRECTS = 5
_BUSY = frozenset({429, 503})
_PASSING = frozenset({500, 502, 504}) | _BUSY  # RFC 9110: may be gone a moment later
_NOBODY_THERE = (
    exceptions.NewConnectionError,
    exceptions.ConnectTimeoutError,
    exceptions.SSLError,
    exceptions.ProxyError,
)
_AUTHORIZATION = "Authorization"
_FORM = "application/x-www-form-urlencoded"


class Exchange:
    """Connections to a registry and to the hosts it sends us to; not shared between processes.

    :param has_met: somebody is known to be there, so that trying again is worth while.
    """

    def __init__(self, access: RegistryAccess, what: str, *, has_met: bool = False) -> None:
        self._access = access
        self._what = what
        self._timeouts = access.timeouts
        self._has_met = has_met
        self._connections = Connections(access)

    def get(self, url: str, headers: Mapping[str, str]) -> Answer:
        """Ask for `url`, again where that may help, and follow redirects.

        :raises NetworkError: no answer, a redirect that leads astray, or a server that stays busy.
        """
        return self.ask("GET", url, headers)

    def post(self, url: str, form: Mapping[str, str]) -> Answer:
        """Send a form; a redirect of it is the answer, for forms hold secrets.

        :raises NetworkError: as `get`.
        """
        from urllib.parse import urlencode

        return self.ask("POST", url, {"Content-Type": _FORM}, urlencode(form).encode())

    def ask(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> Answer:
        """Ask with any method, again where that may help; GET and HEAD follow redirects.

        :param body: what is sent; the method must bear its being sent more than once.
        :raises NetworkError: as `get`.
        """
        return self._insist(method, url, headers, body)

    def once(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> Answer:
        """Ask as `ask` does, but a single time, and give the answer of a busy server, too.

        :raises BrokenOffError: no answer; whether the request arrived is not known.
        :raises NetworkError: a URL or a redirect that leads astray.
        """
        return self._follow(method, url, headers, body)

    def answers(self, url: str) -> bool:
        """Return whether a server speaks the scheme of `url` there; asks just once."""
        try:
            response = self._send("GET", url, {}, None)
        except BrokenOffError as error:
            return is_certificate(error)  # it speaks TLS: what it says is for the user to judge
        response.close()
        # Servers that expect TLS on a port say 400 to plain http, if anything.
        return not (url.startswith("http:") and response.status == 400)

    def close(self) -> None:
        """Close what is open."""
        self._connections.close()

    def _insist(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None
    ) -> Answer:
        attempt = 0
        while True:
            attempt += 1
            is_last = attempt >= self._timeouts.attempts
            try:
                answer = self._follow(method, url, headers, body)
            except BrokenOffError as error:
                if is_last or not self._may_pass(error):
                    raise NetworkError(error.message, hint=error.hint) from error
                pause = self._timeouts.pause(attempt)
            else:
                self._has_met = True
                if answer.status not in _PASSING:
                    return answer
                pause = self.pause(answer, attempt)
                answer.close()
                if is_last:
                    raise NetworkError(
                        f"registry busy: {self._what}: got status {answer.status} "
                        f"{attempt} times, want an answer"
                    )
            self._timeouts.sleep(pause)

    def _may_pass(self, error: BrokenOffError) -> bool:
        """Return whether another try may help: not where there never was anybody."""
        met = self._has_met or not isinstance(error.__cause__, _NOBODY_THERE)
        return met and not is_certificate(error)

    def pause(self, answer: Answer, attempt: int) -> float:
        """Return the seconds to wait: as the server asks (RFC 9110 section 10.2.3), or ours.

        :raises NetworkError: it asks for more than `Timeouts.max_wait`.
        """
        asked = answer.header("Retry-After") if answer.status in _BUSY else ""
        try:
            pause = urllib3.Retry().parse_retry_after(asked) if asked else None
        except (exceptions.InvalidHeader, ValueError, OverflowError):  # such as the year 99999
            pause = None
        if pause is None:
            return self._timeouts.pause(attempt)
        if pause > self._timeouts.max_wait:
            answer.close()
            raise NetworkError(
                f"registry busy: {self._what}: got status {answer.status} and the request to "
                f"wait {pause:.0f} s, want at most {self._timeouts.max_wait:.0f} s",
                hint="try again later",
            )
        return pause

    def _follow(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None
    ) -> Answer:
        first = origin_of(url, self._what)
        check_plain(
            first, first._replace(scheme="http"), self._what, insecure=self._access.insecure
        )
        here, kept = first, dict(headers)
        for _ in range(_MOST_REDIRECTS + 1):
            response = self._send(method, url, kept, body)
            target = response.headers.get("Location")
            if method not in _FOLLOWED or response.status not in _REDIRECTS or not target:
                return Answer(response, self._what, self._timeouts, redirected=here != first)
            response.close()
            url = self._joined(url, target)
            came_from, here = here, origin_of(url, self._what)
            check_plain(here, came_from, self._what, insecure=self._access.insecure)
            if here != came_from:
                kept.pop(_AUTHORIZATION, None)
        raise NetworkError(
            f"redirected in circles: {self._what}: got more than {_MOST_REDIRECTS} redirects"
        )

    def _joined(self, url: str, target: str) -> str:
        try:
            return urljoin(url, target)
        except ValueError:
            raise NetworkError(f"malformed redirect from the registry: {self._what}") from None

    def _send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None
    ) -> BaseHTTPResponse:
        try:
            return self._connections.to(origin_of(url, self._what)).request(
                method,
                url,
                body=body,
                # What is asked for is bytes with a digest: nobody is to compress them on the way.
                headers={"User-Agent": _AGENT, "Accept-Encoding": "identity", **headers},
                redirect=False,
                retries=False,
                preload_content=False,
                decode_content=False,
                timeout=self._timeout(method),
            )
        except (exceptions.HTTPError, OSError, UnicodeError) as error:
            raise BrokenOffError(
                f"cannot reach the registry: {self._what}: {reason(error)}", hint=_hint(error)
            ) from error

    def _timeout(self, method: str) -> urllib3.Timeout:
        timeouts = self._timeouts
        read = timeouts.commit if method == "PUT" else timeouts.read
        return urllib3.Timeout(connect=timeouts.connect, read=read)


def _hint(error: Exception) -> str | None:
    if is_certificate(error):
        return "install the registry's CA certificate, or name its directory with --cert-dir"
    return None
