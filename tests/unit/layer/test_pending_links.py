"""The set of hard links that wait for their targets."""

from __future__ import annotations

from sys import getsizeof

from hypothesis import given
from hypothesis import strategies as st

from stacker.layer.pending_links import LINK_BYTES, PendingLinks
from stacker.tar.entry import HardLink

PATHS = st.sampled_from([b"a", b"b", b"ab", b"d/a", b"d/b", b"d/e/a", b"\xff", b"a\0"])


def chain(count: int) -> list[HardLink]:
    """Return links that each wait for the next one."""
    return [HardLink(b"%d" % number, b"%d" % (number + 1)) for number in range(count)]


@given(st.lists(st.tuples(st.sampled_from(["add", "discard", "inside"]), PATHS)))
def test_set_behaves_as_a_dictionary(steps: list[tuple[str, bytes]]) -> None:
    links, model = PendingLinks(), dict[bytes, bytes]()
    for number, (step, path) in enumerate(steps):
        if step == "add":
            links.add(HardLink(path, b"%d" % number))
            model.pop(path, None)
            model[path] = b"%d" % number
        elif step == "discard":
            assert links.discard(path) == (path in model)
            model.pop(path, None)
        else:
            links.discard_inside(path)
            model = {p: t for p, t in model.items() if p.rpartition(b"/")[0] != path}
        assert [*links] == [HardLink(*pair) for pair in model.items()]
        assert links.count == len(model)
        assert (path in links) == (path in model)


def test_links_are_found_after_the_table_grows() -> None:
    links = PendingLinks(chain(5000))
    assert [*links] == chain(5000)
    assert all(b"%d" % number in links for number in range(5000))
    assert b"5000" not in links


def test_each_link_is_made_after_the_link_that_it_waits_for() -> None:
    count = 2000
    links, made, calls = PendingLinks(chain(count)), [b"%d" % count], [0]

    def make(link: HardLink) -> bytes | None:
        calls[0] += 1
        if link.target != made[-1]:
            return link.target
        made.append(link.path)
        return None

    links.make(make)
    assert made == [b"%d" % number for number in range(count, -1, -1)]
    assert calls[0] < 2 * count
    assert [*links] == []


def test_all_links_that_wait_for_one_link_are_made() -> None:
    links = PendingLinks(HardLink(b"%d" % number, b"last") for number in range(100))
    links.add(HardLink(b"last", b"file"))
    made = {b"file"}

    def make(link: HardLink) -> bytes | None:
        if link.target not in made:
            return link.target
        made.add(link.path)
        return None

    links.make(make)
    assert len(made) == 102
    assert links.count == 0


def test_cyclic_and_missing_targets_are_left() -> None:
    cyclic = [HardLink(b"a", b"b"), HardLink(b"b", b"a"), HardLink(b"c", b"c")]
    missing = [HardLink(b"d", b"none"), HardLink(b"e", b"d")]
    links = PendingLinks([*cyclic, *missing])
    links.make(lambda link: link.target)
    assert [*links] == [*cyclic, *missing]


def test_many_links_before_their_targets_take_linear_steps_and_little_memory() -> None:
    """Each link waits for the next one, which is the worst order."""
    count, steps = 100_000, 0
    links = PendingLinks(HardLink(b"l%d" % n, b"l%d" % (n + 1)) for n in range(count))
    names = sum(len(b"l%d" % n) for n in range(count)) * 2
    assert sum(getsizeof(getattr(links, name)) for name in links.__slots__) < (
        LINK_BYTES * count + names * 9 // 8
    )
    made = bytearray(count + 2)
    made[count] = 1  # the file

    def make(link: HardLink) -> bytes | None:
        nonlocal steps
        steps += 1
        if not made[int(link.target[1:])]:
            return link.target
        made[int(link.path[1:])] = 1
        return None

    links.make(make)
    assert not links.count
    assert all(made[: count + 1])
    assert steps < 2 * count
