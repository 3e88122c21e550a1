"""Parts of the benchmarks: results, pages, corpora, media, and how a process is measured."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import (
    compress,
    corpora,
    figures,
    fuse,
    pages,
    process,
    report,
    synthetic,
)
from benchmarks.process import FailedError, measured
from benchmarks.scratch import Medium
from tests.support.benchmarks import WANTED

pytestmark = WANTED


def test_the_pages_show_the_results_that_are_committed(tmp_path: Path) -> None:
    results = [figures.read(path) for path in sorted(report.RESULTS.glob("*.json"))]
    committed = figures.latest(results)
    for name in pages.TABLES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(pages.ROOT / name, tmp_path / name)
    for page in pages.rewrite(committed, tmp_path):
        assert page.read_text() == (pages.ROOT / page.relative_to(tmp_path)).read_text()


def test_origin_names_the_suites_of_each_machine() -> None:
    [first] = [
        figures.read(path) for path in report.RESULTS.glob("*.json") if path.stem == "throughput"
    ]
    second = {**first, "suite": "verify", "machine": {**first["machine"], "kernel": "1.2.3"}}
    assert pages.origin([first]).count("machine |") == 1
    both = pages.origin([first, second])
    assert "| machine (throughput) |" in both
    assert "Linux 1.2.3" in both.partition("| machine (verify) |")[2]
    assert "1.2.3" not in pages.unpacking_origin([first, second])


def test_origin_names_the_cases_of_each_machine_if_one_suite_ran_on_two() -> None:
    first, second = (
        figures.read(report.RESULTS / f"{name}.json") for name in ("throughput", "throughput-disk")
    )
    second = {**second, "machine": {**first["machine"], "kernel": "1.2.3"}}
    table = pages.unpacking_origin([first, second])
    assert "Linux 1.2.3" in table.partition("(throughput: debian on real disk")[2]
    assert (
        "1.2.3" not in table.partition("| machine (throughput: all other rows) |")[2].split("|")[1]
    )


def test_later_run_replaces_all_programs_of_a_case() -> None:
    def line(corpus: str, peer: str) -> dict[str, Any]:
        return {"corpus": corpus, "form": "gzip", "medium": "disk", "sync": False, "peer": peer}

    old = {"suite": "throughput", "results": [line("mix", "buildah"), line("node", "buildah")]}
    new = {"suite": "throughput", "date": "2026-12-02", "results": [line("mix", "umoci")]}
    kept = figures.of_suite(figures.latest([new, old]), "throughput")
    assert kept == [line("node", "buildah"), line("mix", "umoci")]


def test_directory_behind_a_symbolic_link_leaves_no_mount(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with Medium("tmpfs", tmp_path / "link").empty_directory() as directory:
        (directory / "a").mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "none", str(directory / "a")], check=True)
    assert list((tmp_path / "real").iterdir()) == []
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


def test_all_forms_of_a_corpus_hold_the_same_layers(cache: Path) -> None:
    images = [corpora.image("mix", form, size="small", cache=cache) for form in compress.FORMS]
    assert len({tuple(layer.diff_id for layer in image.layers) for image in images}) == 1
    assert len({image.layers[0].digest for image in images}) == len(images)


def test_a_corpus_is_built_alike_every_time(tmp_path: Path) -> None:
    first = corpora.grown(synthetic.many_layers, tmp_path / "first")
    again = corpora.grown(synthetic.many_layers, tmp_path / "again")
    assert first.layers == again.layers
    assert len(first.layers) == 45
    assert len({layer.diff_id for layer in first.layers}) == 44


def test_failed_command_is_not_measured() -> None:
    false = shutil.which("false")
    assert false
    with pytest.raises(FailedError, match="exit status 1"):
        measured([false], environment={})


@pytest.mark.usefixtures("alone_among_mounts")
def test_peer_in_a_root_filesystem_sees_later_mounts_of_a_shared_directory(tmp_path: Path) -> None:
    root, shared = tmp_path / "root", tmp_path / "shared"
    shared.mkdir()
    script = f"""if True:
        import subprocess
        from pathlib import Path
        from benchmarks import chroot
        system = [path for path in map(Path, ("/usr", "/lib", "/lib64")) if path.exists()]
        Path({str(root)!r}, "proc").mkdir(parents=True)
        within = chroot.enter(Path({str(root)!r}), [*system, Path({str(shared)!r})])
        subprocess.run(["mount", "-t", "tmpfs", "none", {str(shared)!r}], check=True)
        Path({str(shared)!r}, "file").write_text("later")
        subprocess.run([*within, "/usr/bin/cat", {str(shared / "file")!r}], check=True)
    """
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=pages.ROOT, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("later", "")
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


def fuse_device_holder(target: str) -> subprocess.Popen[bytes]:
    """Start a process that has an argument and holds /dev/fuse open until its stdin ends."""
    hold = "import sys; device = open('/dev/fuse'); print(flush=True); sys.stdin.read()"
    command = (sys.executable, "-c", hold, target)
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    return holder


def test_servers_of_a_mount_are_those_with_its_target_as_an_argument(tmp_path: Path) -> None:
    mount = fuse.Mount(tmp_path, "image", (), tmp_path / "target")
    with fuse_device_holder(f"{mount.target}") as own, fuse_device_holder(f"{mount.target}-2"):
        assert fuse._servers(mount) == [own.pid]


def test_processor_time_of_a_daemon_counts_once_and_never_below_zero() -> None:
    assert process._used({1: 5.0, 2: 1.0}, {1: 5.5}) == 0.5
    with subprocess.Popen(["sh", "-c", "sleep 60 & echo $!; wait"], stdout=subprocess.PIPE) as sh:
        assert sh.stdout is not None
        child = int(sh.stdout.readline())
        assert process._cpu_of([sh.pid, child]).keys() == {sh.pid}
        os.kill(child, signal.SIGKILL)
