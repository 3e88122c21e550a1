"""Build the corpora and keep them in a cache, each in three compressed forms.

    python -m benchmarks.corpora [--cache DIR] [--size small|full] [NAME...]

In: a name, a size, a cache directory.  Out: :class:`benchmarks.layout.Image` values.  A corpus is
built again when the source of its recipe changes.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import inspect
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from benchmarks import compress, packages, synthetic, tarball
from benchmarks.compress import FORMS
from benchmarks.layout import Image, Layer, write_layout
from benchmarks.tarball import LayerTar

Recipe = Callable[[Path], Iterator[LayerTar]]

CACHE = Path(__file__).parent / "cache"
COMPOSED = {"mix": ("debian", "python-ml", "node"), "app": ("debian", "node")}
"""Corpora whose layers are those of others."""


def _single(recipe: Callable[[Path], LayerTar]) -> Recipe:
    @functools.wraps(recipe)
    def layers(work: Path) -> Iterator[LayerTar]:
        yield recipe(work)

    return layers


RECIPES: dict[str, dict[str, Recipe]] = {
    "full": {
        "debian": _single(packages.debian),
        "python-ml": _single(packages.python_ml),
        "node": _single(packages.node),
        "many-layers": synthetic.many_layers,
        "whiteouts": synthetic.whiteouts,
        "links": synthetic.links,
        "large": _single(synthetic.large),
    },
    "small": {
        "debian": synthetic.small_debian,
        "python-ml": synthetic.small_python_ml,
        "node": synthetic.small_node,
        "many-layers": synthetic.many_layers,
        "whiteouts": functools.partial(synthetic.whiteouts, files=1000),
        "links": functools.partial(synthetic.links, hard_links=800, with_xattrs=200),
        "large": _single(synthetic.small_large),
    },
}
NAMES = ("debian", "python-ml", "node", "many-layers", "whiteouts", "links", "mix")


def image(name: str, form: str, *, size: str = "full", cache: Path = CACHE) -> Image:
    """Return the corpus ``name`` compressed as ``form``; build it if the cache lacks it."""
    if name in COMPOSED:
        parts = [image(part, form, size=size, cache=cache) for part in COMPOSED[name]]
        layers = [layer for part in parts for layer in part.layers]
        blobs = [part.blob(layer) for part in parts for layer in part.layers]
        return write_layout(cache / size / name / form, layers, blobs)
    recipe = RECIPES[size][name]
    return _cached(cache / size / name, recipe, stamp_of(recipe), (form,))[form]


def grown(recipe: Recipe, place: Path) -> Image:
    """Build a corpus of :mod:`benchmarks.synthetic` as gzip in the directory ``place``."""
    return _cached(place, recipe, "", ("gzip",))["gzip"]


def stamp_of(recipe: Recipe) -> str:
    """Return a digest of a recipe's source, so that a changed recipe is built again."""
    arguments: dict[str, object] = {}
    function: Callable[..., object] = recipe
    if isinstance(recipe, functools.partial):
        function, arguments = recipe.func, recipe.keywords
    module = sys.modules[inspect.unwrap(function).__module__]
    sources = [inspect.getsource(part) for part in (module, tarball, compress)]
    text = json.dumps([function.__name__, arguments, sources], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _cached(place: Path, recipe: Recipe, stamp: str, forms: Sequence[str]) -> dict[str, Image]:
    note = place / "corpus.json"
    if not note.exists() or json.loads(note.read_text())["stamp"] != stamp:
        shutil.rmtree(place, ignore_errors=True)
        every = tuple(FORMS) if stamp else forms
        made = _build(place, recipe, every)
        text = {form: [asdict(layer) for layer in layers] for form, layers in made.items()}
        note.write_text(json.dumps({"stamp": stamp, "forms": text}, indent=1))
    known = json.loads(note.read_text())["forms"]
    return {
        form: Image(place / form, tuple(Layer(**layer) for layer in known[form])) for form in forms
    }


def _build(place: Path, recipe: Recipe, forms: Sequence[str]) -> dict[str, list[Layer]]:
    print(f"building {place}", file=sys.stderr)
    blobs = place / "new"
    blobs.mkdir(parents=True)
    made: dict[str, list[Layer]] = {form: [] for form in forms}
    with tempfile.TemporaryDirectory(dir=_working_place()) as work, ThreadPoolExecutor() as pool:
        for tar in recipe(Path(work)):
            jobs = [pool.submit(_compress, tar, form, blobs) for form in forms]
            for form, job in zip(forms, jobs, strict=True):
                made[form].append(job.result())
            tar.path.unlink()
    for form, layers in made.items():
        write_layout(place / form, layers, [blobs / layer.digest[7:] for layer in layers])
    shutil.rmtree(blobs)
    return made


def _compress(tar: LayerTar, form: str, blobs: Path) -> Layer:
    unnamed = blobs / f"{tar.path.name}.{form}"
    digest = compress.compressed(tar.path, form, unnamed)
    blob = unnamed.rename(blobs / digest[7:])
    with tar.path.open("rb") as file:
        diff_id = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    plain = tar.path.stat().st_size
    return Layer(diff_id, digest, blob.stat().st_size, FORMS[form][1], plain, tar.entries)


def _working_place() -> str | None:
    """Return a directory in memory if there is one: a tree of 80 thousand files is read once."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def warm(image: Image) -> None:
    """Read every blob once, so that later reads hit the page cache."""
    for blob in image.blobs():
        with blob.open("rb") as file:
            while file.read(1 << 20):
                pass


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the corpora of the benchmarks.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--cache", type=Path, default=CACHE, metavar="DIR")
    parser.add_argument("--size", choices=sorted(RECIPES), default="full")
    arguments = parser.parse_args()
    for name in arguments.names or NAMES:
        for form in FORMS:
            made = image(name, form, size=arguments.size, cache=arguments.cache)
            packed = sum(layer.size for layer in made.layers)
            print(
                f"{name:12} {form:12} {len(made.layers):3} layers {made.entries:7} entries "
                f"{made.plain_bytes / 1e6:8.1f} MB, compressed {packed / 1e6:7.1f} MB"
            )


if __name__ == "__main__":
    main()
