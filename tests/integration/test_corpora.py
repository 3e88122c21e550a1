"""Archives of other projects: the test data of five tar readers.

A manifest says what GNU tar, bsdtar and CPython make of each.  Where the three agree, this reader
agrees with them; where they differ, the decision stands here with its reason.  What all accept is
also unpacked, and compared with what GNU tar and bsdtar extract where those two agree.
"""

from __future__ import annotations

import bz2
import hashlib
import json
import lzma
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from stacker.errors import LayerError
from stacker.layer.apply import apply
from stacker.layer.paths import LayerPaths
from stacker.layer.skeleton import SkeletonWriter, reassemble
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.linux.removal import remove_tree
from stacker.stream.compression import decompressed
from stacker.tar.entry import Entry, File
from stacker.tar.reader import TarReader

CORPORA = Path(os.environ.get("STACKER_CORPORA", Path(__file__).parents[3] / "shared/corpora"))
TAR = CORPORA / "tar"
SMALL = 1 << 20

REFUSED, ACCEPTED = "refused", "accepted"
DECISIONS = {
    # A PAX path that is not UTF-8: names are bytes here, and bsdtar's locale has no part in it.
    "claircore/bad_name.tar": (ACCEPTED, 1),
    # A sparse map of 2 MB: over the limit for what a header may make a reader hold.
    "go/gnu-sparse-many-zeros.tar.bz2": (REFUSED, "malformed sparse map"),
    # Links, devices and directories with a size: they carry no payload, as Go reads them.
    "go/hdr-only.tar": (ACCEPTED, 16),
    # An extended header of more than 1 MiB: over the limit, as in Go.
    "go/pax-bad-hdr-large.tar.bz2": (REFUSED, "over a limit"),
    # Two extended headers in a row: the last one counts, as in Go.
    "go/pax-multi-hdrs.tar": (ACCEPTED, 1),
    # The name of an extended attribute holds a NUL: no filesystem has such a name.
    "go/pax-nul-xattrs.tar": (REFUSED, "malformed xattr name"),
    # An extended header and then the end: its entry is missing.
    "go/pax-path-hdr.tar": (REFUSED, "extended header and then the end"),
    # An entry owned by 4294967295, which chown(2) reads as "leave the owner as it is".
    "py/testtar.tar": (REFUSED, "owner 4294967295"),
    # Members with a size and no payload: the next header is read as contents.
    "ratarmount/denormal-paths-tarfile.tar": (REFUSED, "checksum"),
    # No tar, and no compression that a layer may have.
    "ratarmount/double-compressed-nested-tar.tar.7z.7z": (REFUSED, "checksum"),
    # A directory with an empty name is the root; bsdtar refuses it.
    "tar-rs/empty_filename.tar": (ACCEPTED, 1),
}


@dataclass(frozen=True)
class Sample:
    name: str
    sha256: str
    verdict: str
    counts: tuple[int, ...]

    def stream(self) -> bytes:
        data = (TAR / self.name).read_bytes()
        assert hashlib.sha256(data).hexdigest() == self.sha256, "the corpus has changed"
        if data.startswith(b"BZh"):
            data = bz2.decompress(data)
        elif data.startswith(b"\xfd7zXZ"):
            data = lzma.decompress(data)
        return b"".join(decompressed(iter([data]), what=self.name))


def _samples() -> Iterator[Sample]:
    manifest = TAR / "manifest.tsv"
    if not manifest.exists():
        return
    for line in manifest.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        name, sha256, _, *tools, verdict = line.split("\t")
        yield Sample(name, sha256, verdict, tuple(json.loads(tool)[1] for tool in tools[:2]))


SAMPLES = list(_samples())
pytestmark = pytest.mark.skipif(not SAMPLES, reason=f"no corpora in {CORPORA} (STACKER_CORPORA)")
each_sample = pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)


def entries(sample: Sample) -> list[Entry]:
    return list(TarReader(iter([sample.stream()]), what=sample.name))


