"""References: names of images in registries.

Text such as ``registry.example:5000/team/app:1.0@sha256:…`` comes in; a `Reference` goes out.  This
module does not connect to a registry.
Source: distribution-spec, "Pulling manifests"; distribution's reference grammar.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from stacker.errors import IntegrityError, UsageError
from stacker.image.digest import Digest
from stacker.image.document import quoted

DEFAULT_TAG = "latest"

_LABEL = "[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"
_HOST = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-f:.]+\])(?::[0-9]{{1,5}})?")
_PART = "[a-z0-9]+(?:(?:[.]|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_PART}(?:/{_PART})*")
_TAG = re.compile("[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_LONGEST = 255  # characters of host and repository together, in distribution's grammar
_FORM = "write HOST[:PORT]/REPO[:TAG][@DIGEST], for example registry.example/team/app:1.0"


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
        """Return the reference written as ``HOST[:PORT]/REPO[:TAG][@DIGEST]``.

        Without tag and digest the tag is ``latest``.  There is no default registry: the host has
        a dot or a port, or is ``localhost``.

        :raises UsageError: the text is malformed, or does not start with a host.
        """
        name, at, digest = text.partition("@")
        host, _, path = name.partition("/")
        repository, colon, tag = path.partition(":")
        host = host.lower()
        _check_host(host, text)
        if not _REPOSITORY.fullmatch(repository) or len(host) + len(repository) >= _LONGEST:
            raise _malformed(text, "repository", repository, "lowercase words and slashes")
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


def _check_host(host: str, text: str) -> None:
    if not _HOST.fullmatch(host) or not _is_address(host):
        raise _malformed(text, "host", host, "a name or an address, and perhaps a port")
    # Other programs take such a name for a directory of their default registry.
    if not any(mark in host for mark in ".:") and host != "localhost":
        raise _malformed(text, "host", host, "one with a dot or a port")
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


def _malformed(text: str, part: str, got: str, want: str) -> UsageError:
    return UsageError(
        f"malformed reference: {quoted(text)}: {part}: got {quoted(got)}, want {want}", hint=_FORM
    )
