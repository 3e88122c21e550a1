"""Parsing of the command line."""

from __future__ import annotations

import pytest

from stacker.cli.options import main_parser, parse, whole_parser
from stacker.cli.verbs import SUMMARIES, load
from stacker.errors import UsageError
from stacker.mount.drivers.choose import DRIVERS, driver_named
from stacker.mount.plan import DRIVERS as OFFERED


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["--store", "/a", "images"], "store", "/a"),
        (["images", "--store", "/a"], "store", "/a"),
        (["--store", "/a", "images", "--store=/b"], "store", "/b"),
        (["-q", "images"], "verbosity", -1),
        (["images", "--verbose"], "verbosity", 1),
        (["-q", "images", "-v"], "verbosity", 1),
        (["--json", "images"], "json", True),
        (["images", "--json"], "json", True),
        (["--debug", "images"], "debug", True),
    ],
)
def test_global_options_precede_or_follow_the_verb(
    words: list[str], name: str, value: object
) -> None:
    assert getattr(parse(words)[1], name) == value


def test_options_before_and_after_the_verb_are_merged() -> None:
    args = parse(["--store", "/a", "--json", "mount", "-v", "app", "/mnt", "--rw"])[1]
    assert (args.store, args.json, args.verbosity) == ("/a", True, 1)
    assert (args.image, args.target, args.rw) == ("app", "/mnt", True)


def test_second_verb_is_an_argument() -> None:
    assert parse(["mount", "mount", "umount"])[1].image == "mount"


def test_word_after_two_dashes_is_an_argument() -> None:
    assert parse(["umount", "--", "-q"])[1].target == "-q"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "missing verb"),
        (["nothing"], "unknown verb: nothing"),
        (["images", "--jsn"], "unknown option: --jsn"),
        (["images", "--js"], "unknown option: --js"),
        (["pull"], "SOURCE"),
        (["pull", "a", "b"], "too many arguments: b"),
        (["pull", "a", "--jobs", "0"], "want a whole number"),
        (["pull", "a", "--max-bytes", "x"], "want a number of bytes"),
        (["--store"], "missing value: --store"),
        (["--store", "images"], "missing verb"),
        ([""], "unknown verb: "),
    ],
)
def test_invalid_words_are_a_usage_error(words: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        parse(words)
    assert caught.value.hint


def test_misspelled_verb_has_a_suggestion() -> None:
    with pytest.raises(UsageError) as caught:
        parse(["unmount", "/mnt"])
    assert caught.value.hint == "did you mean `umount`?"


@pytest.mark.parametrize("verb", SUMMARIES)
def test_every_verb_has_a_description_and_examples(verb: str) -> None:
    module = load(verb)
    assert module.DESCRIPTION.strip().endswith((".", "zstd."))
    assert f"stacker {verb}" in module.EXAMPLES
    assert all(len(line) <= 100 for line in module.DESCRIPTION.splitlines())


def test_help_lists_every_verb() -> None:
    text = main_parser().format_help()
    for verb, summary in SUMMARIES.items():
        assert f"  {verb:<12}{summary}\n" in text
    assert "Examples:" in text


def test_whole_parser_accepts_a_verb_with_its_options() -> None:
    whole = whole_parser().parse_args(["--store", "/a", "mount", "app", "/mnt", "--rw"])
    assert (whole.verb, whole.store, whole.image, whole.rw) == ("mount", "/a", "app", True)


def test_driver_option_lists_every_driver() -> None:
    assert list(OFFERED[:-1]) == ["auto", *(driver.name for driver in DRIVERS)]
    assert [driver_named(name).name for name in OFFERED[1:]] == list(OFFERED[1:])
