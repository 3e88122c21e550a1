"""Whether a registry takes credentials, asked before they are kept.

In come a host and credentials, out comes an answer.  Where they are kept is `keyring`.
Source: distribution-spec 1.1, "Determining Support"; Docker Registry HTTP API V2, "API Version
Check".
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

from stacker.errors import AuthenticationError
from stacker.image.reference import Reference
from stacker.source.authentication import Authenticator
from stacker.source.challenge import parse_challenges
from stacker.source.client import base_of, refusal
from stacker.source.endpoint import origin_of
from stacker.source.exchange import Exchange

if TYPE_CHECKING:
    from stacker.source.access import Access
    from stacker.source.credentials import Credentials


def log_in(host: str, credentials: Credentials, access: Access) -> bool:
    """Ask the registry at ``HOST[:PORT]`` whether it takes credentials.

    :returns: ``False`` when it wants none, so that nobody knows whether they are right.
    :raises AuthenticationError: it does not take them.
    :raises NetworkError: it cannot be reached.
    :raises UsageError: `Access.conf` blocks it.
    """
    home = access.conf.home(Reference.parse(f"{host}/any"))
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
