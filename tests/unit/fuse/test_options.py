"""Which owners show for those on disk."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from stacker.fuse.options import Guise, Owners, overflow_ids
from stacker.linux.process import IdRange

IDS = st.integers(0, 2**32 - 2)
ROOTLESS = Owners((IdRange(0, 1000, 1), IdRange(1, 110000, 65536)))


@given(IDS)
def test_without_ranges_everything_is_as_it_is(number: int) -> None:
    assert Owners().shown(number) == Owners().kept(number) == number
    assert Owners().as_they_are


def test_a_rootless_mapping_is_read_as_fuse_overlayfs_documents_it() -> None:
    assert [ROOTLESS.shown(each) for each in (0, 1, 65536)] == [1000, 110000, 175535]
    assert ROOTLESS.shown(65537) == 65534
    assert ROOTLESS.kept(5) == 65534
    assert not ROOTLESS.as_they_are


@given(st.integers(0, 65536))
def test_what_shows_is_kept_as_what_it_was(number: int) -> None:
    assert ROOTLESS.kept(ROOTLESS.shown(number)) == number


@given(IDS, IDS)
def test_a_squashed_owner_shows_whatever_is_kept(squashed: int, number: int) -> None:
    owners = Owners(ROOTLESS.ranges, squashed)
    assert owners.shown(number) == squashed
    assert not owners.as_they_are


def test_a_guise_says_whether_owners_differ() -> None:
    assert Guise("a", "b").owners_as_they_are
    assert not Guise("a", "b", groups=ROOTLESS).owners_as_they_are
    assert not Guise("a", "b", groups=ROOTLESS).is_squashed
    assert Guise("a", "b", users=Owners(squashed=0)).is_squashed


def test_who_has_no_id_here_has_the_kernels() -> None:
    found = (
        Path("/proc/sys/kernel/overflowuid").read_text(),
        Path("/proc/sys/kernel/overflowgid").read_text(),
    )
    assert overflow_ids() == tuple(map(int, found))
