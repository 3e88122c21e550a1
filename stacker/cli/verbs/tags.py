"""``stacker tags``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from stacker.cli.output import add_template, print_list, print_text
from stacker.cli.registry_options import add_registries, registry_access

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from stacker.cli.session import Session

DESCRIPTION = """\
List all tags of a repository in a registry, in the registry's order, which is usually alphabetical.
"""
EXAMPLES = """\
  stacker tags docker://registry.example/team/app
  stacker tags docker://registry.example/team/app --json
"""


def configure(parser: ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("repository", metavar="REPO", help="repository in a registry")
    add_template(parser)
    add_registries(parser)


def run(args: Namespace, session: Session) -> None:
    """List the tags."""
    from stacker.registry.tags import tags_of
    from stacker.source.identify import complete_source

    repository = complete_source(args.repository)
    reference, tags = tags_of(repository, registry_access(args, os.environ))
    if args.template is None and not session.json:
        for tag in tags:
            print_text(tag)
        return
    documents: list[dict[str, object]] = [{"name": tag} for tag in tags]
    print_list(
        args,
        "tags",
        documents,
        lambda: ((), (), ""),
        repository=reference.name,
        as_json=session.json,
    )
