"""Digests: what parses, what does not, and that the four kinds are distinct."""

from __future__ import annotations

import hashlib
import pickle

import pytest

from stacker.errors import IntegrityError
from stacker.image.digest import ChainID, DiffID, Digest, ImageID

HEX = hashlib.sha256(b"x").hexdigest()
KINDS = (Digest, DiffID, ChainID, ImageID)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_text_and_value_are_each_others_inverse(kind: type[Digest], algorithm: str) -> None:
    text = f"{algorithm}:{hashlib.new(algorithm, b'x').hexdigest()}"
    value = kind.parse(text)
    assert str(value) == text
    assert value.algorithm == algorithm
    assert value.short == text.split(":")[1][:12]
    assert pickle.loads(pickle.dumps(value)) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "sha256",
        "sha256:",
        HEX,
        f"sha256:{HEX[:-1]}",
        f"sha256:{HEX}0",
        f"sha256:{HEX[:-1]}g",
        f"sha256:{HEX.upper()}",
        f"SHA256:{HEX}",
        f"md5:{HEX[:32]}",
        f"sha512:{HEX}",
        f"sha256:{HEX}\n",
        f" sha256:{HEX}",
        f"sha256:../{HEX[3:]}",
        f"sha256:sha256:{HEX[7:]}",
        f"sha256:{HEX[:-1]}٣",
    ],
)
def test_anything_but_lowercase_hex_of_the_exact_length_is_refused(text: str) -> None:
    with pytest.raises(IntegrityError, match=r"^DiffID: got '"):
        DiffID.parse(text)


def test_constructor_checks_the_value() -> None:
    with pytest.raises(IntegrityError):
        Digest("sha256", "../../etc/passwd")


def test_message_is_printable_and_short() -> None:
    with pytest.raises(IntegrityError) as caught:
        Digest.parse("\x1b[2J" + "a" * 10_000)
    assert "\x1b" not in caught.value.message
    assert len(caught.value.message) < 300


def test_kinds_of_digest_are_never_equal() -> None:
    assert len({kind("sha256", HEX) for kind in KINDS}) == len(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_text_gives_an_equal_value(kind: type[Digest]) -> None:
    assert kind.parse(f"sha256:{HEX}") == kind("sha256", HEX)
    assert hash(kind.parse(f"sha256:{HEX}")) == hash(kind("sha256", HEX))


def test_of_hashes_and_recast_keeps_the_bytes() -> None:
    digest = Digest.of(b"x")
    assert digest.hex == HEX
    assert str(ImageID.recast(digest)) == str(digest)
    assert type(ImageID.recast(digest)) is ImageID


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_new_hash_uses_the_algorithm_of_the_digest(algorithm: str) -> None:
    digest = Digest(algorithm, hashlib.new(algorithm, b"x").hexdigest())
    hasher = digest.new_hash()
    hasher.update(b"x")
    assert hasher.hexdigest() == digest.hex


def test_digest_has_slots() -> None:
    assert not hasattr(Digest("sha256", HEX), "__dict__")
