"""Complete the name of a source or a destination: without a transport, it is in a registry.

Text such as ``app:1.0`` or ``./image.tar`` comes in; the same text with a transport goes out, or an
error that names the transport of the file.  This module reads the first headers of a file, and
never a whole archive.
"""

from __future__ import annotations

import os
import re
from itertools import islice
from typing import TYPE_CHECKING

from stacker.errors import StackerError, UsageError, shell_word
from stacker.image.document import quoted
from stacker.image.location import REGISTRY_TRANSPORT, TRANSPORTS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stacker.image.location import ImageLocation

_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.zst", ".tzst", ".oci")
_KINDS = {
    "oci": "a directory with an OCI image layout",
    "oci-archive": "an archive of an OCI image layout",
    "docker-archive": "a docker archive",
}
_MOST_NAMES = 20  # that are read; the members before them are skipped
_IN_LAYOUT = re.compile(b"oci-layout|index.json|blobs")
_IN_DOCKER_ARCHIVE = re.compile(rb"manifest\.json|repositories|[0-9a-f]{64}(\.json|\.tar)?")


def complete_source(text: str) -> str:
    """Return a source with its transport; a name without one is in a registry.

    :raises UsageError: the text is a path.
    """
    if not text or has_transport(text):
        return text
    if not (_has_path_prefix(text) or (text.endswith(_SUFFIXES) and os.path.exists(text))):
        return f"{REGISTRY_TRANSPORT}{text}"
    found = transport_of(text)
    raise _no_transport(
        text,
        f"write {found}:{shell_word(text)}"
        if found
        else "the path is neither an image layout nor an archive of one",
    )


def complete_destination(text: str) -> str:
    """Return a destination with its transport; a name without one is in a registry.

    :raises UsageError: the text is a path.
    """
    if not text or has_transport(text):
        return text
    is_archive = text.endswith(_SUFFIXES)
    if not (is_archive or _has_path_prefix(text)):
        return f"{REGISTRY_TRANSPORT}{text}"
    transport = "oci-archive" if is_archive else "oci"
    raise _no_transport(text, f"write {transport}:{shell_word(text)}")


def wrong_transport(location: ImageLocation) -> UsageError | None:
    """Return the error for a path that another transport can read, ``None`` for any other path."""
    found = transport_of(location.path)
    if found is None or found == location.transport:
        return None
    name = f":{location.name}" if location.name else ""
    return UsageError(
        f"wrong transport: {location.what}: got {_KINDS[found]}, want {_KINDS[location.transport]}",
        hint=f"write {found}:{shell_word(location.path)}{name}",
    )


def transport_of(path: str) -> str | None:
    """Return the transport that can read a file or a directory; ``None`` if nothing can."""
    if os.path.isdir(path):
        return "oci" if os.path.exists(os.path.join(path, "oci-layout")) else None
    try:
        for name in islice(_names(path), _MOST_NAMES):
            if _IN_LAYOUT.fullmatch(name):
                return "oci-archive"
            if _IN_DOCKER_ARCHIVE.fullmatch(name):
                return "docker-archive"
    except (OSError, StackerError):
        pass
    return None


def has_transport(text: str) -> bool:
    """Return whether a text starts with a transport, perhaps an unknown one."""
    transport, colon, rest = text.partition(":")
    is_path = rest.startswith(("/", "."))  # no tag starts like that
    return bool(colon) and (transport in TRANSPORTS or is_path)


def _has_path_prefix(text: str) -> bool:
    return text.startswith(("/", "./", "../", "~/")) or text in {".", ".."}


def _no_transport(text: str, hint: str) -> UsageError:
    return UsageError(f"no transport: {quoted(text)}: got a path, want TRANSPORT:PATH", hint=hint)


def _names(path: str) -> Iterator[bytes]:
    """Yield the first component of each name in an archive."""
    from stacker.stream.compression import decompressed, read_chunks
    from stacker.tar.reader import TarReader

    with open(path, "rb") as file:
        for entry in TarReader(decompressed(read_chunks(file), what=path), what=path):
            yield entry.path.partition(b"/")[0]
