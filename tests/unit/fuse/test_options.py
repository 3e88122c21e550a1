"""Which owners show for those on disk."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from stacker.fuse.options import FuseOptions, Owners, overflow_ids
from stacker.linux.process import IdRange

IDS = st.integers(0, 2**32 - 2)
ROOTLESS = Owners((IdRange(0, 1000, 1), IdRange(1, 110000, 65536)))


@given(IDS)
def test_without_ranges_everything_is_as_it_is(number: int) -> None:
    assert Owners().in_mount(number) == Owners().on_disk(number) == number
    assert Owners().is_identity


def test_a_rootless_mapping_is_read_as_fuse_overlayfs_documents_it() -> None:
    assert [ROOTLESS.in_mount(each) for each in (0, 1, 65536)] == [1000, 110000, 175535]
    assert ROOTLESS.in_mount(65537) == 65534
    assert ROOTLESS.on_disk(5) == 65534
    assert not ROOTLESS.is_identity


@given(st.integers(0, 65536))
def test_what_shows_is_kept_as_what_it_was(number: int) -> None:
    assert ROOTLESS.on_disk(ROOTLESS.in_mount(number)) == number


@given(IDS, IDS)
def test_a_squashed_owner_shows_whatever_is_kept(squashed: int, number: int) -> None:
    owners = Owners(ROOTLESS.ranges, squashed)
    assert owners.in_mount(number) == squashed
    assert not owners.is_identity


def test_a_guise_says_whether_owners_differ() -> None:
    assert FuseOptions().keeps_owners
    assert not FuseOptions(groups=ROOTLESS).keeps_owners
    assert not FuseOptions(groups=ROOTLESS).is_squashed
    assert FuseOptions(users=Owners(squashed=0)).is_squashed


def test_who_has_no_id_here_has_the_kernels() -> None:
    found = (
        Path("/proc/sys/kernel/overflowuid").read_text(),
        Path("/proc/sys/kernel/overflowgid").read_text(),
    )
    assert overflow_ids() == tuple(map(int, found))
