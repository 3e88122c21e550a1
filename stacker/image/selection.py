"""Which entry of an index to take: the one that suits a platform best.

In come descriptors, out comes one of them.  What stands behind a descriptor is not read here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stacker.errors import NotFoundError, UsageError
from stacker.image import mediatype
from stacker.image.document import quoted
from stacker.image.platform import rank

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stacker.image.descriptor import Descriptor
    from stacker.image.platform import Platform

    Names = Sequence[Sequence[str]]


_MOST_DIGITS = 6
_MOST_SHOWN = 20


def choose_platform(candidates: Sequence[Descriptor], wanted: Platform, what: str) -> Descriptor:
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
        (entry for entry in images if rank(entry.platform, wanted) is not None),
        key=lambda entry: rank(entry.platform, wanted) or 0,
        default=None,
    )
    if best is not None:
        return best
    nameless = [entry for entry in images if entry.platform is None]
    if len(nameless) == 1:
        return nameless[0]
    there = ", ".join(dict.fromkeys(_shown(entry) for entry in images)) or "none"
    raise NotFoundError(f"no matching platform: {what}: got {there}, want {wanted.shown}")


def require_platform(offered: Platform, wanted: Platform, what: str) -> None:
    """See that an image for which no index speaks is of the platform that was asked for.

    :param what: names the image in a message, by its digest or ID.
    :raises NotFoundError: it is for another platform.
    """
    if rank(offered, wanted) is None:
        raise NotFoundError(
            f"no matching platform: image {what}: got {offered.shown}, want {wanted.shown}"
        )


def is_image(entry: Descriptor) -> bool:
    """Return whether an index entry is an image or an index, and no attestation about one."""
    if entry.media_type not in mediatype.MANIFESTS | mediatype.INDEXES:
        return False
    # BuildKit files attestations in the index beside the images they are about.
    return entry.platform is None or "unknown" not in (
        entry.platform.os,
        entry.platform.architecture,
    )


def numbered(text: str, count: int) -> list[int]:
    """Return the number that ``@N`` means among `count` images, in a list; none if out of range."""
    digits = text.removeprefix("@")
    if not digits.isdecimal() or len(digits) > _MOST_DIGITS or int(digits) >= count:
        return []
    return [int(digits)]


def not_found(there: Names, wanted: str, what: str) -> NotFoundError:
    """Return the error for a name that no image bears; `wanted` is empty where any would do."""
    want = quoted(wanted) if wanted else "an image"
    return NotFoundError(f"no such image: {what}: got {_listed(there)}, want {want}")


def several(there: Names, what: str) -> UsageError:
    """Return the error for a place with more than one image and no word to tell them apart."""
    return UsageError(
        f"several images: {what}: got {_listed(there)}, want one",
        hint="add :NAME, or :@N for the image at number N, counted from 0",
    )


def _shown(entry: Descriptor) -> str:
    return "no platform" if entry.platform is None else entry.platform.shown


def _listed(there: Names) -> str:
    names = list(dict.fromkeys(name for image in there for name in image))
    shown = [quoted(name) for name in names[:_MOST_SHOWN]]
    if len(names) > _MOST_SHOWN:
        shown.append(f"{len(names) - _MOST_SHOWN} more")
    if nameless := sum(1 for image in there if not image):
        shown.append(f"{nameless} without a name")
    return ", ".join(shown) or "none"
