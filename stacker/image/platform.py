"""Platforms: what an image is built for, and how well that suits a machine.

In come words (``linux/arm64/v8``, uname's machine), out comes the platform, or how far an offer is
from what is wanted.  Knows no index: the choice among its entries is `selection`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from stacker.errors import UsageError
from stacker.image.document import as_object, optional, quoted, required

_WORD = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_.-")
_MOST_WORDS = 3

# What uname, Debian and people write -> GOARCH and variant, which is what images write.
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
# Lowest variant, and the one meant where a machine states none; a lower one runs on a higher.
_VARIANTS = {"amd64": (1, 1), "arm": (5, 7), "arm64": (8, 8)}


@dataclass(frozen=True, slots=True)
class Platform:
    """What an image runs on, in GOOS and GOARCH words (image-spec image-index.md)."""

    os: str
    architecture: str
    variant: str = ""
    os_version: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the platform a person wrote as ``OS/ARCH[/VARIANT][:OSVERSION]``.

        Aliases are understood.

        :raises UsageError: not that many words of letters, digits, ``_``, ``.`` and ``-``.
        """
        name, colon, version = text.lower().partition(":")
        words = name.split("/")
        if not 1 < len(words) <= _MOST_WORDS or not all(
            _is_word(word) for word in (*words, *([version] if colon else []))
        ):
            raise UsageError(
                f"platform: got {quoted(text)}, want OS/ARCH[/VARIANT][:OSVERSION]",
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
        """Return the platform an index entry or a config states.

        :raises IntegrityError: no object, or a field is missing or no string.
        """
        members = as_object(obj, where)
        return cls(
            required(members, "os", str, where),
            required(members, "architecture", str, where),
            optional(members, "variant", str, where) or "",
            optional(members, "os.version", str, where) or "",
        )

    def to_json(self) -> dict[str, object]:
        """Return the platform as image-spec writes it."""
        members: dict[str, object] = {"architecture": self.architecture, "os": self.os}
        if self.os_version:
            members["os.version"] = self.os_version
        if self.variant:
            members["variant"] = self.variant
        return members

    @property
    def whole(self) -> str:
        """The platform with its os.version, as `parse` reads it."""
        return f"{self}:{self.os_version}" if self.os_version else str(self)

    @property
    def shown(self) -> str:
        """The same for messages: printable, whatever a document says."""
        return quoted(self.whole)[1:-1]

    def __str__(self) -> str:
        words = (self.os, self.architecture, self.variant)
        return "/".join(word for word in words if word)


def rank(offered: Platform | None, wanted: Platform) -> int | None:
    """Return how far an offer is from what is wanted, 0 being best; None when it cannot run."""
    if offered is None or offered.os != wanted.os:
        return None
    version = wanted.os_version
    if version and not f"{offered.os_version}.".startswith(f"{version}."):
        return None  # 10.0.17763 is also asked for to have any of its revisions
    architecture, implied = _ALIASES.get(offered.architecture, (offered.architecture, ""))
    if architecture != wanted.architecture:
        return None
    return _ranks(wanted).get(_spelled(offered.variant) or implied)


def _ranks(wanted: Platform) -> dict[str, int]:
    if wanted.architecture not in _VARIANTS:
        # Variants of other architectures have no agreed order: equal, or unstated.
        return {"": 1, wanted.variant: 0}
    lowest, default = _VARIANTS[wanted.architecture]
    number, point, _ = wanted.variant.removeprefix("v").partition(".")
    highest = int(number) if len(number) == 1 and number.isdecimal() else default
    runnable = [wanted.variant] if point else []
    runnable += [f"v{n}" for n in range(highest, lowest - 1, -1)]
    # Unstated is the lowest, except that nobody says which arm it is: after all the others.
    unstated = len(runnable) if wanted.architecture == "arm" else len(runnable) - 1
    return {"": unstated} | {variant: rank for rank, variant in enumerate(runnable)}


def _spelled(variant: str) -> str:
    """Return a variant as everybody should write it: some leave the ``v`` of ``v7`` out."""
    return f"v{variant}" if variant.isdecimal() else variant


def _is_word(text: str) -> bool:
    return text[:1].isalnum() and _WORD.issuperset(text)
