"""Write the tables of docs/explanation/scale.md: assumptions, engines, and what they lead to.

In: the results of :mod:`benchmarks.fleet`.  Out: Markdown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from benchmarks.aims import table
from benchmarks.figures import Figures, of_suite

MEANINGS: Final = {
    "seed": "seed of all random numbers",
    "images": "images in the fleet",
    "bases": "base images of one layer each",
    "runtimes": "runtimes of two layers each, each on one base",
    "base_bytes": "median size of a base's blob, MB",
    "runtime_bytes": "median size of a blob of a runtime, MB",
    "dependency_bytes": "median size of the blob with an image's dependencies, MB",
    "code_bytes": "median size of each of the two blobs with an image's code, MB",
    "spread": "standard deviation of the natural logarithm of these sizes",
    "popularity": "exponent of Zipf's law, by which pods choose images, images runtimes, and so on",
    "pods": "pods on a node",
    "node_rate": "network of a node, MB/s",
    "registry_rate": "network of the registry, MB/s",
    "peer_rate": "what a node receives from other nodes, with a mirror, MB/s",
    "copies": "how often the registry sends a layer that no node has, with a mirror",
    "pieces": "seconds until a node passes on what it receives, with a mirror",
    "new_dependencies": "share of images whose dependencies change in a rollout",
    "equal_after_rebuild": "share of layers that keep their diff_id on a new base",
    "compressed_again": "share of these layers whose blob has another digest",
    "more_nodes": "new nodes, as a share of the nodes before",
    "lost_nodes": "nodes that fail, as a share of the nodes before",
}
"""What each assumption means."""


def assumed(documents: Sequence[Figures]) -> str:
    """Return the table of assumptions."""
    assumptions = _document(documents)["assumptions"]
    rows = [[meaning, _plain(name, assumptions[name])] for name, meaning in MEANINGS.items()]
    return table(["assumption", "value"], rows)


def _plain(name: str, value: float) -> str:
    return f"{value / 1e6:,.0f}" if name.endswith(("_bytes", "_rate")) else f"{value:g}"


def measured(documents: Sequence[Figures]) -> str:
    """Return the table of the figures that were measured on one machine."""
    rows = [
        [
            engine["name"],
            *(f"{engine[key] * 1e9:.2f}" for key in ("seconds", "cpu")),
            f"{engine['occupied']:.2f}",
        ]
        for engine in _document(documents)["engines"]
    ]
    head = ["layers stored by", "s per GB unpacked", "CPU s per GB", "bytes on disk per byte"]
    return table(head, rows)


def results(documents: Sequence[Figures]) -> str:
    """Return the table of all events, by number of nodes."""
    head = ["nodes", "event", "layers stored by", "fetched from", "registry sends, TB"]
    head += [
        "last pod, s",
        "median of nodes that fetch, s",
        "CPU s per node",
        "GB per node",
        "already unpacked",
    ]
    rows = [
        [
            f"{line['fleet']:,}",
            line["event"],
            line["engine"],
            line["mirror"],
            f"{line['registry_bytes'] / 1e12:,.3f}",
            f"{line['last_pod']:,.1f}",
            f"{line['median_node']:,.1f}",
            f"{line['cpu_per_node']:.1f}",
            f"{line['disk_per_node'] / 1e9:.1f}",
            f"{line['found']:.0%}",
        ]
        for line in of_suite(documents, "fleet")
    ]
    return table(head, rows)


def _document(documents: Sequence[Figures]) -> Figures:
    return next(document for document in documents if document["suite"] == "fleet")
