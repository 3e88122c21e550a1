"""The flush marks as durable only what was in the store before it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from stacker.image.digest import ChainID, DiffID
from stacker.layer.paths import Stack
from stacker.layer.record import LayerRecord
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.operations import durability
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
        assert directory is not None
        store.chains.commit(CHAIN, directory, Stack((), FORM, plain=True))


@pytest.mark.parametrize("exchange", [unpack, build])
def test_what_repair_exchanges_during_a_flush_is_not_marked_durable(
    store: Store, monkeypatch: pytest.MonkeyPatch, exchange: Callable[[Store], None]
) -> None:
    exchange(store)
    monkeypatch.setattr(durability, "is_tmpfs", lambda _: False)
    monkeypatch.setattr(durability, "sync_filesystem", lambda _: exchange(store))
    durability.flush(store)
    assert [*store.layers.not_durable(), *store.chains.not_durable()]
    monkeypatch.setattr(durability, "sync_filesystem", lambda _: None)
    durability.flush(store)
    assert not [*store.layers.not_durable(), *store.chains.not_durable()]


def test_layer_that_repair_exchanges_while_it_is_verified_is_not_marked_durable(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stacker.jobs import verify_layer

    unpack(store)
    boot_id = store.layers.paths(LAYER).boot_id
    boot_id.write_text("another boot")

    def verify(*_: object) -> verify_layer.LayerVerified:
        unpack(store)
        return verify_layer.LayerVerified(LAYER)

    monkeypatch.setattr(verify_layer, "verify_layer", verify)
    assert durability.sound_layers(store, [LAYER]) == {LAYER}
    assert list(store.layers.not_durable()) == [LAYER]
