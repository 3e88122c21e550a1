"""``stacker images``: the images in the store."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from stacker.cli.output import add_template, print_line, print_list, shortened, size
from stacker.errors import UsageError

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Callable

    from stacker import ImageUsage
    from stacker.cli.output import Listing
    from stacker.cli.session import Session

DESCRIPTION = """\
List the images in the store, in the order of their first pull.  An image without a name has the
name <none>.  SIZE is the size of all layers of an image.  UNIQUE is the size of the layers that no
other image uses.  FORM is how the store has the layers: as directories (tree), as tars with an
index (erofs), or in both forms (tree+erofs).  With --quiet, print only the full image IDs.
"""
EXAMPLES = """\
  stacker images
  stacker images --json                            show full digests and sizes in bytes
  stacker images --filter name='app:*' --filter platform=linux/arm64
  stacker images --format '{image_id} {names}'
"""


def configure(parser: ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "--filter",
        metavar="KEY=VALUE",
        dest="filters",
        action="append",
        default=[],
        help="list only the images that match; KEY is name (VALUE may have *, ? and [...]), "
        "platform, label (VALUE is LABEL or LABEL=TEXT) or dangling (true: only images without a "
        "name); repeatable, an image must match all filters",
    )
    add_template(parser)


def run(args: Namespace, session: Session) -> None:
    """Print the images in the store."""
    filters = [_filter(text) for text in args.filters]
    usages = [
        usage
        for usage in session.open(create=False).image_usages(on_damage=session.warn)
        if all(matches(usage) for matches in filters)
    ]
    if session.verbosity < 0 and not session.json and args.template is None:
        for usage in usages:
            print_line(str(usage.image.id))
        return
    print_list(
        args, "images", [*map(_document, usages)], lambda: _table(usages), as_json=session.json
    )


def _filter(text: str) -> Callable[[ImageUsage], bool]:
    """Return the test that a filter requests.

    :raises UsageError: the filter is malformed.
    """
    key, _, value = text.partition("=")
    match key:
        case "name" if value:
            return lambda usage: any(fnmatchcase(name, value) for name in usage.image.names)
        case "platform" if value:
            return lambda usage: str(usage.config.platform) == value
        case "label" if value:
            label, equals, content = value.partition("=")
            return lambda usage: (
                label in (labels := usage.config.execution.labels)
                and (not equals or labels[label] == content)
            )
        case "dangling" if value in {"true", "false"}:
            return lambda usage: bool(usage.image.names) == (value == "false")
        case _:
            raise UsageError(
                f"malformed filter: got {text!r}, want name=PATTERN, platform=PLATFORM, "
                "label=LABEL[=TEXT] or dangling=true|false"
            )


def _table(usages: list[ImageUsage]) -> Listing:
    headers = ("NAME", "IMAGE ID", "PLATFORM", "LAYERS", "FORM", "SIZE", "UNIQUE", "CREATED")
    return headers, [*map(_row, usages)], "LAYERS SIZE UNIQUE"


def _row(usage: ImageUsage) -> tuple[str, ...]:
    config = usage.config
    return (
        ", ".join(shortened(name, 60) for name in usage.image.names) or "<none>",
        usage.image.id.short,
        shortened(str(config.platform), 30),
        str(len(config.diff_ids)),
        "+".join(usage.forms),
        size(usage.total),
        size(usage.unique),
        (config.created or "")[:10],
    )


def _document(usage: ImageUsage) -> dict[str, object]:
    image, config = usage.image, usage.config
    return {
        "image_id": str(image.id),
        "names": list(image.names),
        "sources": list(image.sources),
        "manifests": [str(manifest.digest) for manifest in image.manifests],
        "platform": config.platform.to_json(),
        "created": config.created,
        "layers": len(config.diff_ids),
        "missing_layers": usage.missing,
        "forms": list(usage.forms),
        "bytes": {"shared": usage.shared, "own": usage.unique, "total": usage.total},
    }
