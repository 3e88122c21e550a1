"""Unpack layers again from the sources of their images, for every verb that needs an image.

A session and the registry options of a verb, if any, come in; a `Restorer` goes out.  Registries
and sources are loaded only when a layer is damaged.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator, Sequence

    from stacker.cli.config import Config
    from stacker.cli.session import Session
    from stacker.image.digest import DiffID, ImageID
    from stacker.operations.repair import Repair
    from stacker.source.protocol import Source
    from stacker.store.store import Store


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
