"""Which of several images somebody means: ``@N``, and the two refusals that list what is there.

In come the names of each image of a place, out comes a number or an error.  How the images are
stored, and how a name is matched, is not known here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stacker.errors import NotFoundError, UsageError
from stacker.image.quoting import quoted

if TYPE_CHECKING:
    from collections.abc import Sequence

    Names = Sequence[Sequence[str]]

_MOST_DIGITS = 6
_MOST_SHOWN = 20


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


def _listed(there: Names) -> str:
    names = list(dict.fromkeys(name for image in there for name in image))
    shown = [quoted(name) for name in names[:_MOST_SHOWN]]
    if len(names) > _MOST_SHOWN:
        shown.append(f"{len(names) - _MOST_SHOWN} more")
    if nameless := sum(1 for image in there if not image):
        shown.append(f"{nameless} without a name")
    return ", ".join(shown) or "none"
