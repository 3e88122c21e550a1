"""The benchmark suite's small variant gives every figure, the table and the plots.

No time is asserted: what is slow here may be fast elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from benchmarks import (
    aims,
    charts,
    compress,
    containers,
    corpora,
    figures,
    fuse,
    pages,
    process,
    registry,
    report,
    run,
    synthetic,
    targets,
    verify,
)
from benchmarks.peers import FLOOR, PEERS
from benchmarks.process import FailedError, measured
from benchmarks.scratch import Medium
from benchmarks.startup import BARE

CORPORA = ["mix", "whiteouts", "links"]
CANNOT = {("umoci", "zstd")}
"""Peers that do not know a form."""

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="peers and trusted.* xattrs want root"),
    pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no tmpfs at /dev/shm"),
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory whose path is not a valid image name.

    podman and buildah once used such a path as the name of an image.
    """
    return tmp_path_factory.mktemp("Corpora__")


def results(suite: str, cache: Path, *arguments: str) -> dict[str, Any]:
    out = cache / f"{suite}.json"
    common = ["--size", "small", "--repetitions", "1", "--cache", str(cache), "--out", str(out)]
    run.main([suite, *common, *arguments])
    return figures.read(out)


def of_peers(*names: str) -> list[str]:
    installed = [peer.name for peer in PEERS if peer.is_installed()]
    chosen = [name for name in names or installed if name in installed]
    return ["--peers", *chosen]


@pytest.fixture(scope="module")
def documents(cache: Path) -> list[dict[str, Any]]:
    quick = of_peers("stacker", FLOOR)
    return [
        results("throughput", cache, "--corpora", *CORPORA, "--media", "tmpfs", *of_peers()),
        results("growth", cache, "--media", "tmpfs", *quick),
        results("startup", cache, "--media", "tmpfs"),
    ]


def test_every_peer_has_every_figure(documents: list[dict[str, Any]]) -> None:
    lines = documents[0]["results"]
    peers = [peer.name for peer in PEERS if peer.is_installed()]
    cases = {(line["corpus"], line["form"], line["peer"]) for line in lines}
    assert cases == {(c, f, p) for c in CORPORA for f in compress.FORMS for p in peers}
    for line in lines:
        if (line["peer"], line["form"]) in CANNOT:
            assert line["failed"]
        else:
            assert "failed" not in line, line
            assert_figures(line)
            assert line["bytes"] > line["blob_bytes"] > 0
            assert line["entries"] > 0
            assert line["mb_per_s"] > 0
            assert line["entries_per_s"] > 0


def test_growth_covers_every_count(documents: list[dict[str, Any]]) -> None:
    lines = [line for line in documents[1]["results"] if line["peer"] == "stacker"]
    counts = [("entries", n) for n in run.SMALL_ENTRIES] + [("layers", n) for n in run.SMALL_LAYERS]
    assert [(line["corpus"], line["n"]) for line in lines] == counts
    for line in lines:
        assert_figures(line)


def test_start_up_has_every_verb(documents: list[dict[str, Any]]) -> None:
    lines = documents[2]["results"]
    assert [line["command"] for line in lines] == [
        "python3 -c pass",
        "pull, all there",
        "mount",
        "umount",
        "mount of 60 layers, tree, overlay",
        "mount of 60 layers, tree, fuse",
        "mount of 60 layers, erofs, overlay",
        "mount of 60 layers, erofs, fuse",
    ]
    for line in lines:
        assert_figures(line)


def test_registry_suite_is_measured_and_compared_with_its_goals(cache: Path) -> None:
    missing = [tool for tool in ("docker-registry", "curl", "skopeo") if not shutil.which(tool)]
    if missing:
        pytest.skip(f"not installed: {missing}")
    document = results("registry", cache, "--media", "tmpfs")
    assert {"docker-registry", "curl", "skopeo", "stacker"} <= document["versions"].keys()
    ways = [peer.name for peer in registry.peers("")]
    assert [line["peer"] for line in document["results"]] == ways
    for line in document["results"]:
        assert "failed" not in line, line
        assert (line["corpus"], line["medium"], line["filesystem"]) == ("mix", "tmpfs", "tmpfs")
        assert_figures(line)
        assert f"| mix | gzip | tmpfs | {line['peer']} | " in report.tables([document])
    table = aims.pulled([document])
    assert "| pull, divided by 1.1 x layout + 0.15 x download | 1.0 | " in table
    assert "| speed, multiple of skopeo | 4 | " in table


