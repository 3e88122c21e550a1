"""Convert images between the forms of layers, without their source.

A store, images and a form come in; the images' layers and stacks have that form when the function
returns.  A layer's other form is removed, unless another image or a mount uses it.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from stacker.errors import IntegrityError, NotFoundError
from stacker.layer.paths import FORMS
from stacker.operations.durability import ensure_sound
from stacker.operations.remove import MountedParts
from stacker.operations.stack import add_form, chain_id_of, ensure_stack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from stacker.events import Emit
    from stacker.image.digest import DiffID, ImageID
    from stacker.layer.paths import Form
    from stacker.operations.durability import Restore
    from stacker.store.store import Store


def convert_image(
    store: Store,
    image_id: ImageID,
    form: Form,
    *,
    jobs: int,
    emit: Emit,
    restore: Restore | None = None,
) -> tuple[int, int]:
    """Give an image a form.

    :param jobs: layers converted at the same time.
    :param emit: called with `PackProgress`.
    :param restore: unpacks missing layers, and layers that a power cut damaged.
    :returns: the number of layers that got the form, and of those that lost the other one.
    :raises NotFoundError: the store lacks the image or one of its layers.
    :raises IntegrityError: a layer on disk differs from its diff_id.
    :raises UnsupportedError: the form cannot hold the image.
    """
    store.require_writable()
    with ExitStack() as held:
        config = held.enter_context(store.images.reading(image_id))
        ensure_sound(store, image_id, restore)
        held.enter_context(store.layers.reading(config.diff_ids))
        added = add_form(store, config.diff_ids, form, jobs=jobs, emit=emit)
        ensure_stack(store, config, form=form)
    return added, drop_unused_forms(store, config.diff_ids)


def drop_unused_forms(store: Store, diff_ids: Iterable[DiffID]) -> int:
    """Remove forms that layers have besides the one that a stack uses.

    :returns: the number of layers that lost a form.
    """
    double = layers_of_two_forms(store, diff_ids)
    if not double:
        return 0
    with (
        store.staging.trash() as discard,
        store.images.write_lock(),
        store.layers.removing_unread(double) as free,
    ):
        unused = unused_forms(store, free, MountedParts.read(store))
        for diff_id, form in unused.items():
            drop_form(store, diff_id, form, discard)
        return len(unused)


def layers_of_two_forms(store: Store, diff_ids: Iterable[DiffID]) -> list[DiffID]:
    """Return those layers of the store itself that have both forms."""
    own = (each for each in dict.fromkeys(diff_ids) if store.layers.is_own(each))
    return [each for each in own if len(store.layers.own_paths(each).forms) > 1]


def unused_forms(
    store: Store, double: Iterable[DiffID], mounted: MountedParts
) -> dict[DiffID, Form]:
    """Return for each layer the form that no stack uses; a mount keeps both forms of its layers.

    The caller has locked the list of images, and the layers against readers.

    :param double: layers that have both forms.
    """
    used, found = _used_forms(store), {}
    for diff_id in sorted(double, key=str):
        unused = [form for form in FORMS if form not in used[diff_id]]
        if len(unused) == 1 and not mounted.may_use(diff_id):
            found[diff_id] = unused[0]
    return found


def drop_form(
    store: Store, diff_id: DiffID, form: Form, discard: Callable[[Iterable[Path]], None]
) -> None:
    """Remove a form that `unused_forms` yields."""
    record = store.layers.record(diff_id).without_form(form)
    store.layers.drop(diff_id, form, record, discard)


def _used_forms(store: Store) -> dict[DiffID, set[Form]]:
    """Return the forms of each layer that the stacks of images use."""
    used: dict[DiffID, set[Form]] = defaultdict(set)
    for image in store.images.all():
        with suppress(IntegrityError, NotFoundError):
            config = store.images.config(image.id)
            form = store.chains.read(chain_id_of(config)).form
            for diff_id in config.diff_ids:
                used[diff_id].add(form)
    return used
