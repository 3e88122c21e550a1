"""Directory listings whose offsets stay while names come and go."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stacker.tree.inode import Listing


def test_listing_has_lower_names_before_new_ones() -> None:
    listing = Listing([(1, b"a", 5), (2, b"b", 6)])
    listing.put(b"0", 7)
    assert list(listing.after(0)) == [(1, b"a", 5), (2, b"b", 6), (3, b"0", 7)]
    assert list(listing.after(2)) == [(3, b"0", 7)]
    assert list(listing.after(99)) == []


def test_name_with_a_new_inode_keeps_its_offset() -> None:
    listing = Listing([(1, b"a", 5), (2, b"b", 6)])
    listing.put(b"a", 9)
    assert list(listing.after(0)) == [(1, b"a", 9), (2, b"b", 6)]
    assert (listing.get(b"a"), listing.get(b"c")) == (9, None)


def test_offset_is_not_reused() -> None:
    listing = Listing([(1, b"a", 5)])
    listing.remove(b"a")
    listing.remove(b"a")
    listing.put(b"a", 6)
    assert list(listing.after(0)) == [(2, b"a", 6)]
    assert len(listing) == 1


@given(
    st.lists(st.integers(0, 30), unique=True),
    st.lists(st.tuples(st.booleans(), st.integers(0, 40))),
)
def test_listing_in_parts_has_each_remaining_name_once(
    first: list[int], steps: list[tuple[bool, int]]
) -> None:
    listing = Listing((at, b"%d" % number, number) for at, number in enumerate(first, 1))
    seen: list[int] = []
    place, touched = 0, {number for _, number in steps}
    for put, number in steps:
        for at, _, node in listing.after(place):
            place = at
            seen.append(node)
            break
        if put:
            listing.put(b"%d" % number, number)
        else:
            listing.remove(b"%d" % number)
    seen += [node for _, _, node in listing.after(place)]
    assert [number for number in seen if number not in touched] == [
        number for number in first if number not in touched
    ]
