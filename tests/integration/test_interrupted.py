"""A command that is told to stop: no half layer, no stray process, no trouble for the next."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import images
from tests.support.command import PATIENCE, Stacker, wait_until
from tests.support.tars import file, tar


@pytest.fixture
def stacker(tmp_path: Path) -> Stacker:
    stacker = Stacker(tmp_path / "store")
    stacker("images")
    return stacker


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> images.Layout:
    """An image of three layers, each of which takes a second or more."""
    layers = [
        tar(*(file(f"{n}/{m % 100}/{m}", b"%d" % m) for m in range(20_000))) for n in range(3)
    ]
    return images.layout(tmp_path_factory.mktemp("large"), layers)


def unpacked_names(store: Path) -> list[Path]:
    """Give what layers on their way have by now."""
    return list((store / "staging").glob("sha256-*/diff/*/*"))


def children(pid: int) -> list[int]:
    return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("jobs", ["1", "3"])
@pytest.mark.parametrize(
    ("number", "send"),
    [
        (signal.SIGINT, os.kill),
        (signal.SIGINT, os.killpg),  # as a terminal does
        (signal.SIGTERM, os.kill),
        (signal.SIGTERM, os.killpg),
        (signal.SIGHUP, os.killpg),
    ],
)
def test_a_pull_that_is_interrupted_leaves_nothing_half_done(
    stacker: Stacker,
    large: images.Layout,
    number: signal.Signals,
    send: Callable[[int, int], None],
    jobs: str,
) -> None:
    process = stacker.start("pull", large.source, "--jobs", jobs)
    wait_until(lambda: unpacked_names(stacker.store), process)
    workers = children(process.pid)
    assert len(workers) == int(jobs)
    send(process.pid, number)
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (128 + number, "")
    (line,) = err.splitlines()
    assert line.startswith("stacker: ")
    assert not [pid for pid in workers if is_alive(pid)]
    stacker.assert_clean()


def test_next_pull_removes_the_files_of_a_killed_pull(
    stacker: Stacker, large: images.Layout
) -> None:
    process = stacker.start("pull", large.source)
    wait_until(lambda: unpacked_names(stacker.store), process)
    workers = children(process.pid)
    process.kill()
    process.communicate(timeout=PATIENCE)
    wait = time.monotonic() + PATIENCE
    while any(map(is_alive, workers)):  # the kernel kills them when their parent is gone
        assert time.monotonic() < wait
    assert os.listdir(stacker.store / "staging")
    assert stacker("pull", large.source).last == large.image.config
    stacker.assert_clean(images=1, layers=3)


def test_a_pull_takes_over_where_another_was_interrupted(
    stacker: Stacker, large: images.Layout
) -> None:
    process = stacker.start("pull", large.source)
    wait_until(lambda: unpacked_names(stacker.store), process)
    waiting = stacker.start("pull", large.source)
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) == 130
    out, err = waiting.communicate(timeout=PATIENCE)
    assert (waiting.returncode, err) == (0, "")
    assert out.strip() == large.image.config
    process.communicate()
    stacker.assert_clean(images=1, layers=3)


def test_interrupted_unpack_removes_its_files(
    stacker: Stacker, large: images.Layout, tmp_path: Path
) -> None:
    stacker("pull", large.source)
    tree = tmp_path / "tree"
    process = stacker.start("unpack", "app:1.0", tree)
    wait_until(lambda: list(tree.glob("*/*/*")), process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out, err) == (130, "", "stacker: interrupted\n")
    assert not tree.exists()
    stacker.assert_clean(images=1, layers=3)


def test_a_copy_that_is_interrupted_empties_its_target(
    stacker: Stacker, large: images.Layout, tmp_path: Path
) -> None:
    stacker("pull", large.source)
    target = tmp_path / "target"
    target.mkdir()
    process = stacker.start("mount", "--driver", "copy", "app:1.0", target)
    wait_until(lambda: list(target.glob("*/*/*")), process)
    # While it is being made, the image cannot be removed.
    stacker.refused(8, "rm", "app:1.0")
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out, err) == (143, "", "stacker: ended by SIGTERM\n")
    assert os.listdir(target) == []
    stacker.assert_clean(images=1, layers=3)


def test_a_layer_whose_worker_is_killed_is_one_line(stacker: Stacker, large: images.Layout) -> None:
    process = stacker.start("pull", large.source, "--jobs", "2")
    wait_until(lambda: unpacked_names(stacker.store), process)
    first, second = children(process.pid)
    os.kill(first, signal.SIGKILL)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    message, hint = err.splitlines()
    assert re.fullmatch(
        r"stacker: error: worker died: layer sha256:[0-9a-f]{64}: got SIGKILL, want a result",
        message,
    )
    assert hint.endswith("use fewer --jobs")
    assert not is_alive(second)
    stacker.assert_clean()