@each_sample
def test_tar_is_read_as_other_readers_agree_or_as_the_table_decides(sample: Sample) -> None:
    if sample.name in DECISIONS:
        decision, detail = DECISIONS[sample.name]
    elif sample.verdict == "all-reject":
        decision, detail = REFUSED, "malformed|truncated"
    else:
        assert sample.verdict == "all-accept", "a difference without a decision"
        assert len(set(sample.counts)) == 1
        decision, detail = ACCEPTED, sample.counts[0]
    if decision == ACCEPTED:
        assert len(entries(sample)) == detail
        return
    with pytest.raises(LayerError, match=str(detail)):
        entries(sample)


def test_every_decision_is_about_a_difference() -> None:
    different = {sample.name for sample in SAMPLES if sample.verdict == "DISAGREE"}
    assert set(DECISIONS) == different


Seen = dict[bytes, tuple[int, int, bytes]]


def seen(root: Path) -> Seen:
    """Give type, size and (of files that are not huge) contents of every path."""
    top, found = os.fsencode(root), {}
    for above, directories, files in os.walk(top):
        for name in (*directories, *files):
            path = os.path.join(above, name)
            status = os.lstat(path)
            kind, size, content = stat.S_IFMT(status.st_mode), 0, b""
            if stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            elif stat.S_ISREG(status.st_mode):
                size = status.st_size
                content = Path(os.fsdecode(path)).read_bytes() if size <= SMALL else b""
            found[path[len(top) + 1 :]] = (kind, size, content)
    return found


def extracted(tool: list[str], stream: bytes, room: Path) -> Seen | None:
    """Give what another tool makes of a stream; ``None`` when it complains."""
    room.mkdir()
    done = subprocess.run([*tool, "-C", room], input=stream, capture_output=True, check=False)
    return seen(room) if done.returncode == 0 else None


TOOLS = {"gnu": ["tar", "--extract", "--file=-"], "bsd": ["bsdtar", "-x", "-f", "-"]}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "place"
    path.mkdir()
    yield path
    remove_tree(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="sets owners: needs root")
@pytest.mark.parametrize(
    "sample",
    [
        sample
        for sample in SAMPLES
        if DECISIONS.get(sample.name, (sample.verdict,))[0] in (ACCEPTED, "all-accept")
    ],
    ids=lambda sample: sample.name,
)
def test_accepted_tar_unpacks_as_other_tools_extract_it(sample: Sample, place: Path) -> None:
    stream = sample.stream()
    paths = LayerPaths(place)
    paths.diff.mkdir()
    with paths.skeleton.open("wb") as file:
        writer = SkeletonWriter(file)
        reader = TarReader(iter([stream]), what=sample.name, keep=writer.keep)
        record = apply(
            reader, paths.diff, replaced=paths.replaced, whiteout_format=WhiteoutFormat.TRUSTED
        )
        writer.finish()
    if len(stream) < SMALL or not _has_huge_files(sample):
        digest = hashlib.sha256()
        for piece in reassemble(paths, record, what=sample.name):
            digest.update(piece)
        assert digest.hexdigest() == hashlib.sha256(stream).hexdigest()
    others = {
        name: extracted(tool, stream, place / name)
        for name, tool in TOOLS.items()
        if shutil.which(tool[0])
    }
    if len(others) < len(TOOLS):
        pytest.skip("needs GNU tar and bsdtar to compare with")
    if others["gnu"] is not None and others["gnu"] == others["bsd"]:
        assert seen(paths.diff) == others["gnu"]


def _has_huge_files(sample: Sample) -> bool:
    return any(isinstance(entry, File) and entry.stored > SMALL for entry in entries(sample))


@pytest.mark.skipif(os.geteuid() != 0, reason="sets owners: needs root")
def test_a_real_root_filesystem_unpacks_to_what_tar_extracts(place: Path) -> None:
    archive = CORPORA / "images/alpine-minirootfs-3.20.3-x86_64.tar.gz"
    stream = b"".join(decompressed(iter([archive.read_bytes()]), what="alpine"))
    paths = LayerPaths(place)
    paths.diff.mkdir()
    apply(
        TarReader(iter([stream]), what="alpine"),
        paths.diff,
        replaced=paths.replaced,
        whiteout_format=WhiteoutFormat.TRUSTED,
    )
    assert seen(paths.diff) == extracted(TOOLS["gnu"], stream, place / "gnu")
