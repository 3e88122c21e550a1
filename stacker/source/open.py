"""Open the source that a user names: ``oci:DIR[:TAG]``, ``docker://HOST/REPO`` and the like.

A location as text comes in; an open source goes out.  The transports are those of skopeo and
podman.
Source: containers-transports(5).
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from stacker.errors import IntegrityError, NotFoundError
from stacker.image.location import STDIN, parse_location
from stacker.source.files import Directory
from stacker.source.identify import wrong_transport
from stacker.source.layout import open_layout
from stacker.tar.limits import ARCHIVE_RATIO

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from stacker.image.location import ImageLocation
    from stacker.registry.settings import RegistryAccess
    from stacker.source.protocol import Source

_TRANSPORTS = ("oci", "oci-archive", "docker-archive", "docker")


def open_source(
    text: str,
    *,
    spool: Path,
    access: RegistryAccess | None = None,
    archive_ratio: int = ARCHIVE_RATIO,
) -> AbstractContextManager[Source]:
    """Yield the source that `text` names; it is closed when the context ends.

    :param spool: a directory into which a compressed archive is decompressed.
    :param access: how to reach registries; without credentials by default.
    :param archive_ratio: maximum decompressed bytes per byte of a compressed archive.
    :raises UsageError: unknown transport, no path, or several images and no name.
    :raises UnsupportedError: an unsupported format.
    :raises NotFoundError: no such file, directory or image.
    :raises IntegrityError: the source is malformed.
    :raises LayerError: a compressed archive exceeds the limit.
    :raises AuthenticationError: the registry refuses the request or the credentials.
    :raises NetworkError: the registry cannot be reached.
    """
    location = parse_location(text, _TRANSPORTS)
    if location.transport == "docker":
        return _registry(location.name, access)
    # A worker process may have another working directory.
    path = location.path if location.path in STDIN else os.path.abspath(location.path)
    if location.transport == "oci":
        return _directory(os.path.abspath(path), location)
    return _archive(path, location, spool, archive_ratio)


@contextmanager
def _registry(text: str, access: RegistryAccess | None) -> Iterator[Source]:
    from stacker.image.reference import Reference

    if access is not None:
        text = access.registries.expand_short_name(text)
    reference = Reference.parse(text)  # a malformed one need not load the HTTP library
    from stacker.registry.settings import RegistryAccess
    from stacker.source.registry_image import open_registry_image

    with open_registry_image(reference, access or RegistryAccess()) as source:
        yield source


@contextmanager
def _directory(path: str, location: ImageLocation) -> Iterator[Source]:
    what = location.what
    if not os.path.isdir(path):
        raise wrong_transport(location) or NotFoundError(f"no such directory: {what}")
    yield open_layout(Directory(path, what), location.name)


@contextmanager
def _archive(path: str, location: ImageLocation, spool: Path, ratio: int) -> Iterator[Source]:
    from stacker.source.docker_archive import open_docker
    from stacker.source.seekable import seekable
    from stacker.source.tar_files import (
        open_archive,  # loads the tar parser
    )

    if os.path.isdir(path) and (error := wrong_transport(location)):
        raise error
    with seekable(path, location.what, spool=spool, ratio=ratio) as plain:
        archive = open_archive(plain, location.what)
        opened = open_layout if location.transport == "oci-archive" else open_docker
        try:
            source = opened(archive, location.name)
        except IntegrityError:
            if error := wrong_transport(location):
                raise error from None
            raise
        yield source
