"""Build the stack of an image's layers once, and store it as a chain.

The input is the config of an image whose layers are in the store; the output is the
:class:`~stacker.layer.paths.Stack` to mount.  Every mount imports this module, so it loads the
code that builds a stack only when a stack is missing.
"""

from __future__ import annotations

import errno
import os
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from stacker.errors import IntegrityError, LayerError, path_of
from stacker.image.config import chain_ids
from stacker.image.digest import ChainID
from stacker.linux.syscall import PATH_MAX

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from stacker.events import Emit
    from stacker.image.config import ImageConfig
    from stacker.image.digest import DiffID
    from stacker.layer.paths import Form, Stack
    from stacker.layer.whiteout_format import WhiteoutFormat
    from stacker.stack.rebase import UnpackedLayer
    from stacker.store.store import Store
    from stacker.tar.limits import Limits

_MAX_PRINTED: Final = 200
NO_LAYERS = ChainID("sha256", "0" * 64)
"""The chain ID for images without layers."""


def chain_id_of(config: ImageConfig) -> ChainID:
    """Return the chain ID of an image's layers, which names its stack in the store."""
    ids = chain_ids(config.diff_ids)
    return ids[-1] if ids else NO_LAYERS


def is_complete(store: Store, config: ImageConfig) -> bool:
    """Return whether the store has the stack of an image, and every layer in its form."""
    return _stored(store, config) is not None


def ensure_stack(
    store: Store,
    config: ImageConfig,
    *,
    form: Form | None = None,
    limits: Limits | None = None,
    sync: bool = False,
) -> Stack:
    """Return the stack of an image whose layers are in the store; build it if it is missing.

    The caller has locked the layers (``store.layers.reading``).  Layers that lack the form of the
    stack get it.

    :param form: the form of the stack; ``None`` for any.
    :param limits: the limits of the pull; ``None`` for an image in the store, whose stack a pull
        accepted before.
    :param sync: flush new files to disk before publishing the stack.
    :raises NotFoundError: a layer is not in the store.
    :raises LayerError: a hard link has no target, or a path or a limit is exceeded.
    :raises UnsupportedError: the layers have different whiteout formats.
    """
    stack = _stored(store, config, form)
    if stack is not None:
        return stack
    chain_id = chain_id_of(config)
    with store.chains.building(chain_id) as directory:
        if _stored(store, config, form) is None:  # no other process has built it meanwhile
            form = form or _common_form(store, config)
            stack = _built(store, config, directory, form, limits)
            store.chains.commit(chain_id, directory, stack, sync=sync)
    return store.chains.read(chain_id)


def _stored(store: Store, config: ImageConfig, form: Form | None = None) -> Stack | None:
    """Return the stack of an image as the store has it.

    While no image listed the stack, `convert` or `gc` may have removed its form from a layer.

    :param form: the form of the stack; ``None`` for any.
    :returns: ``None`` if the stack is missing, damaged or of another form, or if a power cut can
        have damaged it, or if a layer lacks its form.
    """
    chain_id = chain_id_of(config)
    if not store.chains.is_certain(chain_id):
        return None
    try:
        stack = store.chains.read(chain_id)
    except IntegrityError:
        return None
    has_form = form in (None, stack.form) and all(
        stack.form in store.layers.paths(each).forms for each in config.diff_ids
    )
    return stack if has_form else None


@contextmanager
def reading_stack(store: Store, config: ImageConfig, form: Form | None = None) -> Iterator[Stack]:
    """Yield the stack of an image, and keep its directories in their place for the block.

    Otherwise another process could exchange them for those of another form.  The caller has locked
    the layers.  Errors as for `ensure_stack`.

    :param form: the form of the stack; ``None`` for any.
    """
    chain_id = chain_id_of(config)
    while True:
        ensure_stack(store, config, form=form)
        with store.chains.reading(chain_id) as stack:
            if stack is not None:
                yield stack
                return


def _built(
    store: Store, config: ImageConfig, directory: Path, form: Form, limits: Limits | None
) -> Stack:
    from stacker.tar.limits import UNLIMITED  # most mounts find their stack in the store

    if any(form not in store.layers.paths(each).forms for each in config.diff_ids):
        add_form(store, config.diff_ids, form)
    layers = unpacked_layers(store, config.diff_ids, form)
    with _explain_long_paths(chain_id_of(config)):
        return build_form(
            layers, directory, form, store.whiteout_format, limits=limits or UNLIMITED
        )


def add_form(
    store: Store,
    diff_ids: Sequence[DiffID],
    form: Form,
    *,
    jobs: int = os.cpu_count() or 1,
    emit: Emit = lambda _: None,
) -> int:
    """Give layers a form, in worker processes; the caller has locked them against removal.

    :returns: the number of layers that lacked it.
    """
    from stacker.jobs.convert_layer import ConvertTask, convert_layer
    from stacker.jobs.pool import run_tasks

    lacking = [
        each for each in dict.fromkeys(diff_ids) if form not in store.layers.paths(each).forms
    ]
    tasks = [ConvertTask(store, each, form) for each in lacking]
    return sum(run_tasks(tasks, convert_layer, jobs=jobs, emit=emit, what=lambda task: task.what))


def build_form(
    layers: Sequence[UnpackedLayer],
    directory: Path,
    form: Form,
    whiteout_format: WhiteoutFormat,
    *,
    limits: Limits,
) -> Stack:
    """Stack layers in a form, base first; errors as for `ensure_stack`.

    :param directory: an empty directory for what the stack adds.
    :param whiteout_format: the format of a stack without layers.
    """
    from stacker.stack.build import build_stack
    from stacker.stack.build_index import build_index

    if form == "erofs":
        return build_index(
            layers, directory=directory, whiteout_format=whiteout_format, limits=limits
        )
    return build_stack(layers, repairs=directory, whiteout_format=whiteout_format, limits=limits)


def _common_form(store: Store, config: ImageConfig) -> Form:
    """Return the form that most layers of an image have, or the form of trees.

    A form that every layer has comes first, because a read-only store gets no other one.
    """
    forms = [store.layers.paths(each).forms for each in config.diff_ids]
    counts = Counter(form for each in forms for form in each)
    most = max(counts.values(), default=0) == len(forms)
    if most and counts["tree"] != counts["erofs"]:
        return "tree" if counts["tree"] == len(forms) else "erofs"
    return "erofs" if counts["erofs"] > counts["tree"] else "tree"


@contextmanager
def _explain_long_paths(chain_id: ChainID) -> Iterator[None]:
    """Turn ENAMETOOLONG into an error that names the path and the remedy."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        from stacker.tar.entry import printable  # mounts do not need it

        name = os.fsencode(path_of(error))
        raise LayerError(
            f"cannot stack layers: chain {chain_id}: got a path of {len(name)} bytes in the "
            f"store, want at most {PATH_MAX - 1}: {printable(name[:_MAX_PRINTED])}…",
            hint="use a shorter --store path, if the path in the image is short enough",
        ) from error


def unpacked_layers(
    store: Store, diff_ids: Sequence[DiffID], form: Form = "tree"
) -> list[UnpackedLayer]:
    """Return layers of the store, base first, as `build_form` takes them."""
    from stacker.stack.rebase import UnpackedLayer

    layers = {}
    for each in dict.fromkeys(diff_ids):
        paths, record = store.layers.paths(each), store.layers.record(each)
        layers[each] = UnpackedLayer.at(f"layer {each}", paths, record, form)
    return [layers[each] for each in diff_ids]
