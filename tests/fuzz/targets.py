"""Functions that parse hostile bytes, each with a seed corpus.

In come bytes from an image, a registry, a configuration file or the kernel.  A target returns, or
raises a `StackerError`; the fuzzers treat any other exception as a finding.  The targets use the
package under test and no fuzzer.
"""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import zstandard

from stacker.errors import StackerError
from stacker.image.config import chain_ids, pair_layers, parse_config
from stacker.image.digest import DiffID, Digest
from stacker.image.location import parse_location
from stacker.image.manifest import Index, Manifest, parse_document, references
from stacker.image.platform import Platform
from stacker.image.reference import Reference
from stacker.image.schema1 import is_schema1, parse_schema1
from stacker.layer.paths import LayerPaths
from stacker.layer.record import LayerRecord
from stacker.layer.skeleton import reassemble
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.linux.removal import remove_tree
from stacker.mount import record as mount_record
from stacker.registry.authentication import merge_scopes, parse_challenges
from stacker.registry.http.origin import check_scheme, origin_of
from stacker.registry.http.response import parse_number
from stacker.registry.registries_conf import parse_registries_conf
from stacker.stream.compression import decompressed
from stacker.tar.entry import File
from stacker.tar.index import read_index
from stacker.tar.limits import Limits
from stacker.tar.reader import TarReader
from tests.fuzz import indexes, requests
from tests.support import images, schema1, tars
from tests.support.unpacking import Workspace

_LIMITS: Final = Limits(unpacked_bytes=1 << 24, entries=10_000, pax_bytes=1 << 16)
_TRANSPORTS: Final = ("docker", "oci", "oci-archive", "docker-archive")
_BOTH_HALVES: Final = b"\0\0\0\0"


@dataclass(frozen=True)
class Target:
    """One parser under test.

    :param run: parses an input.
    :param seeds: returns valid inputs and inputs that once were findings.
    :param tokens: byte strings that the format gives a meaning.
    """

    name: str
    run: Callable[[bytes], object]
    seeds: Callable[[], list[bytes]]
    tokens: tuple[bytes, ...] = ()


def _read_tar(data: bytes, *, elided: bool = False) -> None:
    reader = TarReader(iter([data]), what="fuzz", limits=_LIMITS, elided=elided)
    for entry in reader:
        if isinstance(entry, File) and not elided:
            for _ in reader.payload():
                pass


def read_tar(data: bytes) -> None:
    """Read a tar as it is, and again in small chunks; both must agree."""
    outcomes = [_outcome(iter([data])), _outcome(_chunks(data, 100))]
    assert outcomes[0] == outcomes[1], outcomes


