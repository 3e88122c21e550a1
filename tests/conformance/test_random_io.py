"""Random reads and writes on a file in a mount, and the same ones on a plain file.

As in fsx, both files must have the same bytes after each step: by path, through the descriptor that
wrote, and through one opened before the first write, when the file was still in a layer.
tests/support/subjects.py lists the calls that a driver refuses; these must change nothing.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.support.deviations import Deviation
from tests.support.subjects import LOWER, CaseDirectory, Mounted
from tests.support.syscalls import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, fallocate
from tests.support.templates import RANDOM

REFUSALS = {errno.ENOSYS, errno.EOPNOTSUPP}
DATA = RANDOM[0].data
SPAN = 70_000
"""The largest offset: more than two folios past the original end of the file."""

EXAMPLES = int(os.environ.get("STACKER_EXAMPLES", "100"))


class File:
    """A file with a writer, an appender, and a reader opened before the first write."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.reader = os.open(path, os.O_RDONLY)
        self.writer = self.appender = -1
        self.open()

    def open(self) -> None:
        self.writer = os.open(self.path, os.O_RDWR)
        self.appender = os.open(self.path, os.O_WRONLY | os.O_APPEND)

    def close(self) -> None:
        os.close(self.writer)
        os.close(self.appender)

    @property
    def size(self) -> int:
        return os.fstat(self.writer).st_size

    def contents(self) -> list[bytes]:
        """Read the whole file in every way."""
        more = self.size + 1
        found = [self.path.read_bytes()]
        found += [os.pread(descriptor, more, 0) for descriptor in (self.writer, self.reader)]
        return found

    def sizes(self) -> list[int]:
        descriptors = (self.writer, self.reader, self.appender)
        found = [os.fstat(descriptor).st_size for descriptor in descriptors]
        return [*found, os.stat(self.path).st_size]


def pwrite(file: File, at: int, length: int) -> object:
    return os.pwrite(file.writer, pattern(at, length), at)


def pread(file: File, at: int, length: int) -> object:
    return os.pread(file.reader, length, at), os.pread(file.writer, length, at)


def append(file: File, at: int, length: int) -> object:
    return os.write(file.appender, pattern(at, length))


def ftruncate(file: File, at: int, length: int) -> None:
    os.ftruncate(file.writer, at)


def truncate(file: File, at: int, length: int) -> None:
    os.truncate(file.path, length)


def allocate(file: File, at: int, length: int) -> None:
    fallocate(file.writer, 0, at, length)


def allocate_keeping_size(file: File, at: int, length: int) -> None:
    fallocate(file.writer, FALLOC_FL_KEEP_SIZE, at, length)


def punch_hole(file: File, at: int, length: int) -> None:
    fallocate(file.writer, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, at, length)


def map_to_read(file: File, at: int, length: int) -> object:
    with mapped(file) as memory:
        return memory[at : at + length]


def map_to_write(file: File, at: int, length: int) -> object:
    with mapped(file) as memory:
        at = min(at, len(memory) - 1)
        data = pattern(at, min(length, len(memory) - at))
        memory[at : at + len(data)] = data
        seen = os.pread(file.writer, len(data), at)
        memory.flush()
        return seen, os.pread(file.writer, len(data), at)


def copy_range(file: File, at: int, length: int) -> object:
    return os.copy_file_range(file.writer, file.writer, length, at, (at + 2 * length) % SPAN)


def fsync(file: File, at: int, length: int) -> None:
    (os.fsync if at % 2 else os.fdatasync)(file.writer)


def reopen(file: File, at: int, length: int) -> None:
    file.close()
    file.open()


def seek(file: File, at: int, length: int) -> None:
    """Check the holes that lseek(2) reports; filesystems may case them differently."""
    size = file.size
    try:
        data = os.lseek(file.writer, at, os.SEEK_DATA)
    except OSError as error:
        assert error.errno == errno.ENXIO  # noqa: PT017 - which is right where no data follow
        data = size
    assert at <= data or at >= size
    assert not any(os.pread(file.writer, max(0, data - at), at)), "a hole has bytes"
    if at >= size:
        with pytest.raises(OSError) as caught:
            os.lseek(file.writer, at, os.SEEK_HOLE)
        assert caught.value.errno == errno.ENXIO
    else:
        assert at <= os.lseek(file.writer, at, os.SEEK_HOLE) <= size


OPERATIONS: dict[str, Callable[[File, int, int], object]] = {
    call.__name__: call
    for call in (
        pwrite,
        pread,
        append,
        ftruncate,
        truncate,
        allocate,
        allocate_keeping_size,
        punch_hole,
        map_to_read,
        map_to_write,
        copy_range,
        fsync,
        reopen,
        seek,
    )
}
"""The calls that `Subject.refuses` names."""


