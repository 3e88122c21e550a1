"""Pull what a command lacks: its image, as ``--pull`` says, or the damaged layers of an image.

The text that names an image comes in, and a text that names an image of the store goes out; or a
session comes in, and a `Restorer` goes out.  Registries and sources are imported only for a pull.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from stacker.errors import AuthenticationError, NetworkError, NotFoundError, UsageError

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Iterator, Sequence

    from stacker.cli.config import Config
    from stacker.cli.session import Session
    from stacker.image.digest import DiffID, ImageID
    from stacker.operations.repair import Repair
    from stacker.source.protocol import Source
    from stacker.store.store import Store

POLICIES = ("missing", "never", "always", "newer")
_DIGITS = frozenset("0123456789abcdef")


def add_pull(parser: ArgumentParser) -> None:
    """Add the option that says when to pull the image."""
    parser.add_argument(
        "--pull",
        choices=POLICIES,
        help="when to pull IMAGE: only if the store lacks it (missing), never, or always; newer is "
        "like always, but uses the image in the store if the pull fails (default: missing; never "
        "for an image ID)",
    )


def pulled(image: str, policy: str | None, store: Store, session: Session) -> str:
    """Return a text that names an image of the store, after a pull if the policy requests one.

    :param image: an image ID, a unique prefix of one, a name, or a source.
    :param policy: one of `POLICIES`; ``None`` for the default.
    :raises UsageError: an image ID with a policy that needs a source.
    :raises NotFoundError: the source has no such image.
    :raises NetworkError: the registry cannot be reached.
    """
    is_id = not image or set(image.removeprefix("sha256:")) <= _DIGITS
    if is_id and policy in {"always", "newer"}:
        raise UsageError(
            f"cannot pull an image ID: got {image!r} with --pull {policy}, want a name or a source"
        )
    if policy == "never" or is_id:
        return image
    known = _known(image, store)
    if known is not None and policy in {None, "missing"}:
        return known
    try:
        return _pull(image, session)
    except (NetworkError, NotFoundError, AuthenticationError) as error:
        if known is not None and policy == "newer":
            session.warn(f"used the image in the store: {error.message}")
            return known
        if known is None:
            error.message += f"; the store has no image {image!r} either"
        raise


def _known(image: str, store: Store) -> str | None:
    try:
        return str(store.images.find(image))
    except NotFoundError:
        return None


def _pull(image: str, session: Session) -> str:
    from dataclasses import replace

    from stacker.cli.options import parse
    from stacker.cli.verbs.pull import pull_source

    _, args = parse(["pull", "--", image], session.config)
    # The document of the command itself is the only one on stdout.
    quiet = replace(session, json=False, verbosity=-1) if session.json else session
    result, _ = pull_source(args, quiet)
    return str(result.image_id)


class Restorer:
    """Unpacks the damaged layers of an image, and reports each of them.

    :param args: the options for registries and the limits; ``None`` for the defaults.
    """

    def __init__(self, session: Session, args: Namespace | None = None) -> None:
        self._session = session
        self._args = args

    def __call__(self, store: Store, image_id: ImageID, diff_ids: Sequence[DiffID]) -> None:
        """Unpack layers of an image again; see `stacker.operations.durability.ensure_sound`."""
        from stacker.operations.repair import replace_layers

        with self.repair(store) as repair:
            origin = replace_layers(store, image_id, diff_ids, repair)
        for diff_id in diff_ids:
            self._session.say(f"restored layer {diff_id} from {origin}")

    @contextmanager
    def repair(self, store: Store, *, jobs: int | None = None) -> Iterator[Repair]:
        """Yield the settings of a repair; remove the spooled archives at the end.

        :param jobs: worker processes; ``None`` for one per usable processor.
        """
        from stacker.cli.options import limits_of
        from stacker.jobs.tasks import UnpackOptions
        from stacker.layer.metadata import IdMap
        from stacker.layer.whiteout_format import WhiteoutFormat
        from stacker.linux.process import usable_processors
        from stacker.operations.repair import Repair

        args = _defaults(self._session.config)
        if self._args is not None:  # `push` has no limits
            vars(args).update(vars(self._args))
        options = UnpackOptions(WhiteoutFormat.permitted(), IdMap.permitted(), limits_of(args))
        with store.staging.directory("spool") as spool:

            @contextmanager
            def opened(name: str) -> Iterator[Source]:
                from stacker.image.location import is_in_registry
                from stacker.source.open import open_source

                access = None
                if is_in_registry(name):
                    from stacker.cli.registry_options import registry_access

                    access = registry_access(args, os.environ, name)
                ratio = args.max_archive_ratio
                with open_source(name, spool=spool, access=access, archive_ratio=ratio) as source:
                    yield source

            yield Repair(opened, options, jobs or usable_processors(), lambda _: None)


def _defaults(config: Config | None) -> Namespace:
    from argparse import ArgumentParser

    from stacker.cli.options import add_archive_ratio, add_limits, set_defaults
    from stacker.cli.registry_options import add_registries

    parser = ArgumentParser()
    for add in (add_registries, add_archive_ratio, add_limits):
        add(parser)
    if config is not None:
        set_defaults(parser, config.defaults("repair"))
    return parser.parse_args([])
