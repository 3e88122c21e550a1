"""``stacker tags``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from stacker.cli.output import print_items, print_text
from stacker.cli.registry_options import add_registries, registry_access
from stacker.errors import UsageError

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from stacker.cli.session import Session
    from stacker.image.reference import Reference
    from stacker.registry.settings import RegistryAccess

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
    from stacker.image.location import REGISTRY_TRANSPORT, is_in_registry
    from stacker.image.reference import Reference

    if not is_in_registry(args.repository):
        raise UsageError(
            f"malformed repository: got {args.repository!r}, want docker://HOST[:PORT]/REPO",
            hint="for example docker://registry.example/team/app",
        )
    access = registry_access(args, os.environ)
    reference = Reference.parse(
        access.registries.expand_short_name(args.repository.removeprefix(REGISTRY_TRANSPORT))
    )
    tags = _tags(reference, access)
    if session.json:
        print_items("tags", [{"name": tag} for tag in tags], repository=reference.name)
        return
    for tag in tags:
        print_text(tag)


def _tags(reference: Reference, access: RegistryAccess) -> list[str]:
    from stacker.registry.client import connected_client
    from stacker.registry.tags import list_tags

    with connected_client(access.registries.primary(reference), access) as client:
        return list(list_tags(client))
