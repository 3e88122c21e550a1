"""Properties of image values: they survive a round trip, and invalid input is an error."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from stacker.errors import StackerError
from stacker.image import mediatype
from stacker.image.config import chain_ids, parse_config
from stacker.image.descriptor import Descriptor
from stacker.image.digest import DiffID, Digest
from stacker.image.document import parse_json
from stacker.image.manifest import Index, Manifest, parse_document
from stacker.image.platform import Platform
from stacker.image.selection import choose_platform

# Half a surrogate pair is no text: parse_json refuses it, so no value holds one.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
ANNOTATIONS = st.dictionaries(TEXT, TEXT, max_size=3)
PLATFORMS = st.builds(Platform, TEXT, TEXT, TEXT, TEXT)
URLS = st.lists(TEXT, max_size=2).map(tuple)


@st.composite
def digests(draw: st.DrawFn) -> Digest:
    """Return any valid digest."""
    algorithm, length = draw(st.sampled_from([("sha256", 32), ("sha512", 64)]))
    return Digest(algorithm, draw(st.binary(min_size=length, max_size=length)).hex())


@st.composite
def descriptors(draw: st.DrawFn, *media_types: str) -> Descriptor:
    """Return a descriptor with one of the given types, or any type; some embed their data."""
    media_type = draw(st.sampled_from(media_types) if media_types else TEXT)
    platform = draw(st.none() | PLATFORMS)
    annotations, urls = draw(ANNOTATIONS), draw(URLS)
    data = draw(st.none() | st.binary(max_size=20))
    if data is None:
        size = draw(st.integers(0, 2**63 - 1))
        return Descriptor(media_type, draw(digests()), size, platform, annotations, urls)
    digest = Digest.of(data)
    return Descriptor(media_type, digest, len(data), platform, annotations, urls, data)


MANIFESTS = st.builds(
    Manifest,
    st.sampled_from(sorted(mediatype.MANIFESTS)),
    descriptors(*sorted(mediatype.CONFIGS)),
    st.lists(descriptors(*sorted(mediatype.LAYERS)), max_size=4).map(tuple),
    ANNOTATIONS,
)
INDEXES = st.builds(
    Index,
    st.sampled_from(sorted(mediatype.INDEXES)),
    st.lists(descriptors(), max_size=4).map(tuple),
    ANNOTATIONS,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=10,
)
FIELDS = st.sampled_from(
    (
        *("schemaVersion", "mediaType", "config", "layers", "manifests", "annotations", "digest"),
        *("size", "platform", "rootfs", "type", "diff_ids", "history", "os", "architecture"),
        *("Env", "Cmd", "Labels"),
    )
)
NEAR_DOCUMENTS = st.dictionaries(
    FIELDS, JSON | st.just(2) | st.dictionaries(FIELDS, JSON, max_size=4), max_size=8
)


@given(digests())
def test_digest_survives_parsing(digest: Digest) -> None:
    assert Digest.parse(str(digest)) == digest


@given(descriptors())
def test_descriptor_survives_json(descriptor: Descriptor) -> None:
    written = json.loads(json.dumps(descriptor.to_json()))
    assert Descriptor.from_json(written, "descriptor") == descriptor


@given(MANIFESTS | INDEXES)
def test_document_survives_json(document: Manifest | Index) -> None:
    for ensure_ascii in (True, False):
        raw = json.dumps(document.to_json(), ensure_ascii=ensure_ascii).encode()
        assert parse_document(raw, media_type=document.media_type, what="doc") == document
        assert parse_document(raw, media_type=None, what="doc") == document


@given(JSON)
def test_strict_reader_reads_what_the_standard_one_writes(value: object) -> None:
    assert parse_json(json.dumps(value).encode(), "doc") == value


@given(st.binary(max_size=200) | NEAR_DOCUMENTS.map(lambda value: json.dumps(value).encode()))
def test_any_input_parses_or_raises_a_one_line_error(raw: bytes) -> None:
    for parse in (
        lambda: parse_document(raw, media_type=None, what="doc"),
        lambda: parse_config(raw, "doc"),
    ):
        try:
            parse()
        except StackerError as error:
            assert error.message.isprintable()  # noqa: PT017 - either outcome is right


@given(st.lists(descriptors(*sorted(mediatype.MANIFESTS)), max_size=5), PLATFORMS)
def test_selected_platform_was_offered(entries: list[Descriptor], wanted: Platform) -> None:
    try:
        assert choose_platform(entries, wanted, "index") in entries
    except StackerError as error:
        assert error.message.isprintable() or not str(wanted).isprintable()  # noqa: PT017


@given(st.lists(st.binary(max_size=3).map(DiffID.of), max_size=6), st.integers(0, 6))
def test_chain_id_does_not_depend_on_upper_layers(layers: list[DiffID], cut: int) -> None:
    assert chain_ids(layers)[:cut] == chain_ids(layers[:cut])