def test_verification_is_measured_and_set_against_its_aims(cache: Path) -> None:
    document = results("verify", cache, "--media", "tmpfs", "disk")
    lines = document["results"]
    unpacks, trees = (verify.UNPACK, verify.UNPACK_EROFS), (verify.FULL, verify.FAST)
    bounds, erofs = (verify.HASH, verify.STREAMS, verify.READ), (verify.FIRST_EROFS,)
    actions = (*unpacks, *bounds, *trees, *erofs, verify.FULL_EROFS, verify.CHECKSUM)
    assert [(line["medium"], line["corpus"], line["action"]) for line in lines] == [
        (medium, corpus, action)
        for medium, names in (("tmpfs", verify.CORPORA), ("disk", ("mix",)))
        for corpus in names
        for action in actions
    ]
    for line in lines:
        assert line["bytes"] > line["entries"] > 0
        for kind in ("wall", "cpu"):
            assert len(line[kind]["runs"]) == line["repetitions"]
        row = f"| {line['corpus']} | {line['medium']} | {line['action']} | "
        assert row in report.tables([document])
    table = aims.verified([document])
    assert "| goal | mix | python-ml | app | mix, real disk |" in table
    assert "| `verify --all`, speed, multiple of SHA-256 alone | 0.8 | " in table
    assert "| the same, layers in the form `erofs` | 0.8 | " in table
    assert "| `verify --all --fast`, µs per entry | 15 | " in table


def test_the_registry_of_a_benchmark_has_the_blobs_as_they_are_and_ends(
    cache: Path, tmp_path: Path
) -> None:
    if not shutil.which("docker-registry"):
        pytest.skip("not installed: docker-registry")
    image = corpora.image("whiteouts", "gzip", size="small", cache=cache)
    with registry.serving(image, tmp_path) as host:
        for layer in image.layers:
            with urlopen(f"http://{host}/v2/bench/blobs/{layer.digest}") as answer:
                assert f"sha256:{hashlib.sha256(answer.read()).hexdigest()}" == layer.digest
    with pytest.raises(URLError):
        urlopen(f"http://{host}/v2/")


def assert_figures(line: dict[str, Any]) -> None:
    for kind in ("wall", "cpu", "peak_rss"):
        figure = line[kind]
        assert figure["min"] <= figure["median"] <= figure["max"]
        assert len(figure["runs"]) == line["repetitions"]
    assert line["wall"]["median"] > 0
    assert line["peak_rss"]["median"] > 1 << 20


def test_the_machine_is_described_and_not_named(documents: list[dict[str, Any]]) -> None:
    for document in documents:
        assert {"cpu", "cores", "kernel", "memory"} <= document["machine"].keys()
        assert document["versions"]["stacker"]
        assert os.uname().nodename not in json.dumps(document["machine"]).split('"')


def test_table_and_plots_are_made(documents: list[dict[str, Any]], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="plots want matplotlib")
    written = report.write_report(documents, tmp_path)
    assert [path.name for path in written] == ["table.md", "peers.svg", "entries.svg", "layers.svg"]
    table = written[0].read_text()
    for corpus in CORPORA:
        assert f"| {corpus} | gzip | tmpfs | stacker |" in table
    for plot in written[1:]:
        assert plot.read_text().rstrip().endswith("</svg>")
    again = {path: path.read_bytes() for path in written}
    report.write_report(documents, tmp_path)
    assert {path: path.read_bytes() for path in written} == again


def test_chart_of_ratios_has_the_corpora_measured_on_both_media(
    documents: list[dict[str, Any]],
) -> None:
    lines = figures.of_suite(documents, "throughput")
    first = lines[0]["corpus"]
    on_disk = [{**line, "medium": "disk"} for line in lines if line["corpus"] == first]
    colours = dict.fromkeys((line["peer"] for line in lines), "#000000")
    chart = charts.unpacking_chart([*lines, *on_disk], colours)
    assert chart is not None
    titles = [panel.get_title() for panel in chart.axes]
    assert titles == [f"{first}, memory (tmpfs)", f"{first}, real disk"]
    assert charts.unpacking_chart(lines, colours) is None


def test_summary_has_a_row_for_every_gzip_corpus(documents: list[dict[str, Any]]) -> None:
    table = pages.summary(documents)
    for corpus in CORPORA:
        assert f"| {corpus} | tmpfs | " in table
    text = f"a\n<!-- measured: x -->\nold\n{pages.END}\nz"
    once = pages.marked(text, "x", table)
    assert table in once
    assert "old" not in once
    assert (once[0], once[-1]) == ("a", "z")
    assert pages.marked(once, "x", table) == once
    with pytest.raises(ValueError, match="want both"):
        pages.marked(text, "y", table)


