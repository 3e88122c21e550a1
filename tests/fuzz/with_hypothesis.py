"""Fuzz one target with Hypothesis:  python -m tests.fuzz.with_hypothesis TARGET SECONDS DIR

Hypothesis mutates the seeds.  An input that runs new lines of stacker becomes a seed.  The input
of a finding goes to DIR, after Hypothesis has made it small.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, Final

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import stacker
from tests.fuzz import targets
from tests.fuzz.bounds import bounded

_PACKAGE: Final = os.path.dirname(stacker.__file__)
_ROUND: Final = 200  # examples between two looks at the clock
_NUMBERS: Final = (0, 1, 0x7F, 0x80, 0xFF)


@st.composite
def mutated(draw: st.DrawFn, seeds: tuple[bytes, ...], tokens: tuple[bytes, ...]) -> bytes:
    """Return a seed after up to five mutations."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 5))):
        at = draw(st.integers(0, len(data)))
        end = min(len(data), at + draw(st.sampled_from((1, 2, 8, 12, 64, 512))))
        match draw(st.sampled_from("nbtdcs")):
            case "n":
                data[at:end] = bytes([draw(st.sampled_from(_NUMBERS))]) * (end - at)
            case "b":
                data[at:end] = draw(st.binary(min_size=end - at, max_size=end - at))
            case "t" if tokens:
                data[at : at + draw(st.sampled_from((0, 1, 8)))] = draw(st.sampled_from(tokens))
            case "d":
                del data[at:end]
            case "c":
                data[at:at] = data[at:end]
            case _:
                data[at:] = draw(st.sampled_from(seeds))[at:]
    return bytes(data)


class Coverage:
    """The lines of stacker that ran so far."""

    def __init__(self) -> None:
        self._seen: set[tuple[str, int]] = set()
        self._fresh = False

    def runs_new_lines(self, run: Callable[[bytes], None], data: bytes) -> bool:
        """Run an input; return whether it ran a line for the first time."""
        self._fresh = False
        sys.settrace(self._trace)
        try:
            run(data)
        finally:
            sys.settrace(None)
        return self._fresh

    def _trace(self, frame: FrameType, *_: Any) -> Any:
        if not frame.f_code.co_filename.startswith(_PACKAGE):
            return None
        line = frame.f_code.co_filename, frame.f_lineno
        if line not in self._seen:
            self._seen.add(line)
            self._fresh = True
        return self._trace


def fuzz(target: targets.Target, seconds: float, directory: Path) -> int:
    """Fuzz a target; return the number of inputs.

    :raises BaseException: the finding; its input is in the directory.
    """
    run, seeds, coverage = bounded(target), target.seeds(), Coverage()
    count, until = 0, time.monotonic() + seconds
    finding = directory / "finding"

    def examine(data: bytes) -> None:
        nonlocal count
        if time.monotonic() < until:
            count += 1
            finding.write_bytes(data)
            if coverage.runs_new_lines(run, data):
                seeds.append(data)

    for seed in tuple(seeds):
        examine(seed)
    while time.monotonic() < until:
        examples(examine, mutated(tuple(seeds), target.tokens), count)
    finding.unlink(missing_ok=True)
    return count


def examples(examine: Callable[[bytes], None], inputs: st.SearchStrategy[bytes], seed: int) -> None:
    """Examine a round of random inputs; make the input of a finding small."""
    in_rounds = settings(
        max_examples=_ROUND,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    hypothesis.seed(seed)(in_rounds(given(inputs)(examine)))()


def main() -> None:
    """Fuzz until the time is over."""
    name, seconds, directory = sys.argv[1], float(sys.argv[2]), Path(sys.argv[3])
    (target,) = (each for each in targets.TARGETS if each.name == name)
    count = fuzz(target, seconds, directory)
    sys.stderr.write(f"Done {count} runs in {seconds:.0f} second(s)\n")


main()