def _chunks(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


def _outcome(chunks: Iterator[bytes]) -> tuple[list[object], str]:
    entries: list[object] = []
    try:
        reader = TarReader(chunks, what="fuzz", limits=_LIMITS)
        for entry in reader:
            entries.append(entry)
            if isinstance(entry, File):
                entries.append(b"".join(map(bytes, reader.payload())))
    except StackerError as error:
        return entries, error.message
    return entries, ""


def read_pax(data: bytes) -> None:
    """Read bytes as the records of an extended header before a file and before a directory."""
    _read_tar(tars.tar(tars.pax_header(data), tars.file("a", b"content"), tars.dir("b")))


def read_sparse(data: bytes) -> None:
    """Read a tar whose headers have correct checksums, so that mutations reach sparse maps."""
    _read_tar(b"".join(_with_checksums(data)))


def _with_checksums(data: bytes) -> Iterator[bytes]:
    for at in range(0, len(data), tars.BLOCK):
        block = data[at : at + tars.BLOCK]
        is_header = len(block) == tars.BLOCK and block[257:262] == b"ustar"
        yield tars.resummed(block) if is_header else block


def read_documents(data: bytes) -> None:
    """Parse a manifest or an index, alone and with a config that follows it after a NUL."""
    raw, _, rest = data.partition(b"\0")
    document: Manifest | Index | None = None
    with suppress(StackerError):
        references(raw, "fuzz")
    with suppress(StackerError):
        if is_schema1(raw, "fuzz"):
            parse_schema1(raw, "fuzz").config([DiffID.of(b"")])
    with suppress(StackerError):
        document = parse_document(raw, media_type=None, what="fuzz")
    config = parse_config(rest or raw, "fuzz")
    chain_ids(config.diff_ids)
    if isinstance(document, Manifest):
        pair_layers(document, config)


def read_names(data: bytes) -> None:
    """Parse a text as a reference, a location, a platform and a digest; reparse what was parsed."""
    text = data.decode("utf-8", "surrogateescape")
    with suppress(StackerError):
        reference = Reference.parse(text)
        assert Reference.parse(str(reference)) == reference, text
    for transports in (_TRANSPORTS, _TRANSPORTS[1:]):
        with suppress(StackerError):
            parse_location(text, transports)
    with suppress(StackerError):
        Platform.parse(text)
    Digest.parse(text)


def read_skeleton(data: bytes) -> None:
    """Reassemble a layer from a skeleton of these bytes and an empty tree."""
    _read_skeleton(zstandard.compress(data, 1))
    _read_skeleton(data)


def _read_skeleton(stored: bytes) -> None:
    paths = LayerPaths(_empty_layer())
    paths.skeleton.write_bytes(stored)
    record = LayerRecord(WhiteoutFormat.USER, squashed=True, entries=3)
    with suppress(StackerError):
        for _ in reassemble(paths, record, what="fuzz"):
            pass


@cache
def _empty_layer() -> Path:
    path = Path(tempfile.mkdtemp(prefix="stacker-fuzz-"))
    (path / "diff").mkdir()
    return path


def read_registries_conf(data: bytes) -> None:
    """Parse two files of registries.conf, and expand and map names by them."""
    halves = data.split(_BOTH_HALVES, 1)
    conf = parse_registries_conf([(f"{n}.conf", half) for n, half in enumerate(halves)])
    for name in ("app", "registry.example/app:1", "registry.example/team/app", "a.example.com/b"):
        with suppress(StackerError):
            conf.addresses(Reference.parse(conf.expand_short_name(name)))


def read_records(data: bytes) -> None:
    """Parse a layer's record and a mount's record; write and reparse the former."""
    with suppress(StackerError):
        mount_record.parse(data, Path("fuzz"))
    record = LayerRecord.from_json(data, "fuzz")
    assert LayerRecord.from_json(record.to_json(), "again") == record


def read_headers(data: bytes) -> None:
    """Parse a text as the headers and URLs by which a registry directs its client."""
    text = data.decode("latin-1")
    for challenge in parse_challenges([text, *text.split("\n")]):
        merge_scopes(challenge.parameters.get("scope", ""), "repository:app:pull")
    parse_number(text)
    with suppress(StackerError):
        origin = origin_of(text, "fuzz")
        check_scheme(origin, origin, "fuzz", insecure=False)


def index_archive(data: bytes) -> None:
    """List the members of an archive of an image."""
    for _ in read_index(io.BytesIO(b"".join(_with_checksums(data))), "fuzz"):
        pass


def decompress(data: bytes) -> None:
    """Decompress a blob whose compression its first bytes tell."""
    length = 0
    for chunk in decompressed(_chunks(data, 1000), what="fuzz"):
        length += len(chunk)
        if length > _LIMITS.unpacked_bytes:
            return


def unpack(data: bytes) -> None:
    """Unpack a tar to a directory; check containment, and that the tar can be reassembled."""
    path = Path(tempfile.mkdtemp(prefix="stacker-fuzz-"))
    try:
        with suppress(OSError):  # unpack_layer turns it into a StackerError
            Workspace(path).unpack(b"".join(_with_checksums(data)), limits=_LIMITS, end=False)
    finally:
        remove_tree(path)


def write_index(data: bytes) -> None:
    """Write the index of a tar, and read it back."""
    indexes.write_index(b"".join(_with_checksums(data)), _LIMITS)


def _tar_seeds() -> list[bytes]:
    parts = [
        tars.tar(tars.dir("d/"), tars.file("d/a", b"x" * 700), tars.symlink("l", "d/a")),
        tars.tar(tars.hardlink("h", "a"), tars.char("c", 1, 3), tars.fifo("f"), end=False),
        tars.tar(tars.whiteout("a"), tars.opaque("d"), tars.file(".wh..wh.plnk/1")),
        tars.tar(tars.pax(path="p" * 200, mtime="1.5", size="3"), tars.file("x", b"abc")),
        tars.tar(tars.pax_global(uid="7"), tars.gnu_name("n" * 200), tars.file("x", b"abc")),
        tars.tar(tars.gnu_link("t" * 200), tars.symlink("l", "t")),
        tars.tar(tars.file("x", xattrs={"user.a": b"\0\1"})),
        tars.tar(tars.file("v7", b"a", magic=tars.V7), tars.file("gnu", b"a", magic=tars.GNU)),
    ]
    return [*parts, *_sparse_seeds()]


def _sparse_seeds() -> list[bytes]:
    segments = [(0, b"a" * 512), (4096, b"b" * 100), (1 << 20, b"")]
    makers = (tars.sparse_old, tars.sparse_00, tars.sparse_01, tars.sparse_10)
    many = [(n * 1024, b"c" * 16) for n in range(40)]
    return [tars.tar(make("s", 1 << 20, segments)) for make in makers] + [
        tars.tar(make("s", 1 << 20, many)) for make in makers
    ]


def _layer_seeds() -> list[bytes]:
    parts = [
        tars.tar(tars.symlink("l", "/"), tars.file("l/x", b"1"), tars.hardlink("h", "l/x")),
        tars.tar(tars.symlink("a", ".."), tars.symlink("a/b", "../.."), tars.file("a/b/secret")),
        tars.tar(tars.file("d"), tars.dir("d"), tars.file("d/e"), tars.whiteout("d")),
        tars.tar(tars.hardlink("one", "two"), tars.hardlink("two", "three"), tars.file("three")),
        tars.tar(tars.file("x", xattrs={"trusted.overlay.opaque": b"y", "user.a": b"1"})),
        tars.tar(tars.dir("../secret"), tars.file("/secret", b"2"), tars.file("./../../secret")),
        tars.tar(tars.dir(""), tars.opaque(), tars.file("s", mode=0o6755), tars.char("c", 0, 0)),
    ]
    return [*parts, *_tar_seeds()]


def _pax_seeds() -> list[bytes]:
    return [
        tars.record("path", "a/b") + tars.record("size", "7"),
        tars.record("mtime", "1.123456789") + tars.record("atime", "-3.5"),
        tars.record("SCHILY.xattr.user.a", b"\0\xff") + tars.record("uid", "12345678901"),
        tars.record("GNU.sparse.map", "0,1,5,2") + tars.record("GNU.sparse.size", "10"),
        tars.record("linkpath", "x" * 300),
    ]


def _document_seeds() -> list[bytes]:
    layer = tars.tar(tars.file("a"))
    with tempfile.TemporaryDirectory() as path:
        layout = images.layout(Path(path) / "layout", [layer, layer + bytes(512)])
        manifest, config = layout.image.manifest, layout.image.config
        documents = [layout.blob(digest).read_bytes() for digest in (manifest, config)]
        several = images.several(Path(path) / "several", [(("linux", "arm64"), [layer])])
        index = (several.path / "index.json").read_bytes()
    legacy = schema1.manifest([schema1.step(schema1.EMPTY, "one"), schema1.step(layer, "two")])
    return [*documents, b"\0".join(documents), index, legacy]


def _name_seeds() -> list[bytes]:
    digest = "sha256:" + "0123456789abcdef" * 4
    names = (
        "app",
        "registry.example:5000/team/app:1.0",
        f"registry.example/app@{digest}",
        f"app:1@{digest}",
        "docker://[::1]:5000/a",
        "oci:/path:tag",
        "oci-archive:a.tar:name:1",
        "linux/arm64/v8",
        digest,
    )
    return [name.encode() for name in names]


def _conf_seeds() -> list[bytes]:
    first = b"""unqualified-search-registries = ["registry.example"]
short-name-mode = "permissive"
[[registry]]
prefix = "*.example.com"
insecure = true
[[registry]]
location = "registry.example/team"
blocked = false
mirror-by-digest-only = true
[[registry.mirror]]
location = "mirror.example"
"""
    second = b"""[aliases]
app = "registry.example/library/app"
[[registry]]
prefix = "registry.example"
location = "other.example/x"
[[registry.mirror]]
location = "a"
pull-from-mirror = "tag-only"
"""
    return [first, second, first + _BOTH_HALVES + second]


def _record_seeds() -> list[bytes]:
    record = LayerRecord(WhiteoutFormat.USER, squashed=True, entries=3).to_json()
    document = json.loads(record)
    full = {**document, "opaque": ["a"], "implied": ["b/c"], "deferredLinks": [["l", "t"]]}
    mount = dict.fromkeys(mount_record.MountRecord.__dataclass_fields__)
    return [record, json.dumps(full).encode(), json.dumps({**mount, "version": 1}).encode()]


def _header_seeds() -> list[bytes]:
    return [
        b'Bearer realm="https://auth.example/token",service="r",scope="repository:app:pull"',
        b'Basic realm="a \\"quoted\\" word", Bearer realm=x, error="insufficient_scope"',
        b"https://registry.example:5000/v2/app/blobs/uploads/1?_state=x%3D",
        b"http://[::1]:5000/v2/",
        b"12345678901234567890",
    ]


_LARGE_WINDOW: Final = b"\x28\xb5\x2f\xfd\0\x88\x09\0\0a"
"""A zstd frame of one byte that asks for a window of 128 MiB."""


def _compressed_seeds() -> list[bytes]:
    plain = os.urandom(500) + bytes(3000)
    gzip, zstd = images.compressed(plain, "gzip"), images.compressed(plain, "zstd")
    skippable = b"\x50\x2a\x4d\x18\x04\0\0\0abcd"
    members, frames = images.compressed(b"a", "gzip") * 100, _LARGE_WINDOW * 300
    return [
        *(plain, gzip, gzip + bytes(20) + gzip, zstd, skippable + zstd + skippable, zstd + zstd),
        *(members, frames),
    ]


_TAR_TOKENS: Final = (b"ustar\x0000", b"ustar  \0", b".wh.", b".wh..wh..opq", b"../", b"\0" * 512)
_PAX_TOKENS: Final = (
    *(b"path", b"linkpath", b"size", b"uid", b"gid", b"mtime", b"SCHILY.xattr."),
    *(b"GNU.sparse.map", b"GNU.sparse.major", b"GNU.sparse.offset", b"GNU.sparse.numblocks"),
    *(b"=", b"\n", b"-1", b"99999999999999999999"),
)
_JSON_TOKENS: Final = (
    *(b"null", b"true", b"1e999", b"-1", b"[", b"{}", b'""', b'"\\ud800"', b"NaN", b'"digest"'),
    *(b'"layers"', b'"manifests"', b'"config"', b'"size"', b'"mediaType"', b'"data"', b'"urls"'),
)

TARGETS: Final = (
    Target("tar", read_tar, _tar_seeds, _TAR_TOKENS),
    Target("pax", read_pax, _pax_seeds, _PAX_TOKENS),
    Target("sparse", read_sparse, _sparse_seeds, _PAX_TOKENS),
    Target("documents", read_documents, _document_seeds, _JSON_TOKENS),
    Target("names", read_names, _name_seeds, (b":", b"@", b"/", b"docker://", b"sha256:", b"\0")),
    Target("layer", unpack, _layer_seeds, _TAR_TOKENS),
    Target("index", write_index, _layer_seeds, _TAR_TOKENS),
    Target("image", indexes.read_image, indexes.image_seeds),
    Target("skeleton", read_skeleton, _tar_seeds, _TAR_TOKENS),
    Target("registries-conf", read_registries_conf, _conf_seeds, (b"[[registry]]", b'"', b"= [")),
    Target("records", read_records, _record_seeds, _JSON_TOKENS),
    Target("registry-headers", read_headers, _header_seeds, (b"Bearer ", b"realm=", b'"', b",")),
    Target("archive", index_archive, _tar_seeds, _TAR_TOKENS),
    Target("compression", decompress, _compressed_seeds, (b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd")),
    Target("fuse-read-only", requests.answer_read_only, requests.seeds),
    Target("fuse-read-write", requests.answer_read_write, requests.seeds),
)
