"""Functions between registries, layouts and archives, which need no store.

Locations come in; a `Copied`, or tags, go out.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from stacker.api.options import host_platform, ignore, jobs_or_all, platform_of
from stacker.api.registries import RegistryOptions

if TYPE_CHECKING:
    from stacker.events import Emit
    from stacker.image.platform import Platform
    from stacker.operations.copy import Copied


def copy_image(
    source: str,
    destination: str,
    *,
    platform: Platform | str | None = None,
    whole_index: bool = False,
    registries: RegistryOptions | None = None,
    jobs: int | None = None,
    on_event: Emit = ignore,
) -> Copied:
    """Copy an image byte for byte, without a store.

    :param source: as for `Store.pull`.
    :param destination: as for `Store.push`.
    :param platform: which image of an index; ``None`` for the best match for this machine.
    :param whole_index: copy the index with all its images.
    :param registries: how to reach registries; ``None`` for `RegistryOptions()`.
    :param jobs: blobs to send at the same time; ``None`` for one for each processor.
    :raises NotFoundError: the source has no such image.
    :raises IntegrityError: a document or a blob differs from its digest.
    :raises NetworkError: a registry cannot be reached.
    """
    from stacker.linux.process import umask
    from stacker.operations.copy import copy_between

    wanted = platform_of(platform)
    return copy_between(
        source,
        destination,
        platform=None if whole_index else wanted or host_platform(),
        must_match=wanted is not None,
        access=(registries or RegistryOptions()).access(),
        spool=Path(tempfile.gettempdir()),
        umask=umask(),
        jobs=jobs_or_all(jobs),
        emit=on_event,
    )


def list_tags(repository: str, *, registries: RegistryOptions | None = None) -> list[str]:
    """Return all tags of a repository, in the order of the registry.

    :param repository: ``[docker://][HOST[:PORT]/]REPO``.
    :param registries: how to reach registries; ``None`` for `RegistryOptions()`.
    :raises UsageError: the name is not that of a repository in a registry.
    :raises NotFoundError: the registry has no such repository.
    :raises NetworkError: the registry cannot be reached.
    """
    from stacker.registry.tags import tags_of
    from stacker.source.identify import complete_source

    return tags_of(complete_source(repository), (registries or RegistryOptions()).access())[1]
