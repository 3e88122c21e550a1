"""Exceeding a limit is an error that names its flag (docs/rules.md, Limits)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from stacker.errors import LayerError
from stacker.tar.limits import RATIO_GRACE, Limits
from tests.support import tars
from tests.support.tars import file, gnu_name, hardlink, header, pax, pax_header, tar, whiteout
from tests.support.unpacking import Workspace, entries_of


def test_limit_of_unpacked_bytes(workspace: Workspace) -> None:
    limits = Limits(unpacked_bytes=10)
    workspace.unpack(file("a", b"12345"), file("b", b"12345"), limits=limits)
    with pytest.raises(LayerError, match="over a limit") as caught:
        workspace.unpack(file("a", b"12345"), file("a", b"123456"), limits=limits)
    assert "--max-bytes" in (caught.value.hint or "")


def test_file_over_the_limit_is_refused_before_it_is_written(workspace: Workspace) -> None:
    with pytest.raises(LayerError, match="over a limit"):
        workspace.unpack(
            tar(header("a", size=1 << 60), end=False), limits=Limits(unpacked_bytes=10)
        )


def test_limit_of_entries(workspace: Workspace) -> None:
    limits = Limits(entries=3)
    workspace.unpack(file("a"), whiteout("b"), hardlink("c", "a"), limits=limits)
    with pytest.raises(LayerError, match="more than 3 entries") as caught:
        workspace.unpack(file("a"), whiteout("b"), hardlink("c", "a"), file("a"), limits=limits)
    assert "--max-entries" in (caught.value.hint or "")


@pytest.mark.parametrize("entry", [file, tars.dir, whiteout, tars.fifo])
def test_limit_of_path_depth(entry: Callable[[str], bytes]) -> None:
    limits = Limits(depth=3)
    assert entries_of(tar(entry("a/b/c")), limits=limits)
    assert entries_of(tar(entry("./a/../a//./b/c")), limits=limits)
    with pytest.raises(LayerError, match="more than 3 components in a path") as caught:
        entries_of(tar(entry("a/b/c/d")), limits=limits)
    assert "--max-depth" in (caught.value.hint or "")


def test_limit_of_pax_bytes() -> None:
    limits = Limits(pax_bytes=1000)
    for extended in (pax(comment="x" * 900), gnu_name("x" * 900), pax_header(bytes(1000))):
        assert entries_of(tar(extended, file("a")), limits=limits)
    for extended in (pax(comment="x" * 1000), gnu_name("x" * 1000), pax_header(bytes(1001))):
        with pytest.raises(
            LayerError, match="more than 1000 bytes in an extended header"
        ) as caught:
            entries_of(tar(extended, file("a")), limits=limits)
        assert "--max-pax-bytes" in (caught.value.hint or "")


DEEP = "/".join("abcdefghij")  # 1 + 3 + … + 19 bytes of names


@pytest.mark.parametrize(
    "parts",
    [
        (tars.dir(f"{DEEP}/"),),
        (file(f"{DEEP}/x"),),
        (whiteout("w" * 100),),
        (tars.opaque("o" * 100),),
        (whiteout(f"{DEEP}/x"),),
        (hardlink("l" * 50, "t" * 50),),
        (tars.dir("d/", xattrs={"user.x": b"v" * 100}),),
        (tars.dir("d/"), tars.symlink("l", "d"), *(file(f"l/{n:020}") for n in range(5))),
        (*(file("r" * 20) for _ in range(6)),),
        (tars.symlink("l", "/".join(f"{n:020}/.." for n in range(5))), file("l/x")),
    ],
)
def test_limit_of_remembered_names(workspace: Workspace, parts: tuple[bytes, ...]) -> None:
    workspace.unpack(*parts, limits=Limits(names=1000))
    with pytest.raises(LayerError, match="more than 99 bytes of names") as caught:
        workspace.unpack(*parts, limits=Limits(names=99))
    assert "--max-names" in (caught.value.hint or "")


def test_memory_of_links_that_wait_counts_as_names(workspace: Workspace) -> None:
    links = [hardlink(f"link{number:02}", "file") for number in range(50)]
    workspace.unpack(*links, file("file"), limits=Limits(names=50 * 60))
    with pytest.raises(LayerError, match="bytes of names") as caught:
        workspace.unpack(*links, file("file"), limits=Limits(names=50 * 40))
    assert "--max-names" in (caught.value.hint or "")


def test_short_tar_cannot_imply_a_thousand_times_its_size_of_paths(workspace: Workspace) -> None:
    deep = "/".join(["n" * 250] * 500)
    with pytest.raises(LayerError, match="bytes of names"):
        workspace.unpack(*(file(f"{n}/{deep}/x") for n in range(2)), limits=Limits(names=1 << 24))


def test_large_extended_header_is_refused_unread() -> None:
    for size in (1 << 33, 1 << 62, -1):
        with pytest.raises(LayerError, match=r"extended header"):
            entries_of(tar(pax_header(b"", size=size), file("a")))


def test_small_blob_may_exceed_the_expansion_ratio() -> None:
    limits = Limits(ratio=10)
    assert limits.expanded(0) == RATIO_GRACE
    assert limits.expanded(RATIO_GRACE) == 10 * RATIO_GRACE
    assert Limits(ratio=10, unpacked_bytes=5).expanded(RATIO_GRACE) == 5
