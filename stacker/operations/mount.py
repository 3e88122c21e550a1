"""Mount an image of the store, or plan its mount.

A store and an image's name come in; a mount goes out that the store's mount table lists.  The image
and its layers stay locked until the record of the mount is written, so that a concurrent removal
comes before the mount or is refused.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from stacker.linux import lock, process, safe_path
from stacker.mount.attach import attach, checked
from stacker.mount.drivers.choose import choose
from stacker.mount.plan import StackedImage, new_id
from stacker.mount.table import Table
from stacker.operations.durability import ensure_sound
from stacker.operations.stack import chain_id_of, reading_stack

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from stacker.image.digest import ImageID
    from stacker.mount.drivers.protocol import Mounted
    from stacker.mount.plan import MountRequest, Plan
    from stacker.mount.record import MountRecord
    from stacker.operations.durability import Restore
    from stacker.store.store import Store

    Check = Callable[[Store, ImageID], object]
    """Verifies an image, and raises an error if it is damaged."""


def mount_flags(wanted: Collection[str]) -> frozenset[str]:
    """Return the flags that a caller wants, and nosuid and nodev for an unprivileged user.

    :param wanted: names of `stacker.mount.plan.FLAGS`.
    """
    flags = set(wanted)
    if not process.has_capability(process.CAP_SYS_ADMIN) or not process.in_initial_user_namespace():
        flags |= {"nosuid", "nodev"}
    return frozenset(flags)


def mount_image(
    store: Store,
    name: str,
    request: MountRequest,
    *,
    restore: Restore | None = None,
    check: Check | None = None,
) -> tuple[MountRecord, Mounted]:
    """Mount an image.

    :param name: an image ID, a unique prefix of one, or a name.
    :param restore: unpacks missing layers, and layers that a power cut damaged.
    :param check: verifies the image before the mount.
    :raises NotFoundError: the store lacks the image or one of its layers.
    :raises IntegrityError: `check` finds the image damaged.
    :raises MountError: the target cannot be used, or every driver fails; no mount is left.
    :raises LockedError: the target or the upper directory is in use.
    """
    with stacked_image(store, name, restore, check) as image:
        return attach(Table(store.mounts), request, image, forbidden=store.root)


def find_mount(store: Store, name: str, request: MountRequest) -> MountRecord | None:
    """Return the mount that a request asks for, if it exists already.

    :param name: an image ID, a unique prefix of one, or a name.
    :raises NotFoundError: the store lacks the image.
    """
    image_id = store.images.find(name)
    entry = Table(store.mounts).find(safe_path.resolve(request.target))
    if entry is None or entry.state != "mounted" or entry.record.image != str(image_id):
        return None
    upper = request.upper and safe_path.resolve(request.upper)
    wanted = (request.read_only, upper)
    return entry.record if (entry.record.read_only, entry.record.upper) == wanted else None


def plan_image(
    store: Store,
    name: str,
    request: MountRequest,
    *,
    restore: Restore | None = None,
    check: Check | None = None,
) -> tuple[Plan, str, tuple[str, ...]]:
    """Plan the mount of an image, and mount nothing; parameters as for `mount_image`.

    :returns: the plan, the driver that `mount_image` would try first, and the reason of each
        driver before it.
    """
    with stacked_image(store, name, restore, check) as image:
        request = checked(request, forbidden=store.root)
        identifier = new_id()
        plan = request.plan(image, identifier, store.mounts / identifier)
        driver, reasons = choose(request.driver, plan)
        return plan, driver.name, reasons


@contextmanager
def stacked_image(
    store: Store, name: str, restore: Restore | None = None, check: Check | None = None
) -> Iterator[StackedImage]:
    """Lock an image and its layers for the block, and return it with its stack.

    :param name: an image ID, a unique prefix of one, or a name.
    :param restore: unpacks missing layers, and layers that a power cut damaged.
    :param check: verifies the image while its layers are locked.
    :raises NotFoundError: the store lacks the image or one of its layers.
    """
    with ExitStack() as held:
        held.enter_context(lock.shared(store.pull_lock))  # gc keeps the stack until it is mounted
        image_id = store.images.find(name)
        ensure_sound(store, image_id, restore)
        config = held.enter_context(store.images.reading(image_id))
        held.enter_context(store.layers.reading(config.diff_ids))
        if check is not None:
            check(store, image_id)
        stack = held.enter_context(reading_stack(store, config))
        layers = {paths.diff: paths for paths in map(store.layers.paths, config.diff_ids)}
        yield StackedImage(
            id=str(image_id),
            stack=stack,
            layer_paths=tuple(layers[path] for path in stack.directories if path in layers),
            diff_ids=tuple(map(str, config.diff_ids)),
            chain_id=str(chain_id_of(config)),
        )
