"""The small variant of each other suite gives every figure.

No time is asserted: what is slow here may be fast elsewhere.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from benchmarks import (
    aims,
    containers,
    corpora,
    registry,
    report,
    targets,
    verify,
)
from benchmarks.peers import FLOOR
from benchmarks.startup import BARE
from tests.support.benchmarks import WANTED, assert_figures, of_peers, results

pytestmark = WANTED


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
