"""``stacker bench``."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from stacker.cli.help import parse_count
from stacker.cli.options import add_jobs
from stacker.cli.output import print_item, print_table, print_text, shortened
from stacker.cli.registry_options import add_registries
from stacker.stream import stages

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Iterator

    from stacker.cli.session import Session
    from stacker.operations.bench import LayerFigures, Report
    from stacker.store.store import Store

DESCRIPTION = """\
Measure the speed of a pull, stage by stage.  Each run pulls the image twice, each time into an
empty temporary store: first with one stage at a time, then with all stages in parallel as `pull`
does.  The output has the seconds and the MB/s of each stage, the seconds of a whole pull, the stage
that limits the speed, and advice.

The temporary stores are in the store directory (--store), so `bench` measures the disk of that
directory.  The first pull may read SOURCE from the disk, and later pulls from the page cache.  To
see the difference, run `bench --runs 1` twice.  SOURCE is as for `stacker pull`; `bench` does not
keep interrupted downloads.
"""
EXAMPLES = """\
  stacker bench oci:./layout:1.0
  stacker bench --sync --runs 5 oci:./layout:1.0
  stacker --store /dev/shm/scratch bench docker-archive:saved.tar
  stacker bench --json oci:./layout | jq .item.limit
"""
_ADVICE = {
    stages.READ: "move the image to a faster disk, into the page cache, or to a nearer registry",
    stages.HASH_BLOB: "use a processor with SHA instructions, or compress the layer better",
    stages.INFLATE: "compress the layer with zstd, which decompresses faster than gzip",
    stages.HASH_LAYER: "use a processor with SHA instructions",
    stages.PARSE: "remove files such as caches, tests and documentation from the image",
    stages.APPLY: "use a store on a faster filesystem, such as tmpfs, or an image with fewer files",
    stages.COMMIT: "omit --sync, or use a store on a disk that syncs faster",
}
_ONE_LAYER = "split the layer, because layers are unpacked in parallel"
_MEGABYTE = 1e6


def configure(parser: ArgumentParser) -> None:
    """Add the verb's arguments."""
    add = parser.add_argument
    add("source", metavar="SOURCE", help="the image to measure")
    add(
        "--platform",
        metavar="[OS/]ARCH[/VARIANT][:OSVERSION]",
        help="measure the image for this platform",
    )
    add(
        "--runs",
        metavar="N",
        type=parse_count,
        default=3,
        help="the number of runs; the figures are medians (default: 3)",
    )
    add(
        "--form",
        choices=("tree", "erofs"),
        default="tree",
        help="form of the layers, as for `stacker pull` (default: tree)",
    )
    add_jobs(parser, "layers to unpack")
    add("--sync", action="store_true", help="flush each layer to disk, as `pull --sync` does")
    add_registries(parser)


def run(args: Namespace, session: Session) -> None:
    """Measure the pull and print the report."""
    report = _measure(args, session)
    if session.json:
        print_item("bench", _document(report, args.form))
        return
    headers = ("STAGE", "SECONDS", "MB/S", "SHARE")
    total = sum(map(report.seconds, stages.STAGES)) or 1.0
    rows = [
        (
            name,
            f"{report.seconds(name):.3f}",
            _rate(report, name),
            f"{report.seconds(name) / total:.0%}",
        )
        for name in stages.STAGES
    ]
    print_table(headers, rows, right="SECONDS MB/S SHARE")
    for line in _sentences(report, total):
        print_text(line)


def _sentences(report: Report, total: float) -> Iterator[str]:
    count = len(report.layers)
    tar = report.bytes(stages.PARSE)
    yield ""
    yield (
        f"{count} layer{'s' if count > 1 else ''}, {tar / _MEGABYTE:.1f} MB, "
        f"{sum(layer.entries for layer in report.layers)} entries; medians of {report.runs} runs"
    )
    yield f"one stage at a time  {total:8.3f} s"
    yield f"as a pull runs them  {report.pull:8.3f} s  {tar / report.pull / _MEGABYTE:.0f} MB/s"
    yield f"limit: {report.limit}, {_bound(report)}"
    yield f"  {_ADVICE[report.limit]}"
    if report.is_bound_by_one_layer:
        yield f"  {_ONE_LAYER}"


def _bound(report: Report) -> str:
    if report.is_bound_by_one_layer:
        layer, thread = report.longest, report.longest.slowest_thread
        return (
            f"in layer {shortened(layer.diff_id.hex, 13)}: {' + '.join(thread)} take "
            f"{layer.total(thread):.3f} s in one thread"
        )
    seconds, processors = report.shared, report.processors
    return f"the longest stage: all stages take {seconds:.3f} s on {processors} processors"


def _rate(report: Report, stage: str) -> str:
    seconds = report.seconds(stage)
    if stage == stages.COMMIT or not seconds:
        return ""
    return f"{report.bytes(stage) / seconds / _MEGABYTE:.0f}"


def _measure(args: Namespace, session: Session) -> Report:
    from stacker.cli.registry_options import registry_access
    from stacker.image.platform import Platform
    from stacker.jobs.tasks import UnpackOptions
    from stacker.layer.metadata import IdMap
    from stacker.layer.whiteout_format import WhiteoutFormat
    from stacker.linux.process import usable_processors
    from stacker.operations.bench import measure_pull
    from stacker.source.identify import complete_source
    from stacker.source.open import open_source

    text = complete_source(args.source)
    wanted = Platform.parse(args.platform) if args.platform else None
    store = session.store()
    with (
        store.staging.directory("spool") as spool,
        open_source(text, spool=spool, access=registry_access(args, os.environ, text)) as source,
    ):
        return measure_pull(
            source,
            lambda: _empty_store(store),
            platform=wanted or Platform.host(os.uname().machine),
            options=UnpackOptions(
                WhiteoutFormat.permitted(),
                IdMap.permitted(),
                sync=args.sync,
                resume=False,
                form=args.form,
            ),
            jobs=args.jobs or usable_processors(),
            processors=usable_processors(),
            runs=args.runs,
            emit=lambda _: None,
        )


@contextmanager
def _empty_store(store: Store) -> Iterator[Store]:
    from stacker.store.store import Store

    with store.staging.directory("bench") as directory:
        yield Store.open(directory / "store")


def _document(report: Report, form: str) -> dict[str, object]:
    return {
        "stages": [
            {
                "stage": name,
                "seconds": report.seconds(name),
                "bytes": report.bytes(name),
            }
            for name in stages.STAGES
        ],
        "form": form,
        "pull_seconds": report.pull,
        "processors": report.processors,
        "jobs": report.jobs,
        "runs": report.runs,
        "limit": {
            "stage": report.limit,
            "diff_id": str(report.longest.diff_id) if report.is_bound_by_one_layer else None,
            "seconds": report.longest.total(report.longest.slowest_thread)
            if report.is_bound_by_one_layer
            else report.shared,
            "advice": _ADVICE[report.limit],
        },
        "layers": [_layer(layer) for layer in report.layers],
    }


def _layer(layer: LayerFigures) -> dict[str, object]:
    return {
        "diff_id": str(layer.diff_id),
        "entries": layer.entries,
        "blob_bytes": layer.blob_bytes,
        "tar_bytes": layer.tar_bytes,
        "seconds": dict(layer.seconds),
    }
