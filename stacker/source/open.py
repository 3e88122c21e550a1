"""What a person writes to say where an image is: ``oci:DIR[:TAG]``, ``docker://…`` and siblings.

In comes that text, out comes an open source.  The words are those of skopeo and podman.
Source: containers-transports(5).
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from stacker.errors import NotFoundError
from stacker.image.location import parse_location
from stacker.source.files import Directory
from stacker.source.layout import open_layout

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from stacker.image.location import ImageLocation
    from stacker.registry.settings import RegistryAccess
    from stacker.source.protocol import Source

_TRANSPORTS = ("oci", "oci-archive", "docker-archive", "docker")


def open_source(
    text: str, *, spool: Path, access: RegistryAccess | None = None
) -> AbstractContextManager[Source]:
    """Open the source that `text` names; it can be read until the context ends.

    The path ends at the first colon; what follows is the tag or the name, colons included.

    :param spool: a directory with room for an archive that must be decompressed first.
    :param access: how registries may be reached; without credentials when left out.
    :raises UsageError: no such transport, no path, or several images and no name.
    :raises UnsupportedError: a form this program does not read.
    :raises NotFoundError: no such file, directory or image.
    :raises IntegrityError: something there is malformed.
    :raises AuthenticationError: a registry wants credentials, or better ones.
    :raises NetworkError: a registry cannot be reached.
    """
    location = parse_location(text, _TRANSPORTS)
    if location.transport == "docker":
        return _registry(location.name, access)
    # A worker may have another working directory.
    path = os.path.abspath(location.path)
    if location.transport == "oci":
        return _directory(path, location.name, location.what)
    return _archive(path, location, spool)


@contextmanager
def _registry(text: str, access: RegistryAccess | None) -> Iterator[Source]:
    from stacker.image.reference import Reference

    if access is not None:
        text = access.registries.expand_short_name(text)
    reference = Reference.parse(text)  # before the HTTP library, which takes its time to load
    from stacker.registry.settings import RegistryAccess
    from stacker.source.registry_image import open_registry_image

    with open_registry_image(reference, access or RegistryAccess()) as source:
        yield source


@contextmanager
def _directory(path: str, tag: str, what: str) -> Iterator[Source]:
    if not os.path.isdir(path):
        raise NotFoundError(f"no such directory: {what}")
    yield open_layout(Directory(path, what), tag)


@contextmanager
def _archive(path: str, location: ImageLocation, spool: Path) -> Iterator[Source]:
    from stacker.source.docker_archive import open_docker
    from stacker.source.seekable import seekable
    from stacker.source.tar_files import (
        open_archive,  # the tar parser, which a layout can do without
    )

    with seekable(path, location.what, spool=spool) as plain:
        archive = open_archive(plain, location.what)
        opened = open_layout if location.transport == "oci-archive" else open_docker
        yield opened(archive, location.name)