def pattern(at: int, length: int) -> bytes:
    """Return bytes that differ for every offset."""
    return bytes((at * 7 + n * n + 1) % 255 + 1 for n in range(length))


@contextmanager
def mapped(file: File) -> Iterator[mmap.mmap]:
    """Map the whole file; an empty one fails on both sides."""
    if file.size == 0:
        raise OSError(errno.EINVAL, "nothing to map")
    with mmap.mmap(file.writer, file.size, mmap.MAP_SHARED) as memory:
        yield memory


@dataclass(frozen=True)
class Step:
    """An operation with its arguments."""

    name: str
    at: int
    length: int

    def on(self, file: File) -> object:
        """Run the operation, and return its result or errno."""
        try:
            return OPERATIONS[self.name](file, self.at, self.length)
        except OSError as error:
            return errno.errorcode[error.errno or 0]


EDGES = [0, 1, 4095, 4096, 4097, len(DATA) - 1, len(DATA), len(DATA) + 1, 65_536]
STEPS = st.lists(
    st.builds(
        Step,
        st.sampled_from(sorted(OPERATIONS)),
        st.sampled_from(EDGES) | st.integers(0, SPAN),
        st.sampled_from([1, 512, 4096]) | st.integers(1, 9_000),
    ),
    min_size=1,
    max_size=25,
)


def refused(mine: File, step: Step) -> None:
    """Check that a call that the driver refuses changes nothing."""
    before = mine.contents()
    assert step.on(mine) in {errno.errorcode[number] for number in REFUSALS}
    assert mine.contents() == before


def compare(mine: File, plain: File) -> None:
    assert mine.sizes() == plain.sizes() == [plain.size] * 4
    wanted = plain.path.read_bytes()
    assert mine.contents() == [wanted] * 3


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=STEPS)
@example(steps=[Step("pread", 0, 100), Step("pwrite", 10, 10), Step("pread", 0, 100)])
@example(steps=[Step("map_to_write", 5, 10), Step("ftruncate", 3, 1), Step("append", 0, 4096)])
@example(steps=[Step("ftruncate", 0, 1), Step("pwrite", 65_536, 1), Step("seek", 0, 1)])
@example(steps=[Step("punch_hole", 4096, 4096), Step("seek", 0, 1), Step("seek", 4096, 1)])
@example(steps=[Step("allocate", 65_536, 9_000), Step("fsync", 0, 1), Step("reopen", 0, 1)])
@example(steps=[Step("allocate_keeping_size", 65_536, 9_000), Step("append", 0, 1)])
@example(steps=[Step("copy_range", 0, 4096), Step("copy_range", 19_000, 9_000)])
def test_random_io_equals_that_on_a_plain_file(
    mounted: Mounted, tmp_path_factory: pytest.TempPathFactory, steps: list[Step]
) -> None:
    case = mounted.case_directory(LOWER, "random")
    beside = tmp_path_factory.getbasetemp() / "random-io"
    beside.write_bytes(DATA)
    mine, plain = File(case / "data"), File(beside)
    try:
        compare(mine, plain)
        for step in steps:
            if step.name in case.subject.refuses:
                refused(mine, step)
            else:
                assert step.on(mine) == step.on(plain), step
            compare(mine, plain)
    finally:
        for file in (mine, plain):
            file.close()
            os.close(file.reader)


@pytest.mark.parametrize("operation", sorted(OPERATIONS))
def test_driver_refuses_the_documented_calls(mounted: Mounted, operation: str) -> None:
    case = mounted.case_directory(LOWER, "random")
    file = File(case / "data")
    try:
        answer = Step(operation, 100, 50).on(file)
    finally:
        file.close()
        os.close(file.reader)
    refusing = answer in {errno.errorcode[number] for number in REFUSALS}
    assert refusing == (operation in case.subject.refuses), answer


def test_earlier_mapping_shows_a_write_or_deviates_as_documented(case: CaseDirectory) -> None:
    with (
        (case / "file").open("rb", buffering=0) as reader,
        mmap.mmap(reader.fileno(), 0, mmap.MAP_SHARED, mmap.PROT_READ) as memory,
    ):
        before = memory[:7]
        with (case / "file").open("r+b", buffering=0) as writer:
            writer.write(b"written")
        stale = case.deviates(Deviation.LOWER_MAPPING_IS_STALE, "file")
        assert memory[:7] == (before if stale else b"written")
        assert os.pread(reader.fileno(), 7, 0) == b"written"
