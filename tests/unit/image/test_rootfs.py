"""Chain IDs, against values computed by hand as the specification spells them out."""

from __future__ import annotations

import hashlib

from stacker.image.config import chain_ids
from stacker.image.digest import ChainID, DiffID

A, B, C = (DiffID.of(name) for name in (b"a", b"b", b"c"))


def test_no_layers_have_no_chain() -> None:
    assert chain_ids(()) == ()


def test_the_lowest_chain_id_is_its_diff_id() -> None:
    assert chain_ids([A]) == (ChainID.recast(A),)


def test_each_chain_id_digests_the_one_below_and_the_layer() -> None:
    second = "sha256:" + hashlib.sha256(f"{A} {B}".encode()).hexdigest()
    third = "sha256:" + hashlib.sha256(f"{second} {C}".encode()).hexdigest()
    assert [str(chain) for chain in chain_ids([A, B, C])] == [str(A), second, third]


def test_a_known_chain_has_its_known_name() -> None:
    # Worked out with sha256sum(1): printf 'sha256:%064d sha256:%064d' 0 1.
    diff_ids = [DiffID("sha256", "0" * 64), DiffID("sha256", "0" * 63 + "1")]
    assert (
        chain_ids(diff_ids)[1].hex
        == "cc499ad2349cbec7bc911a381418fb111682b861b434a7a72e14bed13d42e848"
    )
