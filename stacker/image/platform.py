"""Platforms: operating system, architecture and variant that an image is built for.

Text such as ``linux/arm64/v8`` or the machine of uname(2) comes in; a `Platform` goes out.  `rank`
orders the offered platforms by how well they match the wanted one.  `selection` chooses among the
entries of an index.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from stacker.errors import UsageError
from stacker.image.document import as_object, optional, quoted, required

_WORD = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_.-")
_MOST_WORDS = 3

# Names of uname, Debian and users → GOARCH and variant in images.
_ALIASES = {
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "aarch64": ("arm64", ""),
    "armv8l": ("arm", "v8"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "armv5tel": ("arm", "v5"),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "i386": ("386", ""),
    "i486": ("386", ""),
    "i586": ("386", ""),
    "i686": ("386", ""),
    "ppc64el": ("ppc64le", ""),
    "loongarch64": ("loong64", ""),
}
_SYSTEMS = {"linux", "windows", "darwin", "freebsd"}  # alone, they lack an architecture
# Lowest variant, and the default; a machine runs its own variant and all lower ones.
_VARIANTS = {"amd64": (1, 1), "arm": (5, 7), "arm64": (8, 8)}


@dataclass(frozen=True, slots=True)
class Platform:
    """A platform in terms of GOOS and GOARCH (image-spec image-index.md)."""

    os: str
    architecture: str
    variant: str = ""
    os_version: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the platform that a user writes as ``[OS/]ARCH[/VARIANT][:OSVERSION]``.

        The architecture may be an alias, such as ``x86_64``.  A single word is an architecture of
        Linux.

        :raises UsageError: another number of words, or other characters than letters, digits,
            ``_``, ``.`` and ``-``.
        """
        name, colon, version = text.lower().partition(":")
        words = name.split("/")
        if len(words) == 1 and name not in _SYSTEMS:
            words.insert(0, "linux")
        if not 1 < len(words) <= _MOST_WORDS or not all(
            _is_word(word) for word in (*words, *([version] if colon else []))
        ):
            raise UsageError(
                f"malformed platform: got {quoted(text)}, want [OS/]ARCH[/VARIANT][:OSVERSION]",
                hint="for example linux/amd64, linux/arm/v7 or windows/amd64:10.0.17763",
            )
        architecture, implied = _ALIASES.get(words[1], (words[1], ""))
        variant = _spelled(words[2]) if len(words) == _MOST_WORDS else implied
        return cls(words[0], architecture, variant, version)

    @classmethod
    def host(cls, machine: str) -> Self:
        """Return the Linux platform of a machine as uname(2) names it, such as ``x86_64``."""
        architecture, variant = _ALIASES.get(machine, (machine, ""))
        return cls("linux", architecture, variant)

    @classmethod
    def from_json(cls, obj: object, where: str) -> Self:
        """Return the platform in an index entry or a config.

        :raises IntegrityError: not an object, or a field is missing or not a string.
        """
        members = as_object(obj, where)
        return cls(
            required(members, "os", str, where),
            required(members, "architecture", str, where),
            optional(members, "variant", str, where) or "",
            optional(members, "os.version", str, where) or "",
        )

    def to_json(self) -> dict[str, object]:
        """Return the platform as a JSON object (image-spec, image-index.md, ``platform``)."""
        members: dict[str, object] = {"architecture": self.architecture, "os": self.os}
        if self.os_version:
            members["os.version"] = self.os_version
        if self.variant:
            members["variant"] = self.variant
        return members

    @property
    def full(self) -> str:
        """The platform with its os.version, in the form that `parse` reads."""
        return f"{self}:{self.os_version}" if self.os_version else str(self)

    @property
    def printable(self) -> str:
        """The full platform for messages: printable even if a document is hostile."""
        return quoted(self.full)[1:-1]

    def __str__(self) -> str:
        words = (self.os, self.architecture, self.variant)
        return "/".join(word for word in words if word)


def rank(offered: Platform | None, wanted: Platform) -> int | None:
    """Return the rank of an offered platform, 0 is best; None if it cannot run on `wanted`."""
    if offered is None or offered.os != wanted.os:
        return None
    version = wanted.os_version
    if version and not f"{offered.os_version}.".startswith(f"{version}."):
        return None  # 10.0.17763 matches all its revisions
    architecture, implied = _ALIASES.get(offered.architecture, (offered.architecture, ""))
    if architecture != wanted.architecture:
        return None
    return _ranks(wanted).get(_spelled(offered.variant) or implied)


def _ranks(wanted: Platform) -> dict[str, int]:
    if wanted.architecture not in _VARIANTS:
        # Variants of other architectures have no order: only the same one or none matches.
        return {"": 1, wanted.variant: 0}
    lowest, default = _VARIANTS[wanted.architecture]
    number, point, _ = wanted.variant.removeprefix("v").partition(".")
    highest = int(number) if len(number) == 1 and number.isdecimal() else default
    runnable = [wanted.variant] if point else []
    runnable += [f"v{n}" for n in range(highest, lowest - 1, -1)]
    # No variant means the lowest one, except for arm, where it is unknown and ranks last.
    unstated = len(runnable) if wanted.architecture == "arm" else len(runnable) - 1
    return {"": unstated} | {variant: rank for rank, variant in enumerate(runnable)}


def _spelled(variant: str) -> str:
    """Return a variant with its ``v``, which some images omit."""
    return f"v{variant}" if variant.isdecimal() else variant


def _is_word(text: str) -> bool:
    return text[:1].isalnum() and _WORD.issuperset(text)
