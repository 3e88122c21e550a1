"""``stacker inspect``: names, platform and configuration of an image."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from stacker.cli.options import add_image
from stacker.cli.output import print_document, print_item, print_text, size
from stacker.cli.registry_options import add_registries, registry_access
from stacker.errors import NotFoundError, UsageError
from stacker.image.selection import is_image
from stacker.operations.stack import chain_id_of
from stacker.operations.usage import images_usage

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Iterable, Iterator

    from stacker.cli.session import Session
    from stacker.image.config import Execution, ImageConfig
    from stacker.image.digest import ImageID
    from stacker.operations.inspect import Inspected
    from stacker.operations.usage import ImageUsage
    from stacker.source.protocol import Source
    from stacker.store.store import Store

DESCRIPTION = """\
Show an image: its ID, names, digests, platform and size, and its container configuration, such as
entrypoint, environment and user.

If IMAGE has a transport, such as docker:// or oci:, stacker reads its documents from there, and
pulls nothing.  If IMAGE is an index, stacker shows the image for one platform, and lists the
platforms of the index.

--raw prints the manifest as it is, byte for byte, and --config the config of the image.  If IMAGE
has a transport and is an index, --raw without --platform prints the index.
"""
EXAMPLES = """\
  stacker inspect app:1.0
  stacker inspect app:1.0 --json | jq .item.config.entrypoint
  stacker inspect docker://registry.example/app:1.0
  stacker inspect --raw docker://registry.example/app:1.0 | jq .manifests
"""


def configure(parser: ArgumentParser) -> None:
    """Add the verb's arguments."""
    add_image(parser)
    parser.add_argument(
        "--platform",
        metavar="[OS/]ARCH[/VARIANT][:OSVERSION]",
        help="show the image for this platform; requires a transport (default: the best match for "
        "this machine)",
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--raw", action="store_true", help="print the manifest or the index as it is"
    )
    which.add_argument("--config", action="store_true", help="print the config as it is")
    add_registries(parser)


def run(args: Namespace, session: Session) -> None:
    """Print an image's names, platform and configuration.

    :raises NotFoundError: the image does not exist.
    """
    from stacker.source.identify import has_transport

    if has_transport(args.image):
        with _opened(args, session) as source:
            _show_source(args, session, source)
        return
    if args.platform:
        raise UsageError(
            f"no transport: {args.image!r}: got --platform, want it with a source only",
            hint="an image in the store has one platform; `stacker images` shows it",
        )
    store = session.store(create=False)
    image_id = store.images.find(args.image)
    if args.raw or args.config:
        print_document(_stored_document(store, image_id, is_config=args.config))
    else:
        _show_stored(store, image_id, session)


@contextmanager
def _opened(args: Namespace, session: Session) -> Iterator[Source]:
    from stacker.source.open import open_source

    access = registry_access(args, os.environ, args.image)
    with open_source(args.image, spool=session.temporary, access=access) as source:
        yield source


def _show_source(args: Namespace, session: Session, source: Source) -> None:
    from stacker.image.platform import Platform
    from stacker.operations.inspect import inspect_source

    if args.raw and not args.platform:
        print_document(source.document(source.root()))
        return
    wanted = Platform.parse(args.platform) if args.platform else None
    host = Platform.host(os.uname().machine)
    found = inspect_source(source, wanted or host, must_match=wanted is not None)
    if args.raw or args.config:
        chosen = found.manifest.config if args.config else found.descriptor
        print_document(source.document(chosen))
    elif session.json:
        print_item("source", _source_document(args.image, source, found))
    else:
        _print_lines(_source_lines(args.image, source, found))


def _stored_document(store: Store, image_id: ImageID, *, is_config: bool) -> bytes:
    """Return the config of an image in the store, or the manifest of its last pull."""
    if is_config:
        return store.blobs.read(image_id)
    image = next((image for image in store.images.all() if image.id == image_id), None)
    if image is None:
        raise _unlisted(image_id)
    return store.blobs.read(image.manifests[-1].digest)


def _unlisted(image_id: ImageID) -> NotFoundError:
    return NotFoundError(
        f"no such image: {image_id}", hint="`stacker images` lists the images in the store"
    )


def _show_stored(store: Store, image_id: ImageID, session: Session) -> None:
    usage = next((usage for usage in images_usage(store) if usage.image.id == image_id), None)
    if usage is None:
        raise _unlisted(image_id)
    if session.json:
        print_item("image", _document(usage))
    else:
        _print_lines(_lines(usage, pull=session.with_store("`stacker pull`")))


def _print_lines(lines: Iterable[tuple[str, str]]) -> None:
    for label, text in lines:
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
    yield from _origin_lines(config)
    yield "layers", f"{len(config.diff_ids)}, {size(usage.total)} ({size(usage.unique)} unique)"
    if usage.missing:
        yield "missing", f"{usage.missing} of the layers; pull the image again with {pull}"
    yield "chain id", str(chain_id_of(config))
    yield from _execution_lines(config.execution)


def _source_lines(text: str, source: Source, found: Inspected) -> Iterator[tuple[str, str]]:
    """Yield labels and texts; empty fields are omitted."""
    config = found.config
    yield "image id", str(found.manifest.image_id)
    for name in source.names:
        yield "name", name
    yield "source", text
    if found.entries:
        yield "index", str(found.root.digest)
        yield "platforms", ", ".join(_platforms(found))
    yield "manifest", str(found.descriptor.digest)
    yield from _origin_lines(config)
    compressed = size(sum(layer.size for layer in found.manifest.layers))
    yield "layers", f"{len(config.diff_ids)}, {compressed} compressed"
    yield "chain id", str(chain_id_of(config))
    yield from _execution_lines(config.execution)


def _platforms(found: Inspected) -> list[str]:
    """Return the platforms of an index; an attestation has none of its own."""
    declared = (entry.platform for entry in found.entries if is_image(entry))
    return [str(platform) for platform in declared if platform is not None]


def _origin_lines(config: ImageConfig) -> Iterator[tuple[str, str]]:
    yield "platform", str(config.platform)
    if config.created:
        yield "created", config.created
    if config.author:
        yield "author", config.author


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
    image = usage.image
    return {
        "image_id": str(image.id),
        "names": list(image.names),
        "sources": list(image.sources),
        "manifests": [manifest.to_json() for manifest in image.manifests],
        "missing_layers": usage.missing,
        "bytes": {"shared": usage.shared, "own": usage.unique, "total": usage.total},
        **_config_members(usage.config),
    }


def _source_document(text: str, source: Source, found: Inspected) -> dict[str, object]:
    return {
        "image_id": str(found.manifest.image_id),
        "names": list(source.names),
        "source": text,
        "root": replace(found.root, data=None).to_json(),
        "entries": [entry.to_json() for entry in found.entries],
        "manifest": replace(found.descriptor, data=None).to_json(),
        "blobs": [layer.to_json() for layer in found.manifest.layers],
        **_config_members(found.config),
    }


def _config_members(config: ImageConfig) -> dict[str, object]:
    """Return the members that an image in the store and one in a source share."""
    execution = config.execution
    return {
        "platform": config.platform.to_json(),
        "created": config.created,
        "author": config.author,
        "chain_id": str(chain_id_of(config)),
        "layers": [str(diff_id) for diff_id in config.diff_ids],
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
