"""Explain in one phrase why an HTTP connection failed.

An exception of urllib3, http.client or ssl comes in; a phrase for a message goes out.  The phrase
never contains a URL, because a URL may carry a signature, and never a library's own text.  This
module must not open connections or decide whether to retry.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from urllib3 import exceptions

if TYPE_CHECKING:
    from collections.abc import Iterator
    from ssl import SSLCertVerificationError, SSLError

_TUNNEL = re.compile(r"Tunnel connection failed: (\d{3})")  # http.client's text
NO_ADDRESS = "the host's name has no address"
_UNTRUSTED = "its certificate is not signed by a trusted CA"
# OpenSSL's X509_V_ERR_* numbers, x509_vfy.h.
_CERTIFICATE_FAULTS = {
    9: "its certificate is not valid yet",
    10: "its certificate has expired",
    18: _UNTRUSTED,
    19: _UNTRUSTED,
    20: _UNTRUSTED,
    21: _UNTRUSTED,
    62: "its certificate is for another host name",
    64: "its certificate is for another IP address",
}
# OpenSSL's reasons as `SSLError.reason` has them; alerts are the server's (RFC 8446, section 6.2).
_TLS_FAULTS = {
    "WRONG_VERSION_NUMBER": "the server does not speak TLS on this port",
    "HTTP_REQUEST": "the server does not speak TLS on this port",
    "UNSUPPORTED_PROTOCOL": "client and server have no TLS version in common",
    "TLSV1_ALERT_PROTOCOL_VERSION": "client and server have no TLS version in common",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "client and server have no TLS parameters in common",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "the server requires a client certificate",
    "TLSV1_ALERT_UNKNOWN_CA": "the server does not trust the client certificate",
    "SSLV3_ALERT_BAD_CERTIFICATE": "the server does not accept the client certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "the client certificate has expired",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "the server does not accept the client certificate",
    "UNEXPECTED_EOF_WHILE_READING": "the server closed the connection",
}


def reason(error: Exception) -> str:
    """Return in a few words why a connection failed."""
    if refusal := _tunnel_refusal(error):
        return refusal
    if isinstance(error, exceptions.ProxyError):
        return f"the proxy: {_reason(error.original_error)}"
    return _reason(error)


def is_certificate(error: BaseException) -> bool:
    """Return whether the server's certificate is at fault, so that another attempt is useless."""
    return _certificate_error(error) is not None


def _reason(error: Exception) -> str:
    match error:
        case exceptions.NameResolutionError():
            return NO_ADDRESS
        case exceptions.NewConnectionError():
            return _innermost(error, "no connection")
        case exceptions.ConnectTimeoutError():
            return "the connection timed out"
        case exceptions.ReadTimeoutError() | TimeoutError():
            return "no data arrived in time"
        case exceptions.IncompleteRead():
            return "the body ended early"
        case _:
            return _innermost(error, "the server closed the connection")


def _tunnel_refusal(error: BaseException) -> str:
    """Return the status of a proxy that refuses CONNECT, empty for any other error."""
    for cause in _causes(error):
        found = _TUNNEL.match(str(cause.args[0])) if cause.args else None
        if isinstance(cause, OSError) and found:
            return f"the proxy gave status {found[1]}"
    return ""


def _innermost(error: BaseException, otherwise: str) -> str:
    """Return the reason of TLS or of the kernel for an error that urllib3 has wrapped."""
    from ssl import SSLError

    if certificate := _certificate_error(error):
        return _CERTIFICATE_FAULTS.get(certificate.verify_code, "its certificate is not valid")
    for cause in _causes(error):
        if isinstance(cause, SSLError):
            return _tls_fault(cause)
        if isinstance(cause, OSError) and cause.strerror:
            return str(cause.strerror)
    return otherwise


def _tls_fault(error: SSLError) -> str:
    name = error.reason or ""
    return _TLS_FAULTS.get(name) or f"TLS failed ({name.lower().replace('_', ' ') or 'no reason'})"


def _certificate_error(error: BaseException) -> SSLCertVerificationError | None:
    from ssl import SSLCertVerificationError

    found = (cause for cause in _causes(error) if isinstance(cause, SSLCertVerificationError))
    return next(found, None)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and the errors inside it, outermost first.

    urllib3 keeps the original error as a cause, as a context or as an argument.
    """
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or found.__context__ or _argument(found)


def _argument(error: BaseException) -> BaseException | None:
    return next((a for a in error.args if isinstance(a, BaseException) and a is not error), None)
