"""Platforms: what an image is built for, and which entry of an index suits a machine best.

In come words (``linux/arm64/v8``, uname's machine) and descriptors, out comes the platform or
the one descriptor to take.  What stands behind a descriptor is not read here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from stacker.errors import NotFoundError, UsageError
from stacker.image import mediatype
from stacker.image.document import as_object, optional, required
from stacker.image.wording import quoted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stacker.image.descriptor import Descriptor

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
        """Return the platform a person wrote as ``OS/ARCH[/VARIANT]``; aliases are understood.

        :raises UsageError: not two or three words of letters, digits, ``_``, ``.`` and ``-``.
        """
        words = text.lower().split("/")
        if not 1 < len(words) <= _MOST_WORDS or not all(_is_word(word) for word in words):
            raise UsageError(
                f"platform: got {quoted(text)}, want OS/ARCH[/VARIANT]",
                hint="for example linux/amd64 or linux/arm/v7",
            )
        architecture, implied = _ALIASES.get(words[1], (words[1], ""))
        variant = words[2] if len(words) == _MOST_WORDS else implied
        if variant.isdigit():
            variant = "v" + variant
        return cls(words[0], architecture, variant)

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

    def __str__(self) -> str:
        words = (self.os, self.architecture, self.variant)
        return "/".join(word for word in words if word)


def choose(candidates: Sequence[Descriptor], wanted: Platform, what: str) -> Descriptor:
    """Return the entry of an index that suits `wanted` best; of equals, the first.

    A machine takes its own variant, then lower ones (arm: v7, v6, v5; amd64: v4 down to v1);
    an entry without a variant is amd64 v1, arm64 v8, or the last resort of an arm.  An entry
    without a platform is taken where no other suits and there is just one.  Attestations
    (``unknown/unknown``) and media types that are no image are passed over.

    :param what: the index's name for messages.
    :raises NotFoundError: nothing suits; the message lists the platforms that are there.
    Source: image-spec image-index.md, "manifests" and "Platform Variants".
    """
    images = [entry for entry in candidates if is_image(entry)]
    best = min(
        (entry for entry in images if _rank(entry.platform, wanted) is not None),
        key=lambda entry: _rank(entry.platform, wanted) or 0,
        default=None,
    )
    if best is not None:
        return best
    nameless = [entry for entry in images if entry.platform is None]
    if len(nameless) == 1:
        return nameless[0]
    there = ", ".join(dict.fromkeys(_shown(entry) for entry in images)) or "none"
    raise NotFoundError(f"choose platform: {what}: got {there}, want {wanted}")


def is_image(entry: Descriptor) -> bool:
    """Return whether an index entry is an image or an index, and no attestation about one."""
    if entry.media_type not in mediatype.MANIFESTS | mediatype.INDEXES:
        return False
    # BuildKit files attestations in the index beside the images they are about.
    return entry.platform is None or "unknown" not in (
        entry.platform.os,
        entry.platform.architecture,
    )


def _is_word(text: str) -> bool:
    return text[:1].isalnum() and _WORD.issuperset(text)


def _shown(entry: Descriptor) -> str:
    return "no platform" if entry.platform is None else quoted(str(entry.platform))[1:-1]


def fits(offered: Platform, wanted: Platform) -> bool:
    """Return whether an image made for `offered` runs where `wanted` was asked for."""
    return _rank(offered, wanted) is not None


def _rank(offered: Platform | None, wanted: Platform) -> int | None:
    """Return how far an offer is from what is wanted, 0 being best; None when it cannot run."""
    if offered is None or offered.os != wanted.os:
        return None
    if wanted.os_version and offered.os_version != wanted.os_version:
        return None
    architecture, implied = _ALIASES.get(offered.architecture, (offered.architecture, ""))
    if architecture != wanted.architecture:
        return None
    return _ranks(wanted).get(offered.variant or implied)


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
