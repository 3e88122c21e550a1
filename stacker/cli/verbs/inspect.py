"""``stacker inspect``: names, platform and configuration of an image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stacker.cli.options import add_image
from stacker.cli.output import print_item, print_text, size
from stacker.errors import NotFoundError
from stacker.operations.stack import chain_id_of
from stacker.operations.usage import images_usage

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Iterator

    from stacker.cli.session import Session
    from stacker.image.config import Execution
    from stacker.operations.usage import ImageUsage

DESCRIPTION = """\
Show an image: its ID, names, digests, platform and size, and its container configuration, such as
entrypoint, environment and user.
"""
EXAMPLES = """\
  stacker inspect app:1.0
  stacker inspect app:1.0 --json | jq .item.config.entrypoint
"""


def configure(parser: ArgumentParser) -> None:
    """Add the verb's arguments."""
    add_image(parser)


def run(args: Namespace, session: Session) -> None:
    """Print an image's names, platform and configuration.

    :raises NotFoundError: the store lacks the image, or its list of images does.
    """
    store = session.store(create=False)
    image_id = store.images.find(args.image)
    usage = next((usage for usage in images_usage(store) if usage.image.id == image_id), None)
    if usage is None:
        raise NotFoundError(
            f"no such image: {image_id}", hint="`stacker images` lists the images in the store"
        )
    if session.json:
        print_item("image", _document(usage))
        return
    for label, text in _lines(usage, pull=session.with_store("`stacker pull`")):
        print_text(f"{label + ':':<14}{text}")


def _lines(usage: ImageUsage, *, pull: str) -> Iterator[tuple[str, str]]:
    """Yield labels and texts; empty fields are omitted.

    :param pull: the command that restores missing layers.
    """
    image, config = usage.image, usage.config
    yield "image id", str(image.id)
    for name in image.names:
        yield "name", name
    for source in image.sources:
        yield "source", source
    for digest in dict.fromkeys(str(manifest.digest) for manifest in image.manifests):
        yield "manifest", digest
    yield "platform", str(config.platform)
    if config.created:
        yield "created", config.created
    if config.author:
        yield "author", config.author
    yield "layers", f"{len(config.diff_ids)}, {size(usage.total)} ({size(usage.unique)} unique)"
    if usage.missing:
        yield "missing", f"{usage.missing} of the layers; pull the image again with {pull}"
    yield "chain id", str(chain_id_of(config))
    yield from _execution_lines(config.execution)


def _execution_lines(execution: Execution) -> Iterator[tuple[str, str]]:
    for label, texts in (
        ("user", [execution.user]),
        ("directory", [execution.working_dir]),
        ("entrypoint", [_words(execution.entrypoint)]),
        ("command", [_words(execution.cmd)]),
        ("environment", execution.env),
        ("label", [f"{name}={text}" for name, text in execution.labels.items()]),
        ("port", execution.exposed_ports),
        ("volume", execution.volumes),
        ("stop signal", [execution.stop_signal]),
    ):
        for text in texts:
            if text:
                yield label, text


def _words(words: tuple[str, ...]) -> str:
    import shlex

    return shlex.join(words)


def _document(usage: ImageUsage) -> dict[str, object]:
    image, config = usage.image, usage.config
    execution = config.execution
    return {
        "image_id": str(image.id),
        "names": list(image.names),
        "sources": list(image.sources),
        "manifests": [manifest.to_json() for manifest in image.manifests],
        "platform": config.platform.to_json(),
        "created": config.created,
        "author": config.author,
        "chain_id": str(chain_id_of(config)),
        "layers": [str(diff_id) for diff_id in config.diff_ids],
        "missing_layers": usage.missing,
        "bytes": {"shared": usage.shared, "own": usage.unique, "total": usage.total},
        "config": {
            "user": execution.user,
            "env": list(execution.env),
            "entrypoint": list(execution.entrypoint),
            "cmd": list(execution.cmd),
            "working_dir": execution.working_dir,
            "labels": dict(execution.labels),
            "exposed_ports": list(execution.exposed_ports),
            "volumes": list(execution.volumes),
            "stop_signal": execution.stop_signal,
        },
    }
