"""Open the destination that a user names: ``docker://HOST/REPO``, ``oci:DIR`` and the like.

A location as text comes in; an open destination goes out.  The transports are those of
`stacker.source.open`.
Source: containers-transports(5).
"""

from __future__ import annotations

import os
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from stacker.errors import UsageError
from stacker.image.document import quoted
from stacker.image.location import STDOUT, parse_location

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from typing import BinaryIO

    from stacker.destination.protocol import Destination
    from stacker.image.location import ImageLocation
    from stacker.registry.settings import RegistryAccess

_TRANSPORTS = ("docker", "oci", "oci-archive", "docker-archive")


def open_destination(
    text: str,
    *,
    access: RegistryAccess,
    umask: int = 0o022,
    stdout: BinaryIO | None = None,
    image_name: str = "",
) -> AbstractContextManager[Destination]:
    """Yield the destination that `text` names; it is closed when the context ends.

    :param umask: the permissions that new files of a layout or an archive do not get.
    :param stdout: receives an archive with the path ``-``; ``None`` refuses it.
    :param image_name: how the user named the image: its name in a docker archive, if `text` has
        none.
    :raises UsageError: unknown transport, no path, a digest, or an existing file.
    :raises NetworkError: the registry cannot be reached.
    :raises StackerError: the destination cannot be written.
    """
    location = parse_location(text, _TRANSPORTS, writes=True)
    if location.transport == "docker":
        return _repository(location.name, access)
    if location.transport == "oci":
        return _directory(location, umask)
    return _archive(location, umask, stdout, image_name)


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
def _directory(location: ImageLocation, umask: int) -> Iterator[Destination]:
    from stacker.destination.layout import open_layout_directory

    path, what = os.path.abspath(location.path), location.what
    with open_layout_directory(path, location.name, what, umask=umask) as layout:
        yield layout


@contextmanager
def _archive(
    location: ImageLocation, umask: int, stdout: BinaryIO | None, image_name: str
) -> Iterator[Destination]:
    from stacker.destination.archive import LayoutArchive
    from stacker.destination.docker_archive import DockerArchive, implied_name, repo_tag
    from stacker.destination.output_file import output_file

    name, what = location.name, location.what
    is_docker = location.transport == "docker-archive"
    if is_docker:
        name = repo_tag(name) if name else implied_name(image_name)
    if location.path not in STDOUT:
        opened: AbstractContextManager[BinaryIO] = output_file(
            os.path.abspath(location.path), what, umask=umask
        )
    elif stdout is not None:
        opened = nullcontext(stdout)
    else:
        raise UsageError(f"cannot write to stdout: {what}", hint="name a file")
    with opened as file:
        yield (DockerArchive if is_docker else LayoutArchive)(file, name, what)
