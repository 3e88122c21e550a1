"""The defaults of the library's parameters, and the values that operations take instead.

A parameter of a method comes in; the value of an operation goes out.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stacker.api.images import Image
    from stacker.events import Event
    from stacker.image.digest import ImageID
    from stacker.image.platform import Platform
    from stacker.jobs.tasks import UnpackOptions
    from stacker.layer.paths import Form
    from stacker.tar.limits import Limits


def ignore(event: Event) -> None:
    """Take an event, and do nothing."""
    del event


def complete_source(text: str) -> str:
    """Return a source with its transport; see `stacker.source.identify`."""
    from stacker.source import identify

    return identify.complete_source(text)


def complete_destination(text: str) -> str:
    """Return a destination with its transport; see `stacker.source.identify`."""
    from stacker.source import identify

    return identify.complete_destination(text)


def image_name(image: Image | ImageID | str, image_id: ImageID) -> str:
    """Return the name that a caller used for an image; empty if it was no name.

    :param image_id: the ID of the image.
    """
    text = text_of(image)
    is_id = image_id.hex.startswith(text.removeprefix(f"{image_id.algorithm}:"))
    return "" if is_id else text


def text_of(image: Image | ImageID | str) -> str:
    """Return the text that names an image in a store."""
    return str(getattr(image, "id", image))


def jobs_or_all(jobs: int | None) -> int:
    """Return a number of workers; the default is one for each processor that this process uses."""
    from stacker.linux.process import usable_processors

    return jobs or usable_processors()


def umask_or_own(umask: int | None) -> int:
    """Return a umask; the default is that of this process."""
    from stacker.linux import process

    return process.umask() if umask is None else umask


def platform_of(platform: Platform | str | None) -> Platform | None:
    """Return a platform, parsed if it is a text.

    :raises UsageError: the text is malformed.
    """
    from stacker.image.platform import Platform

    return Platform.parse(platform) if isinstance(platform, str) else platform


def host_platform() -> Platform:
    """Return the platform of this machine."""
    from stacker.image.platform import Platform

    return Platform.host(os.uname().machine)


def unpack_options(
    limits: Limits | None = None,
    *,
    sync: bool = False,
    keep_blobs: bool = False,
    resume: bool = True,
    form: Form | None = None,
) -> UnpackOptions:
    """Return how this process can unpack layers: parameters as for `Store.pull`."""
    from stacker.jobs.tasks import UnpackOptions
    from stacker.layer.metadata import IdMap
    from stacker.layer.whiteout_format import WhiteoutFormat
    from stacker.tar.limits import Limits

    return UnpackOptions(
        WhiteoutFormat.permitted(),
        IdMap.permitted(),
        limits or Limits(),
        sync=sync,
        keep_blobs=keep_blobs,
        resume=resume,
        form=form,
    )