def test_the_pages_show_the_results_that_are_committed(tmp_path: Path) -> None:
    committed = [figures.read(path) for path in sorted(report.RESULTS.glob("*.json"))]
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


def test_suite_fuse_writes_to_each_medium(cache: Path) -> None:
    missing = [tool for tool in ("mkfs.ext4", "losetup", "git") if not shutil.which(tool)]
    if missing:
        pytest.skip(f"not installed: {missing}")
    given = ["--media", "tmpfs", "ext4", "--actions", "writing", "--contenders", "stacker fuse"]
    lines = results("fuse", cache, *given)["results"]
    actions = ["write small files", "git add", "git status", "write large file"]
    on_ext4 = [f"{action}, ext4 in memory" for action in actions]
    assert [line["action"] for line in lines] == [*actions, *on_ext4]
    for line in lines:
        assert_figures(line)


def test_ext4_suite_leaves_no_mount(cache: Path) -> None:
    missing = [tool for tool in ("mkfs.ext4", "losetup") if not shutil.which(tool)]
    if missing:
        pytest.skip(f"not installed: {missing}")
    quick = of_peers("stacker", FLOOR)
    before = benchmark_mounts()
    given = ["--corpora", "whiteouts", "--forms", "gzip", "--media", "ext4", *quick]
    lines = results("throughput", cache, *given)["results"]
    assert [(line["medium"], line["filesystem"]) for line in lines] == [("ext4", "ext4")] * len(
        quick[1:]
    )
    for line in lines:
        assert_figures(line)
    assert benchmark_mounts() == before


def benchmark_mounts() -> list[str]:
    """Return the mounts of benchmarks; other tests mount loop devices meanwhile."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line for line in lines if "/bench-" in line and "/dev/loop" in line]


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


def test_index_suite_gives_time_and_memory_for_each_entry(cache: Path) -> None:
    lines = results("index", cache, "--media", "tmpfs")["results"]
    assert {line["action"] for line in lines} == {
        *("apply", "write", "load", "merge", "write merged")
    }
    assert len({line["entries"] for line in lines}) == 2
    assert all(line["us_per_entry"] >= 0 for line in lines)
    assert all(line["bytes_per_entry"] > 0 for line in lines if line["action"] == "apply")


def test_containers_suite_measures_every_way_to_run_a_process(cache: Path) -> None:
    if missing := [tool for tool in ("runc", "busybox") if not shutil.which(tool)]:
        pytest.skip(f"not installed: {missing}")
    document = results("containers", cache, "--media", "tmpfs")
    lines = {line["command"]: line for line in document["results"]}
    optional = {containers.PODMAN} if shutil.which("podman") else set()
    rows = {containers.LIBRARY.format(3, runtime) for runtime in ("runc", "chroot")}
    assert lines.keys() == {
        *(BARE, containers.BY_CHROOT, containers.BY_RUNC, containers.RUNC, *optional, *rows)
    }
    assert all(line["wall"]["median"] > 0 for line in lines.values() if "failed" not in line)
    written = report.write_report([document], cache / "containers")
    assert [path.name for path in written] == ["table.md", "containers.svg"]


def test_forms_suite_measures_trees_and_the_erofs_form(cache: Path) -> None:
    document = results("forms", cache, "--corpora", "debian", "--media", "tmpfs")
    lines = document["results"]
    assert {line["stored"] for line in lines} == {"tree", "erofs", "igzip | tar", "alone"}
    actions = {line["action"] for line in lines if line["stored"] == "erofs"}
    assert actions == {
        *("unpack", "first mount", "mount again", "remove"),
        *("list", "list again", "tar", "random 4 KiB reads"),
    }
    assert aims.formed([document]).count("| debian |") == len(actions)
    for line in lines:
        line["corpus"] = targets.CORPUS
    table = targets.reached([document])
    for action in ("remove", "list", "tar", "random 4 KiB reads"):
        assert f"| {action} on tmpfs, multiple of the form `tree` |" in table
    assert "multiple of the slowest of inflate " in table


def test_later_run_replaces_all_programs_of_a_case() -> None:
    def line(corpus: str, peer: str) -> dict[str, Any]:
        return {"corpus": corpus, "form": "gzip", "medium": "disk", "sync": False, "peer": peer}

    old = {"suite": "throughput", "results": [line("mix", "buildah"), line("node", "buildah")]}
    new = {"suite": "throughput", "date": "2026-12-02", "results": [line("mix", "umoci")]}
    kept = figures.of_suite(figures.latest([new, old]), "throughput")
    assert kept == [line("node", "buildah"), line("mix", "umoci")]


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
