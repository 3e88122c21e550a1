"""Archives as trees of files: links, repeated members, and hostile names."""

from __future__ import annotations

import pickle
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from stacker.errors import IntegrityError, NotFoundError
from stacker.source.tar_files import Archive, open_archive

Writer = Callable[[Path, Sequence[tuple[str, bytes | str]]], Path]


@pytest.fixture
def archived(tmp_path: Path, write_tar: Writer) -> Callable[..., Archive]:
    """Return a function that creates archives."""

    def make(*members: tuple[str, bytes | str]) -> Archive:
        return open_archive(str(write_tar(tmp_path / "a.tar", members)), "archive:a")

    return make


Maker = Callable[..., Archive]


def content(archive: Archive, name: str) -> bytes:
    """Return the bytes of a member."""
    with archive.open(name) as file:
        return file.read()


def test_every_member_is_a_slice_of_the_archive(archived: Maker) -> None:
    long = "d/" * 80 + "long"
    archive = archived(
        ("a", b"first"), ("d/", b""), ("d/b", b"x" * 1000), (long, b"far"), ("e", b"")
    )
    assert content(archive, "a") == b"first"
    assert content(archive, "d/b") == b"x" * 1000
    assert content(archive, long) == b"far"
    assert content(archive, "e") == b""


@pytest.mark.parametrize("written", ["a", "./a", "/a", ".//a"])
@pytest.mark.parametrize("asked", ["a", "./a", "/a", "x/../a"])
def test_unnormalised_names_are_found(archived: Maker, written: str, asked: str) -> None:
    assert content(archived((written, b"it")), asked) == b"it"


def test_archive_can_be_pickled(archived: Maker) -> None:
    archive = pickle.loads(pickle.dumps(archived(("a", b"it"), ("b", "-> a"))))
    assert content(archive, "b") == b"it"


@pytest.mark.parametrize(
    "link",
    [
        "-> ../a/layer.tar",
        "-> /a/layer.tar",
        "-> ./../b/../a/layer.tar",
        "=> a/layer.tar",
        "=> ./a/layer.tar",
        "-> other",
        "-> ../c",
    ],
)
def test_links_among_members_are_followed(archived: Maker, link: str) -> None:
    archive = archived(
        ("b/layer.tar", link),
        ("b/other", "-> ../c"),
        ("c", "-> a/layer.tar"),
        ("a/layer.tar", b"layer"),
    )
    assert content(archive, "b/layer.tar") == b"layer"


@pytest.mark.parametrize("link", ["-> b", "-> c", "=> b", "-> ./b"])
def test_link_loop_is_an_error(archived: Maker, link: str) -> None:
    archive = archived(("b", link), ("c", "-> d"), ("d", "-> c"))
    with pytest.raises(IntegrityError, match="link loop: archive:a: 'b'"):
        archive.open("b")


def test_long_chain_of_links_is_an_error(archived: Maker) -> None:
    chain = [(f"l{n}", f"-> l{n + 1}") for n in range(50)]
    archive = archived(*chain, ("l50", b"end"))
    assert content(archive, "l20") == b"end"
    with pytest.raises(IntegrityError, match="link loop"):
        archive.open("l0")


@pytest.mark.parametrize("link", ["-> ../../etc/passwd", "-> /../x", "-> x/../../.."])
def test_a_link_that_leads_outside_is_refused(archived: Maker, link: str) -> None:
    archive = archived(("d/b", link))
    with pytest.raises(IntegrityError, match="got a path outside the archive, want one inside"):
        archive.open("d/b")


def test_a_name_that_leads_outside_is_refused(archived: Maker) -> None:
    with pytest.raises(IntegrityError, match=r"unsafe name: archive:a: '\.\./etc/passwd'"):
        archived(("a", b"")).open("../etc/passwd")


def test_link_to_a_host_file_is_not_found(archived: Maker, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    for link in (f"-> {secret}", f"=> {secret}", f"=> ../../{secret}"):
        with pytest.raises(NotFoundError):
            archived(("b", link)).open("b")


@pytest.mark.parametrize("name", ["nothing", "d", "", "a/b", "\ud800"])
def test_directory_member_is_not_found(archived: Maker, name: str) -> None:
    archive = archived(("a", b""), ("d/", b""), ("d/x", b""))
    with pytest.raises(NotFoundError, match="not found: archive:a"):
        archive.open(name)


def test_repeated_equal_member_is_one(archived: Maker) -> None:
    archive = archived(("a", b"same"), ("./a", b"same"), ("l", "-> a"), ("l", "-> a"))
    assert content(archive, "a") == b"same"
    assert content(archive, "l") == b"same"


@pytest.mark.parametrize(
    "second",
    [
        ("a", b"other"),
        ("a", b"first and more"),
        ("./a", b""),
        ("a", "-> c"),
        ("a", "=> c"),
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_different_members_of_one_name_are_refused_when_used(
    archived: Maker, second: tuple[str, bytes | str], *, turned: bool
) -> None:
    both = [("a", b"first"), second]
    archive = archived(("c", b"fine"), *(both[::-1] if turned else both), ("l", "-> a"))
    assert content(archive, "c") == b"fine"
    for name in ("a", "l"):
        with pytest.raises(IntegrityError, match="ambiguous archive: archive:a: 'a'"):
            archive.open(name)


def test_links_of_one_name_to_different_files_are_refused_when_used(archived: Maker) -> None:
    archive = archived(("a", b""), ("b", b""), ("l", "-> a"), ("l", "-> b"))
    with pytest.raises(IntegrityError, match="ambiguous archive: archive:a: 'l'"):
        archive.open("l")


def test_a_truncated_archive_is_refused(archived: Maker, tmp_path: Path) -> None:
    archived(("a", b"x" * 5000))
    whole = (tmp_path / "a.tar").read_bytes()
    for length in (100, 600, 2000):
        (tmp_path / "cut.tar").write_bytes(whole[:length])
        with pytest.raises(IntegrityError):
            open_archive(str(tmp_path / "cut.tar"), "archive:cut")


@pytest.mark.parametrize("size", [-1, 8**11 - 1, 2**63, 2**70])
def test_impossible_member_size_is_refused(tmp_path: Path, size: int) -> None:
    info = tarfile.TarInfo("a")
    info.size = size
    path = tmp_path / "a.tar"
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
    with pytest.raises(IntegrityError) as caught:
        open_archive(str(path), "archive:a")
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("junk", [b"no tar at all", b"\xff" * 2000, b"{}" * 700])
def test_non_tar_is_refused(tmp_path: Path, junk: bytes) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(junk)
    with pytest.raises(IntegrityError, match="archive:a"):
        open_archive(str(path), "archive:a")


def test_a_missing_archive_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="archive:a"):
        open_archive(str(tmp_path / "none"), "archive:a")


def test_the_number_of_members_is_bounded(tmp_path: Path, write_tar: Writer) -> None:
    path = str(write_tar(tmp_path / "a.tar", [(name, b"") for name in "abcd"]))
    assert len(open_archive(path, "archive:a", limit=4).members) == 4
    with pytest.raises(
        IntegrityError, match="too many members: archive:a: got more than 3, want at most 3"
    ):
        open_archive(path, "archive:a", limit=3)
