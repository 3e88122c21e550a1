"""The map between owners on disk and owners in the mount."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from stacker.fuse.options import FuseOptions, Owners, overflow_ids
from stacker.linux.process import IdRange

IDS = st.integers(0, 2**32 - 2)
ROOTLESS = Owners((IdRange(0, 1000, 1), IdRange(1, 110000, 65536)))


@given(IDS)
def test_ids_without_ranges_are_unchanged(number: int) -> None:
    assert Owners().in_mount(number) == Owners().on_disk(number) == number
    assert Owners().is_identity


def test_rootless_mapping_of_the_fuse_overlayfs_manual() -> None:
    assert [ROOTLESS.in_mount(each) for each in (0, 1, 65536)] == [1000, 110000, 175535]
    assert ROOTLESS.in_mount(65537) == 65534
    assert ROOTLESS.on_disk(5) == 65534
    assert not ROOTLESS.is_identity


@given(st.integers(0, 65536))
def test_mapping_to_the_mount_and_back_keeps_the_id(number: int) -> None:
    assert ROOTLESS.on_disk(ROOTLESS.in_mount(number)) == number


@given(IDS, IDS)
def test_squashed_owner_replaces_every_id(squashed: int, number: int) -> None:
    owners = Owners(ROOTLESS.ranges, squashed)
    assert owners.in_mount(number) == squashed
    assert not owners.is_identity


def test_options_report_mapped_and_squashed_owners() -> None:
    assert FuseOptions().keeps_owners
    assert not FuseOptions(groups=ROOTLESS).keeps_owners
    assert not FuseOptions(groups=ROOTLESS).is_squashed
    assert FuseOptions(users=Owners(squashed=0)).is_squashed


def test_overflow_ids_are_the_kernels() -> None:
    found = (
        Path("/proc/sys/kernel/overflowuid").read_text(),
        Path("/proc/sys/kernel/overflowgid").read_text(),
    )
    assert overflow_ids() == tuple(map(int, found))
