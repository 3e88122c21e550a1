"""``stacker index``, a verb with actions."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

from stacker.cli.help import Parser
from stacker.cli.options import add_globals, add_jobs
from stacker.cli.output import (
    add_template,
    archive_stdout,
    print_event,
    print_item,
    print_items,
    print_line,
    print_list,
    print_table,
    print_text,
    size,
)
from stacker.cli.registry_options import add_registries, registry_access
from stacker.cli.verbs.push import (
    add_packing,
    copied_document,
    print_digest,
    warn_foreign,
)
from stacker.errors import UsageError

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Mapping

    from stacker.cli.session import Session
    from stacker.image.descriptor import Descriptor
    from stacker.image.digest import Digest
    from stacker.image.manifest import Index
    from stacker.jobs.pack_layer import PackOptions
    from stacker.operations.index import OpenSource
    from stacker.store.indexes import StoredIndex

DESCRIPTION = """\
Manage indexes.  An index has one name, and lists images for several platforms as its members.
`pull` selects the member for the machine or for --platform.  `create` adds an index to the store.
A member is an image in the store or in a registry.  A member in a registry keeps its digest;
stacker does not download it into the store.  `push` uploads the members that DEST lacks, then the
index.
"""
EXAMPLES = """\
  stacker index create app:1.0 app-amd64 docker://registry.example/app-arm64:1.0
  stacker index annotate app:1.0 linux/arm --variant v6
  stacker index inspect app:1.0
  stacker index push app:1.0 docker://registry.example/team/app:1.0
  stacker pull --platform linux/arm64 docker://registry.example/team/app:1.0
  stacker index inspect docker://registry.example/team/app:1.0
  stacker index rm app:1.0
"""
_TEXTS = {
    "create": (
        """\
Create an index in the store.  Name a member in the store by its image ID, a unique prefix of the
ID, or a name.  Name a member in a registry by docker://…; stacker records its digest and platform.
If docker://… names an index, stacker records each of its members.  `create` uploads nothing.  The
last line on stdout is the digest of the index.
""",
        """\
  stacker index create app:1.0 app-amd64 app-arm64
  stacker index create app:1.0 app-amd64 docker://registry.example/app-arm64:1.0
""",
    ),
    "annotate": (
        """\
Set the annotations of an index, or the annotations and the platform of one member.  stacker keeps
all values that you do not set, with two exceptions: a new --arch removes the old variant, and a new
--os removes the old OS version.  Each change gives the index a new digest.  The last line on stdout
is this digest.
""",
        """\
  stacker index annotate app:1.0 linux/arm --variant v6
  stacker index annotate app:1.0 --annotation org.opencontainers.image.version=1.0
""",
    ),
    "push": (
        """\
Push the members that DEST lacks, then the index.  stacker pushes a member in the store as `stacker
push` does.  If it compresses layers of the member again, the member gets a new digest, and stacker
updates the index in the store.  stacker copies a member in a registry as `stacker copy` does.  The
last line on stdout is the digest of the index.
""",
        """\
  stacker index push app:1.0 docker://registry.example/team/app:1.0
  stacker index push --compression zstd app:1.0 oci:./layout:1.0
""",
    ),
}


def configure(parser: ArgumentParser) -> None:
    """Add the verb's actions and their arguments."""
    verbs = parser.add_subparsers(
        metavar="ACTION",
        dest="action",
        required=True,
        title="actions",
        help="`stacker index ACTION --help` describes it",
        parser_class=Parser,
    )

    def add(name: str, summary: str) -> ArgumentParser:
        text, examples = _TEXTS.get(name, ("", ""))
        found: ArgumentParser = verbs.add_parser(
            name,
            help=summary,
            description=text or f"{summary[0].upper()}{summary[1:]}.",
            epilog=f"Examples:\n{examples}" if examples else None,
        )
        return found

    _configure_changes(add("create", "Create an index"), add("annotate", "Annotate an index"))
    _configure_push(add("push", "Push the members that DEST lacks, then the index"))
    inspect = add("inspect", "Show an index in the store or in a registry")
    inspect.add_argument("name", metavar="NAME|docker://…", help="the index")
    add_registries(inspect)
    remove = add("rm", "Remove indexes; their images stay")
    remove.add_argument("names", metavar="NAME", nargs="+", help="an index to remove")
    add("list", "List the indexes in the store")
    add_template(verbs.choices["list"])
    for action in verbs.choices.values():
        add_globals(action)


