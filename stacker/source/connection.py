"""A client for the repository that a reference names, with the credentials that are known for it.

In come a reference and how registries may be reached, out comes a `Client`.  What is asked of it
is not known here.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from stacker.source.client import Client, base_of
from stacker.source.credentials import find_credentials

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stacker.source.access import Access
    from stacker.source.registries_conf import Place


@contextmanager
def connected(place: Place, access: Access, *, actions: str = "pull") -> Iterator[Client]:
    """Give a client of one place, whose connections are closed at the end; see `client_at`.

    For what only the registry itself can be asked: `RegistriesConf.home` says where that is.
    """
    client = client_at(place, access, actions=actions)
    try:
        yield client
    finally:
        client.close()


def client_at(place: Place, access: Access, *, actions: str = "pull") -> Client:
    """Return a client of the repository at `place`.

    :param actions: what a token shall allow: ``pull``, or ``pull,push``.
    :raises NetworkError: the registry cannot be reached.
    :raises StackerError: files with credentials cannot be read.
    """
    reference = place.reference
    access = replace(access, insecure=access.insecure or place.insecure)
    return Client(
        base_of(reference.host, access, reference.place),
        reference.repository,
        access=access,
        credentials=find_credentials(access.auth_files, reference.host, reference.repository),
        actions=actions,
    )
