"""Send one HTTP request and return the response: redirects, retries and timeouts.

A URL with headers comes in; a `Response` of any status goes out.  Credentials go only to the origin
that they are meant for, and no redirect leads from HTTPS to HTTP.  This module does not use the
registry API.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING
from urllib.parse import urljoin

import urllib3
from urllib3 import exceptions

import stacker
from stacker.errors import NetworkError
from stacker.registry.http.failures import NO_ADDRESS, is_certificate, reason
from stacker.registry.http.origin import check_scheme, origin_of
from stacker.registry.http.pool import ConnectionPools
from stacker.registry.http.response import Response, TransferInterruptedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from urllib3.response import BaseHTTPResponse

    from stacker.registry.settings import RegistryAccess

_AGENT = f"stacker/{stacker.__version__}"
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_FOLLOWED = frozenset({"GET", "HEAD"})  # a request body is for the first server only
_MOST_REDIRECTS = 5
_BUSY = frozenset({429, 503})
_TRANSIENT = frozenset({500, 502, 504}) | _BUSY  # RFC 9110: another attempt may succeed
_UNREACHABLE = (
    exceptions.NewConnectionError,
    exceptions.ConnectTimeoutError,
    exceptions.SSLError,
    exceptions.ProxyError,
)
_AUTHORIZATION = "Authorization"
_FORM = "application/x-www-form-urlencoded"


class HttpSession:
    """Connections to a registry and to the hosts that it redirects to.

    Processes must not share a session; threads may.

    :param what: the repository's name for messages.
    :param was_reached: the server has answered before, so a failed connection is repeated.
    """

    def __init__(self, access: RegistryAccess, what: str, *, was_reached: bool = False) -> None:
        self._access = access
        self._what = what
        self._timeouts = access.timeouts
        self._was_reached = was_reached
        self._pools = ConnectionPools(access)

    def get(self, url: str, headers: Mapping[str, str]) -> Response:
        """Send a GET request; see `request`."""
        return self.request("GET", url, headers)

    def post(self, url: str, form: Mapping[str, str]) -> Response:
        """Send a form; see `request`.  A redirect is not followed, since forms hold secrets."""
        from urllib.parse import urlencode

        return self.request("POST", url, {"Content-Type": _FORM}, urlencode(form).encode())

    def request(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> Response:
        """Send a request, repeat it after transient failures, and follow redirects.

        :param method: an idempotent method, or one whose repetition does no harm; only GET and
            HEAD follow redirects.
        :raises NetworkError: no response, a refused redirect, or a server that stays busy.
        """
        attempt = 0
        while True:
            attempt += 1
            is_last = attempt >= self._timeouts.attempts
            try:
                response = self.request_once(method, url, headers, body)
            except TransferInterruptedError as error:
                if is_last or not self._is_transient(error):
                    raise NetworkError(error.message, hint=error.hint) from error
                pause = self._timeouts.pause(attempt)
            else:
                self._was_reached = True
                if response.status not in _TRANSIENT:
                    return response
                pause = self.pause(response, attempt)
                response.close()
                if is_last:
                    raise NetworkError(
                        f"registry busy: {self._what}: got status {response.status} "
                        f"{attempt} times, want 200",
                        hint="try again later",
                    )
            self._timeouts.sleep(pause)

    def request_once(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> Response:
        """Send a request a single time, and return the response of a busy server as well.

        :raises TransferInterruptedError: no response; the server may have received the request.
        :raises NetworkError: a malformed URL or a refused redirect.
        """
        first = origin_of(url, self._what)
        plain = first._replace(scheme="http")
        check_scheme(first, plain, self._what, insecure=self._access.insecure)
        here, sent = first, dict(headers)
        for _ in range(_MOST_REDIRECTS + 1):
            raw = self._send(method, url, sent, body)
            target = raw.headers.get("Location")
            if method not in _FOLLOWED or raw.status not in _REDIRECTS or not target:
                return Response(raw, self._what, self._timeouts, redirected=here != first)
            raw.close()
            url = self._joined(url, target)
            previous, here = here, origin_of(url, self._what)
            check_scheme(here, previous, self._what, insecure=self._access.insecure)
            if here != previous:
                sent.pop(_AUTHORIZATION, None)
        raise NetworkError(
            f"redirect loop: {self._what}: got more than {_MOST_REDIRECTS} redirects, want fewer"
        )

    def is_reachable(self, url: str) -> bool:
        """Return whether a server speaks the scheme of `url`; sends one request."""
        try:
            raw = self._send("GET", url, {}, None)
        except TransferInterruptedError as error:
            return is_certificate(error)  # it speaks TLS: the caller reports the certificate
        raw.close()
        # A server that expects TLS on the port answers 400 to plain HTTP, if at all.
        return not (url.startswith("http:") and raw.status == 400)

    def pause(self, response: Response, attempt: int) -> float:
        """Return the seconds to wait: the server's Retry-After, or our own backoff.

        Source: RFC 9110, section 10.2.3.

        :raises NetworkError: Retry-After exceeds `Timeouts.max_wait`.
        """
        asked = response.header("Retry-After") if response.status in _BUSY else ""
        try:
            pause = urllib3.Retry().parse_retry_after(asked) if asked else None
        except (exceptions.InvalidHeader, ValueError, OverflowError):  # such as the year 99999
            pause = None
        if pause is None:
            return self._timeouts.pause(attempt)
        if pause > self._timeouts.max_wait:
            response.close()
            raise NetworkError(
                f"registry busy: {self._what}: got status {response.status} with a Retry-After "
                f"of {pause:.0f} s, want at most {self._timeouts.max_wait:.0f} s",
                hint="try again later",
            )
        return pause

    def close(self) -> None:
        """Close all connections."""
        self._pools.close()

    def _is_transient(self, error: TransferInterruptedError) -> bool:
        """Return whether to retry: not if the server never answered, or its certificate is bad."""
        reached = self._was_reached or not isinstance(error.__cause__, _UNREACHABLE)
        return reached and not is_certificate(error)

    def _joined(self, url: str, target: str) -> str:
        try:
            return urljoin(url, target)
        except ValueError:
            raise NetworkError(
                f"malformed redirect: {self._what}: got a malformed Location, want a URL"
            ) from None

    def _send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None
    ) -> BaseHTTPResponse:
        try:
            return self._pools.pool_for(origin_of(url, self._what)).request(
                method,
                url,
                body=body,
                # A digest is over the bytes as stored: no server or proxy may compress them.
                headers={"User-Agent": _AGENT, "Accept-Encoding": "identity", **headers},
                redirect=False,
                retries=False,
                preload_content=False,
                decode_content=False,
                timeout=self._timeout(method),
            )
        except (exceptions.HTTPError, OSError, UnicodeError) as error:
            raise TransferInterruptedError(
                f"cannot reach the registry: {self._what}: {reason(error)}", hint=_hint(error)
            ) from error

    def _timeout(self, method: str) -> urllib3.Timeout:
        timeouts = self._timeouts
        read = timeouts.commit if method == "PUT" else timeouts.read
        return urllib3.Timeout(connect=timeouts.connect, read=read)


def _hint(error: Exception) -> str | None:
    if is_certificate(error):
        return "install the registry's CA certificate, or name its directory with --cert-dir"
    if reason(error) == NO_ADDRESS:
        return "check the spelling of the host, the network, and /etc/resolv.conf"
    if reason(error) == os.strerror(errno.ECONNREFUSED):
        return "check the host and the port of the registry"
    return None
