"""``stacker tags``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from stacker.cli.output import print_items, print_text
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
    parser.add_argument("repository", metavar="docker://HOST/REPO", help="repository in a registry")
    add_registries(parser)


def run(args: Namespace, session: Session) -> None:
    """List the tags."""
    from stacker.registry.tags import tags_of

    reference, tags = tags_of(args.repository, registry_access(args, os.environ))
    if session.json:
        print_items("tags", [{"name": tag} for tag in tags], repository=reference.name)
        return
    for tag in tags:
        print_text(tag)