def _configure_changes(create: ArgumentParser, annotate: ArgumentParser) -> None:
    create.add_argument("name", metavar="NAME", help="the name of the new index in the store")
    create.add_argument(
        "members",
        metavar="IMAGE|docker://…",
        nargs="+",
        help="an image in the store or in a registry",
    )
    add_registries(create)
    add = annotate.add_argument
    add("name", metavar="NAME", help="the index")
    add(
        "member",
        metavar="MEMBER",
        nargs="?",
        help="the member to annotate: its digest, a unique prefix of its digest, its platform, or "
        "its image (default: annotate the index itself)",
    )
    add("--os", metavar="OS", default="", help="operating system of the member, such as linux")
    add("--arch", metavar="ARCH", default="", help="architecture of the member, such as arm64")
    add("--variant", metavar="VARIANT", default="", help="variant of the architecture, such as v7")
    add("--os-version", metavar="VERSION", default="", help="version of the operating system")
    add(
        "--annotation",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="set an annotation; KEY= removes it",
    )


def _configure_push(parser: ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the index")
    parser.add_argument(
        "destination", metavar="DEST", help="where to push the index, as for `stacker push`"
    )
    add_packing(parser)
    add_jobs(parser, "blobs to transfer")
    add_registries(parser)


def run(args: Namespace, session: Session) -> None:
    """Run the action."""
    actions = {
        "create": _create,
        "annotate": _annotate,
        "inspect": _inspect,
        "push": _push,
        "rm": _remove,
        "list": _list,
    }
    actions[args.action](args, session)


def _create(args: Namespace, session: Session) -> None:
    from stacker.operations.index import create_index

    stored = create_index(session.store(), args.name, args.members, _opener(args, session))
    _print_digest(stored, session)


def _annotate(args: Namespace, session: Session) -> None:
    from stacker.operations.index import IndexChange, annotate_index

    change = IndexChange(
        args.os,
        args.arch,
        args.variant,
        args.os_version,
        dict(_annotation(text) for text in args.annotation),
    )
    _print_digest(annotate_index(session.store(), args.name, args.member, change), session)


def _annotation(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise UsageError(f"malformed annotation: got {text!r}, want KEY=VALUE")
    return key, value


def _inspect(args: Namespace, session: Session) -> None:
    from stacker.image.location import is_in_registry

    if is_in_registry(args.name):
        digest, index = _fetch_index(args, session)
        origins: Mapping[str, str] = {}
    else:
        stored = session.store(create=False).indexes.find(args.name)
        digest, index, origins = stored.digest, stored.index, stored.origins
    if session.json:
        print_item("index", _index_document(args.name, digest, index, origins))
    else:
        _print(args.name, digest, index)


def _push(args: Namespace, session: Session) -> None:
    from stacker.cli.progress import report_progress
    from stacker.cli.pulling import restorer
    from stacker.destination.open import open_destination
    from stacker.linux.process import usable_processors
    from stacker.operations.index import push_index
    from stacker.source.identify import complete_destination

    args.destination = complete_destination(args.destination)
    packing = _packing_of(args)
    store = session.store()
    store.indexes.find(args.name)  # fail before DEST is opened
    with ExitStack() as held:
        access = registry_access(args, os.environ, args.destination)
        destination = held.enter_context(
            open_destination(
                args.destination,
                access=access,
                umask=session.umask,
                stdout=archive_stdout(args.destination, json=session.json),
            )
        )
        emit = held.enter_context(report_progress(session))
        copied = push_index(
            store,
            args.name,
            destination,
            open_source=_opener(args, session),
            packing=packing,
            jobs=args.jobs or usable_processors(),
            emit=emit,
            restore=restorer(session, args),
        )
    warn_foreign(copied, session)
    if session.json:
        item = {"name": args.name, "destination": args.destination}
        print_event("index-push", item={**item, **copied_document(copied)})
    else:
        print_digest(copied, args.destination, session)


def _packing_of(args: Namespace) -> PackOptions:
    """Return the options for compressing layers, from ``--compression`` and ``--level``.

    :raises UsageError: the compression has no such level.
    """
    from stacker.jobs.pack_layer import PackOptions
    from stacker.stream.compression import compression_level

    return PackOptions(args.compression, compression_level(args.compression, args.level))


def _remove(args: Namespace, session: Session) -> None:
    store = session.store()
    store.require_writable()
    indexes = store.indexes
    with indexes.write_lock():
        for name in args.names:
            indexes.require(name)
        for name in dict.fromkeys(args.names):
            indexes.remove(name)
    if session.json:
        print_items("index-rm", [{"name": name} for name in args.names])


def _list(args: Namespace, session: Session) -> None:
    stored = session.store(create=False).indexes.all(session.warn)
    rows = [
        (each.name, each.digest.short, ", ".join(map(_platform, each.index.manifests)))
        for each in stored
    ]
    documents = [_document(index) for index in stored]
    print_list(
        args,
        "indexes",
        documents,
        lambda: (("NAME", "DIGEST", "PLATFORMS"), rows, ""),
        as_json=session.json,
    )


def _opener(args: Namespace, session: Session) -> OpenSource:
    """Return the function that opens an image in a registry."""
    from stacker.source.open import open_source

    access = registry_access(args, os.environ)
    return lambda text: open_source(text, spool=session.temporary, access=access)


def _print_digest(stored: StoredIndex, session: Session) -> None:
    if session.json:
        print_item("index", _document(stored))
    else:
        print_line(str(stored.digest))


def _fetch_index(args: Namespace, session: Session) -> tuple[Digest, Index]:
    from stacker.image.manifest import Index, parse_document

    with _opener(args, session)(args.name) as source:
        root = source.root()
        content = source.document(root)
    document = parse_document(content, media_type=root.media_type, what=args.name)
    if not isinstance(document, Index):
        raise UsageError(
            f"not an index: {args.name}: got the manifest of one image, want an index",
            hint=f"`stacker pull {args.name}` pulls the image; `stacker inspect` shows it",
        )
    return root.digest, document


def _document(stored: StoredIndex) -> dict[str, object]:
    return _index_document(stored.name, stored.digest, stored.index, stored.origins)


def _index_document(
    name: str, digest: Digest, index: Index, origins: Mapping[str, str]
) -> dict[str, object]:
    members = [
        {**member.to_json(), "origin": origins.get(str(member.digest))}
        for member in index.manifests
    ]
    return {
        "name": name,
        "digest": str(digest),
        "media_type": index.media_type,
        "annotations": dict(index.annotations),
        "members": members,
    }


def _print(name: str, digest: Digest, index: Index) -> None:
    print_text(f"{name} {digest} {index.media_type}")
    for key, value in index.annotations.items():
        print_text(f"{key}={value}")
    rows = []
    for entry in index.manifests:
        notes = ", ".join(f"{key}={value}" for key, value in entry.annotations.items())
        rows.append((_platform(entry), str(entry.digest), size(entry.size), notes))
    print_table(("PLATFORM", "DIGEST", "SIZE", "ANNOTATIONS"), rows, right="SIZE")


def _platform(entry: Descriptor) -> str:
    platform = entry.platform
    if platform is None:
        return "-"
    return f"{platform} {platform.os_version}".rstrip()
