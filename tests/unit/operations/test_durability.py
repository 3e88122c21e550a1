"""The flush marks as durable only what was in the store before it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from stacker.cli import exit as command_end
from stacker.image.digest import ChainID, DiffID
from stacker.layer.paths import Stack
from stacker.layer.record import LayerRecord
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.operations import durability
from stacker.store.disk_mark import DiskMark
from stacker.store.store import Store

LAYER, CHAIN = DiffID.of(b"layer"), ChainID.of(b"chain")
FORM = WhiteoutFormat.TRUSTED


def unpack(store: Store) -> None:
    with store.layers.unpacking(LAYER, replace=True) as paths:
        assert paths is not None
        store.layers.commit(LAYER, paths, LayerRecord(FORM), sync=False)


def build(store: Store) -> None:
    with store.chains.invalidated([CHAIN]):
        pass
    with store.chains.building(CHAIN) as directory:
        store.chains.commit(CHAIN, directory, Stack((), FORM, plain=True))


def marks(store: Store) -> list[DiskMark]:
    layers = map(store.layers.mark, store.layers.all())
    return [*layers, *map(store.chains.mark, store.chains.all())]


@pytest.mark.parametrize("exchange", [unpack, build])
def test_object_that_repair_replaces_during_a_flush_is_not_marked_durable(
    store: Store, monkeypatch: pytest.MonkeyPatch, exchange: Callable[[Store], None]
) -> None:
    exchange(store)
    monkeypatch.setattr(durability, "is_tmpfs", lambda _: False)
    monkeypatch.setattr(durability, "sync_filesystem", lambda _: exchange(store))
    durability.flush(store)
    assert [mark for mark in marks(store) if mark.needs_flush]
    monkeypatch.setattr(durability, "sync_filesystem", lambda _: None)
    durability.flush(store)
    assert all(mark.is_durable for mark in marks(store))


def test_layer_that_repair_exchanges_while_it_is_verified_is_not_marked_durable(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stacker.jobs import verify_layer

    unpack(store)
    (store.layers.paths(LAYER).root / "session").write_text("another session")

    def verify(*_: object) -> verify_layer.LayerVerified:
        unpack(store)
        return verify_layer.LayerVerified(LAYER)

    monkeypatch.setattr(verify_layer, "verify_layer", verify)
    assert durability.sound_layers(store, [LAYER]) == {LAYER}
    assert store.layers.mark(LAYER).needs_flush


def test_flush_in_the_background_marks_layers_although_it_gets_sigterm(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shutdown sends SIGTERM to every process, and waits for those that ignore it."""
    unpack(store)
    (flushing, started), (release, go) = os.pipe(), os.pipe()

    def sync(_: object) -> None:
        os.write(started, b"1")
        os.read(release, 1)

    monkeypatch.setattr(durability, "is_tmpfs", lambda _: False)
    monkeypatch.setattr(durability, "sync_filesystem", sync)
    children: list[int] = []
    fork = os.fork

    def forked() -> int:
        children.append(fork())
        return children[-1]

    monkeypatch.setattr(os, "fork", forked)
    monkeypatch.setattr(command_end, "_stores", [store.root])
    command_end.flush_now_in_background()
    os.read(flushing, 1)
    os.kill(children[0], signal.SIGTERM)
    os.write(go, b"1")
    os.waitpid(children[0], 0)
    assert store.layers.mark(LAYER).is_durable
