"""References: names of images in registries.

Text such as ``registry.example:5000/team/app:1.0@sha256:…`` comes in; a `Reference` goes out.  A
name without a registry is completed as Docker completes it.  This module does not connect to a
registry.
Source: distribution-spec, "Pulling manifests"; distribution's reference grammar, "normalize.go".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from stacker.errors import IntegrityError, UsageError
from stacker.image.digest import Digest
from stacker.image.document import quoted

DEFAULT_TAG = "latest"
DEFAULT_REGISTRY = "docker.io"
"""The registry of a name without one.  Its images without a namespace are in ``library/``."""
_OLD_DEFAULT_REGISTRY = "index.docker.io"

_LABEL = "[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"
_HOST = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-f:.]+\])(?::[0-9]{{1,5}})?")
_PART = "[a-z0-9]+(?:(?:[.]|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_PART}(?:/{_PART})*")
_TAG = re.compile("[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_LONGEST = 255  # characters of host and repository together, in distribution's grammar
_FORM = "write [HOST[:PORT]/]REPO[:TAG][@DIGEST], for example registry.example/team/app:1.0"


@dataclass(frozen=True, slots=True)
class Reference:
    """An image in a repository of a registry.

    :param host: with the port, if there is one.
    :param tag: only informative if there is a digest.
    """

    host: str
    repository: str
    tag: str = ""
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the reference written as ``[HOST[:PORT]/]REPO[:TAG][@DIGEST]``.

        Without tag and digest the tag is ``latest``.  The first component is a host if it has a dot
        or a port, or is ``localhost``; without a host, the registry is `DEFAULT_REGISTRY`.

        :raises UsageError: the text is malformed.
        """
        name, at, digest = text.partition("@")
        host, path = _split(name)
        _check_host(host, text)
        repository, colon, tag = path.partition(":")
        if host == DEFAULT_REGISTRY and "/" not in repository:
            repository = f"library/{repository}"
        if not _REPOSITORY.fullmatch(repository) or len(host) + len(repository) >= _LONGEST:
            raise _malformed_repository(text, path.partition(":")[0])
        if colon and not _TAG.fullmatch(tag):
            raise _malformed(text, "tag", tag, "up to 128 of letters, digits, '_', '.' and '-'")
        if at:
            return cls(host, repository, tag, _digest(digest, text))
        return cls(host, repository, tag or DEFAULT_TAG)

    @property
    def name(self) -> str:
        """The host and the repository, without tag and digest."""
        return f"{self.host}/{self.repository}"

    @property
    def target(self) -> str:
        """What to request the manifest by: the digest if there is one, else the tag."""
        return str(self.digest) if self.digest else self.tag

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.name}{tag}" + (f"@{self.digest}" if self.digest else "")


def complete_name(text: str) -> str:
    """Return a local name of an image with its tag, for example ``app:latest`` for ``app``.

    :param text: ``[HOST[:PORT]/]REPO[:TAG]``; a missing host stays missing.
    :raises UsageError: the text is malformed, or has a digest.
    """
    reference = Reference.parse(text)
    if reference.digest is not None:
        raise UsageError(
            f"malformed name: {quoted(text)}: got a digest, want [HOST[:PORT]/]REPO[:TAG]",
            hint="a name without a digest can move to another image",
        )
    return text if text.endswith(f":{reference.tag}") else f"{text}:{reference.tag}"


def spellings(text: str) -> tuple[str, ...]:
    """Return the names that a user may mean by a text, most exact first.

    >>> spellings("app")
    ('app', 'app:latest', 'docker.io/library/app:latest')
    """
    try:
        reference = Reference.parse(text)
    except UsageError:  # for example the tag of a layout
        return (text,) if ":" in text else (text, f"{text}:{DEFAULT_TAG}")
    tagged = () if reference.digest else (f"{text}:{reference.tag}",)
    is_tagged = text.endswith(f":{reference.tag}")
    return tuple(dict.fromkeys((text, *(() if is_tagged else tagged), str(reference))))


def has_host(text: str) -> bool:
    """Return whether a name starts with a registry's host."""
    first, slash, _ = text.partition("/")
    return bool(slash) and (any(mark in first for mark in ".:[") or first == "localhost")


def _split(name: str) -> tuple[str, str]:
    """Return the host and the rest of a name."""
    if not has_host(name):
        return DEFAULT_REGISTRY, name
    first, _, rest = name.partition("/")
    host = first.lower()
    return DEFAULT_REGISTRY if host == _OLD_DEFAULT_REGISTRY else host, rest


def _check_host(host: str, text: str) -> None:
    if not _HOST.fullmatch(host) or not _is_address(host):
        raise _malformed(text, "host", host, "a name or an address, and perhaps a port")
    _, _, port = host.rpartition("]")[2].partition(":")
    if port and not 0 < int(port) < 1 << 16:
        raise _malformed(text, "port", port, "1 to 65535")


def _is_address(host: str) -> bool:
    """Return whether brackets contain an IPv6 address (RFC 3986, section 3.2.2)."""
    from ipaddress import IPv6Address

    if not host.startswith("["):
        return True
    try:
        IPv6Address(host[1:].partition("]")[0])
    except ValueError:
        return False
    return True


def _digest(digest: str, text: str) -> Digest:
    try:
        return Digest.parse(digest)
    except IntegrityError:
        raise _malformed(text, "digest", digest, "sha256:…") from None


def _malformed_repository(text: str, got: str) -> UsageError:
    error = _malformed(text, "repository", got, "lowercase words and slashes")
    if _REPOSITORY.fullmatch(got.lower()) and got != got.lower():
        error.hint = f"names of images are lowercase: {quoted(text.replace(got, got.lower(), 1))}"
    return error


def _malformed(text: str, part: str, got: str, want: str) -> UsageError:
    return UsageError(
        f"malformed reference: {quoted(text)}: {part}: got {quoted(got)}, want {want}", hint=_FORM
    )
