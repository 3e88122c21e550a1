"""Parse what a user writes to name an image outside of the store: ``TRANSPORT:…``.

Text such as ``oci:./layout:1.0`` or ``docker://registry.example/app`` comes in; an `ImageLocation`
goes out.  This module must not open files, read the working directory or connect to a registry.
Source: containers-transports(5).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stacker.errors import StackerError, UsageError, shell_word
from stacker.image.document import quoted

if TYPE_CHECKING:
    from collections.abc import Sequence

REGISTRY_TRANSPORT = "docker://"
"""The prefix of a reference to an image in a registry."""

STDOUT = ("-", "/dev/stdout")
"""The paths of an archive to write that mean stdout."""
STDIN = ("-", "/dev/stdin")
"""The paths of an archive to read that mean stdin."""
TRANSPORTS = (
    *("oci", "oci-archive", "docker-archive", "docker"),
    *("docker-daemon", "containers-storage", "dir"),  # of other programs
)
"""The words that are a transport before a colon, and not the name of an image."""

_ARCHIVES = ("oci-archive", "docker-archive")
_FOREIGN = ("docker-daemon", "containers-storage")
_DIGITS = frozenset("0123456789abcdef")
_EXAMPLES = {
    "docker": "docker://HOST/REPO[:TAG] as in docker://registry.example/app:1.0",
    "oci": "oci:DIR[:TAG] as in oci:./layout:1.0",
    "oci-archive": "oci-archive:FILE[:TAG] as in oci-archive:image.tar:1.0",
    "docker-archive": "docker-archive:FILE[:NAME] as in docker-archive:saved.tar.gz:app:1.0",
}


@dataclass(frozen=True, slots=True)
class ImageLocation:
    """Where an image is read from or written to.

    :param transport: ``docker``, ``oci``, ``oci-archive`` or ``docker-archive``.
    :param path: the path as written, absolute or relative; empty for ``docker``.
    :param name: the tag or name in the layout or archive, may be empty; for ``docker`` the whole
        reference.
    """

    transport: str
    path: str
    name: str

    @property
    def what(self) -> str:
        """The location without the tag, for messages; printable."""
        return f"{self.transport}:{quoted(self.path)[1:-1]}"


def parse_location(text: str, transports: Sequence[str], *, writes: bool = False) -> ImageLocation:
    """Return the location that `text` names.

    The path ends at the first colon; the rest is the tag or name and may contain colons.

    :param transports: the transports that the caller accepts, in the order of the hint.
    :param writes: the location is a destination.
    :raises UsageError: another transport, or no path.
    """
    if "docker" in transports and is_in_registry(text):
        return ImageLocation("docker", "", text.removeprefix(REGISTRY_TRANSPORT))
    transport, colon, rest = text.partition(":")
    hint = f"write {', '.join(_EXAMPLES[one] for one in transports)}"
    if transport in _FOREIGN:
        raise _foreign(text, writes=writes)
    if not colon or transport == "docker" or transport not in transports:
        raise UsageError(f"unknown transport: {quoted(text)}", hint=hint)
    path, _, name = rest.partition(":")
    if not path or "\0" in path:
        raise UsageError(f"no path: {quoted(text)}", hint=hint)
    return ImageLocation(transport, path, name)


def _foreign(text: str, *, writes: bool) -> UsageError:
    """Return the error for the storage of another engine, which skopeo can copy."""
    word, archive = shell_word(text), "oci-archive:image.tar"
    hint = f"`skopeo copy {word} {archive}` writes an archive that stacker reads as {archive}"
    if writes:
        hint = f"write {archive}, then `skopeo copy {archive} {word}` copies the image"
    transport = text.partition(":")[0]
    return UsageError(
        f"unsupported transport: {quoted(text)}: stacker has no access to {transport}", hint=hint
    )


def is_archive_on(text: str, paths: Sequence[str]) -> bool:
    """Return whether `text` names an archive whose path is in `STDIN` or `STDOUT`."""
    transport, _, rest = text.partition(":")
    return transport in _ARCHIVES and rest.partition(":")[0] in paths


def is_in_registry(text: str) -> bool:
    """Return whether `text` names an image in a registry."""
    return text.startswith(REGISTRY_TRANSPORT)


def pull_hint(text: str) -> str | None:
    """Return a hint to pull the image `text`; ``None`` for an ID, or if `text` is malformed."""
    from stacker.image.reference import complete_name

    if set(text.removeprefix("sha256:")) <= _DIGITS:
        return None
    if text.partition(":")[0] not in TRANSPORTS:
        try:
            complete_name(text)
        except StackerError:
            return None
    return f"`stacker pull {shell_word(text)}` pulls an image; `stacker images` lists those pulled"


def repository_of(text: str) -> str:
    """Return the ``HOST/REPO`` of an image in a registry, empty for any other location."""
    from stacker.image.reference import Reference

    if not is_in_registry(text):
        return ""
    try:
        return Reference.parse(text.removeprefix(REGISTRY_TRANSPORT)).name
    except StackerError:
        return ""
