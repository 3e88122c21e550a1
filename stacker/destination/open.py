"""Open the destination that a user names: ``docker://HOST/REPO``, ``oci:DIR`` and the like.

A location as text comes in; an open destination goes out.  The transports are those of
`stacker.source.open`, except ``docker-archive``.
Source: containers-transports(5).
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from stacker.errors import UsageError
from stacker.image.document import quoted
from stacker.image.location import parse_location

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from stacker.destination.protocol import Destination
    from stacker.image.location import ImageLocation
    from stacker.registry.settings import RegistryAccess

_TRANSPORTS = ("docker", "oci", "oci-archive")


def open_destination(
    text: str, *, access: RegistryAccess, umask: int = 0o022
) -> AbstractContextManager[Destination]:
    """Yield the destination that `text` names; it is closed when the context ends.

    :param umask: the permissions that new files of a layout or an archive do not get.
    :raises UsageError: unknown transport, no path, a digest, or an existing file.
    :raises NetworkError: the registry cannot be reached.
    :raises StackerError: the destination cannot be written.
    """
    location = parse_location(text, _TRANSPORTS)
    if location.transport == "docker":
        return _repository(location.name, access)
    return _files(location, os.path.abspath(location.path), umask)


@contextmanager
def _repository(text: str, access: RegistryAccess) -> Iterator[Destination]:
    from stacker.image.reference import Reference

    reference = Reference.parse(text)  # a malformed one need not load the HTTP library
    if reference.digest is not None:
        raise UsageError(
            f"cannot push to a digest: {quoted(text)}",
            hint="name a tag: the digest depends on the content",
        )
    from stacker.destination.registry import open_repository

    with open_repository(reference, access) as repository:
        yield repository


@contextmanager
def _files(location: ImageLocation, path: str, umask: int) -> Iterator[Destination]:
    if location.transport == "oci":
        from stacker.destination.layout import open_layout_directory

        with open_layout_directory(path, location.name, location.what, umask=umask) as layout:
            yield layout
        return
    from stacker.destination.archive import open_layout_archive

    with open_layout_archive(path, location.name, location.what, umask=umask) as archive:
        yield archive
