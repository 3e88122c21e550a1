"""Make the images of a simulated fleet, and place them on nodes.

In: :class:`Assumptions`.  Out: images as stacks of layers, new versions of them, and which node
runs which image.  Equal assumptions give equal images: all random numbers come from one seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Assumptions:
    """What the model assumes: sizes in bytes, rates in bytes a second.

    `benchmarks.fleet_tables.MEANINGS` says what each one means.
    """

    seed: int = 1
    images: int = 200
    bases: int = 6
    runtimes: int = 24
    base_bytes: float = 30e6
    runtime_bytes: float = 20e6
    dependency_bytes: float = 15e6
    code_bytes: float = 1e6
    spread: float = 0.8
    popularity: float = 1.0
    pods: int = 20
    node_rate: float = 1.25e9
    registry_rate: float = 12.5e9
    peer_rate: float = 0.6e9
    copies: int = 3
    pieces: float = 0.05
    new_dependencies: float = 0.3
    equal_after_rebuild: float = 0.4
    compressed_again: float = 0.1
    more_nodes: float = 0.2
    lost_nodes: float = 0.05


class Layer(NamedTuple):
    """A layer: its diff_id and blob digest as numbers, and its size as a blob in bytes."""

    diff_id: int
    blob: int
    size: float


Stack = tuple[Layer, ...]
"""The layers of an image, lowest first."""


class Catalogue:
    """Makes images that share layers, and new versions of them."""

    def __init__(self, assumed: Assumptions) -> None:
        self._assumed = assumed
        self._random = np.random.default_rng(assumed.seed)
        self._made = 0

    def stacks(self) -> tuple[Stack, ...]:
        """Return the first version of all images."""
        assumed = self._assumed
        bases = [(self._layer(assumed.base_bytes),) for _ in range(assumed.bases)]
        runtimes = [
            (*bases[number], self._layer(assumed.runtime_bytes), self._layer(assumed.runtime_bytes))
            for number in self._chosen(assumed.bases, assumed.runtimes)
        ]
        return tuple(
            (*runtimes[number], self._layer(assumed.dependency_bytes), *self._code())
            for number in self._chosen(assumed.runtimes, assumed.images)
        )

    def rolled_out(self, stacks: Sequence[Stack]) -> tuple[Stack, ...]:
        """Return the images with new code, and some of them with new dependencies."""
        return tuple(
            (*stack[:-3], self._dependencies(stack[-3]), *self._code()) for stack in stacks
        )

    def rebuilt(self, stacks: Sequence[Stack]) -> tuple[Stack, ...]:
        """Return the images on new bases.  The layers above are built again, and may be equal."""
        new: dict[Layer, Layer] = {}
        for layer in {layer: None for stack in stacks for layer in stack}:
            is_base = any(stack[0] == layer for stack in stacks)
            new[layer] = self._other(layer) if is_base else self._built_again(layer)
        return tuple(tuple(new[layer] for layer in stack) for stack in stacks)

    def placed(self, nodes: int) -> Flags:
        """Return which of `nodes` new nodes runs which image."""
        runs = np.zeros((nodes, self._assumed.images), bool)
        chosen = self._chosen(self._assumed.images, nodes * self._assumed.pods)
        runs[np.repeat(np.arange(nodes), self._assumed.pods), chosen] = True
        return runs

    def moved(self, runs: Flags) -> Flags:
        """Return what the first nodes of a fleet run after its last nodes have failed."""
        lost = int(len(runs) * self._assumed.lost_nodes)
        left, gone = runs[: len(runs) - lost].copy(), runs[len(runs) - lost :]
        _, images = np.nonzero(gone)
        left[self._random.integers(0, len(left), len(images)), images] = True
        return left

    def _code(self) -> tuple[Layer, Layer]:
        return self._layer(self._assumed.code_bytes), self._layer(self._assumed.code_bytes)

    def _dependencies(self, layer: Layer) -> Layer:
        is_new = self._random.random() < self._assumed.new_dependencies
        return self._other(layer) if is_new else layer

    def _built_again(self, layer: Layer) -> Layer:
        if self._random.random() >= self._assumed.equal_after_rebuild:
            return self._other(layer)
        if self._random.random() >= self._assumed.compressed_again:
            return layer
        return layer._replace(blob=self._number())

    def _layer(self, median: float) -> Layer:
        size = median * float(self._random.lognormal(0, self._assumed.spread))
        return Layer(self._number(), self._number(), size)

    def _other(self, layer: Layer) -> Layer:
        return Layer(self._number(), self._number(), layer.size)

    def _number(self) -> int:
        self._made += 1
        return self._made

    def _chosen(self, kinds: int, count: int) -> NDArray[np.int64]:
        weights = np.arange(1, kinds + 1, dtype=float) ** -self._assumed.popularity
        return self._random.choice(kinds, count, p=weights / weights.sum())
