"""Choose an image from an index: by platform, by name, or by number.

Descriptors or names come in; one of them goes out, or an error that lists the choices.  This module
does not read the documents that the descriptors refer to.
Source: image-spec image-index.md, "manifests" and "Platform Variants".
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
    """Return the entry of an index that matches `wanted` best; the first of equal matches.

    A machine prefers its own variant, then lower ones (arm: v7, v6, v5; amd64: v4 down to v1).
    An entry without a variant is amd64 v1 or arm64 v8, and the last choice for arm.  A single
    entry without a platform is chosen if no other matches.  Attestations (``unknown/unknown``)
    and media types other than images are skipped.

    :param what: the index's name for messages.
    :raises NotFoundError: no entry matches; the message lists the platforms.
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
    hint = "choose one of these platforms with --platform" if images else None
    raise NotFoundError(
        f"no matching platform: {what}: got {there}, want {wanted.printable}", hint=hint
    )


def require_platform(offered: Platform, wanted: Platform, what: str) -> None:
    """Check that the platform of an image matches `wanted`.

    :param what: the image's digest or ID, for messages.
    :raises NotFoundError: it is another platform.
    """
    if rank(offered, wanted) is None:
        raise NotFoundError(
            f"no matching platform: image {what}: got {offered.printable}, want {wanted.printable}"
        )


def is_image(entry: Descriptor) -> bool:
    """Return whether an index entry is an image or an index, not an attestation."""
    if entry.media_type not in mediatype.MANIFESTS | mediatype.INDEXES:
        return False
    # BuildKit lists attestations in the index, beside their images.
    return entry.platform is None or "unknown" not in (
        entry.platform.os,
        entry.platform.architecture,
    )


def entry_number(text: str, count: int) -> list[int]:
    """Return ``[N]`` for ``@N``, or ``[]`` if N is not an index into a list of ``count``."""
    digits = text.removeprefix("@")
    if not digits.isdecimal() or len(digits) > _MOST_DIGITS or int(digits) >= count:
        return []
    return [int(digits)]


def not_found(there: Names, wanted: str, what: str) -> NotFoundError:
    """Return the error for an unknown name; `wanted` is empty if any image would do."""
    want = quoted(wanted) if wanted else "an image"
    return NotFoundError(f"no such image: {what}: got {_listed(there)}, want {want}")


def ambiguous(there: Names, what: str) -> UsageError:
    """Return the error for several images when no name was given."""
    return UsageError(
        f"several images: {what}: got {_listed(there)}, want one",
        hint="add :NAME, or :@N for image number N, counted from 0",
    )


def _shown(entry: Descriptor) -> str:
    return "no platform" if entry.platform is None else entry.platform.printable


def _listed(there: Names) -> str:
    names = list(dict.fromkeys(name for image in there for name in image))
    shown = [quoted(name) for name in names[:_MOST_SHOWN]]
    if len(names) > _MOST_SHOWN:
        shown.append(f"{len(names) - _MOST_SHOWN} more")
    if nameless := sum(1 for image in there if not image):
        shown.append(f"{nameless} without a name")
    return ", ".join(shown) or "none"
