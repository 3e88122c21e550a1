"""Give a layer of the store its other form, from the one that it has.

    skeleton + tree -> tar -> verified(diff_id) -> layer.tar + index
    layer.tar              -> verified(diff_id) -> skeleton + tree

A store and a diff_id come in; the layer has both forms when the function returns.  No blob is
read.  This module must not use images or stacks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from stacker.errors import StackerError, full_disk_hint
from stacker.jobs.pack_layer import pack_reporter
from stacker.jobs.tasks import UnpackOptions
from stacker.jobs.write_layer import write_layer
from stacker.layer.metadata import IdMap
from stacker.layer.tar_stream import layer_tar
from stacker.linux.filesystem import sync_filesystem
from stacker.store.store import Store
from stacker.stream.pipe import threaded
from stacker.stream.verify import metered, verified
from stacker.tar.limits import UNLIMITED

if TYPE_CHECKING:
    from stacker.events import Emit
    from stacker.image.digest import DiffID
    from stacker.layer.paths import Form, LayerPaths


@dataclass(frozen=True, slots=True)
class ConvertTask:
    """A layer of the store at ``store`` that gets a form."""

    store: Store
    diff_id: DiffID
    form: Form

    @property
    def what(self) -> str:
        """The layer's name for messages."""
        return f"layer {self.diff_id}"


def convert_layer(task: ConvertTask, emit: Emit) -> bool:
    """Give a layer a form; the caller has locked it against removal.

    :param emit: called with `PackProgress`.
    :returns: False if the layer has the form already.
    :raises NotFoundError: the store lacks the layer.
    :raises IntegrityError: the layer on disk differs from its diff_id.
    :raises StackerError: the disk is full, or the form cannot hold the layer.
    """
    store = task.store
    try:
        with store.layers.unpacking(task.diff_id, replace=True) as staged:
            if staged is None or task.form in store.layers.paths(task.diff_id).forms:
                return False
            store.require_writable()
            _convert(store, task, staged, emit)
            return True
    except OSError as error:
        text = f"cannot convert: {task.what}: {error.strerror or error}"
        raise StackerError(text, hint=full_disk_hint(error)) from error


def _convert(store: Store, task: ConvertTask, staged: LayerPaths, emit: Emit) -> None:
    diff_id, record = task.diff_id, store.layers.record(task.diff_id)
    idmap = IdMap(squash=record.squashed)
    options = UnpackOptions(record.whiteout_format, idmap, UNLIMITED)
    chunks = layer_tar(store.layers.paths(diff_id), record, what=task.what)
    chunks = metered(chunks, pack_reporter(diff_id, record, emit))
    with threaded(chunks) as read:
        checked = verified(read, digest=diff_id, what=task.what)
        made = write_layer(checked, staged, task.form, options, what=task.what)
    sync_filesystem(staged.root)
    if store.layers.is_own(diff_id):
        store.layers.adopt(diff_id, staged, made.as_other_form_of(record), task.form)
    else:  # the layer of an additional store stays as it is
        made = replace(made, blobs=record.blobs, tar_bytes=record.tar_bytes)
        store.layers.commit(diff_id, staged, made, sync=True)
