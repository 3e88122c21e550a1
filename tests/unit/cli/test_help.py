"""The parser, its messages and its help texts."""

from __future__ import annotations

import shlex
from argparse import SUPPRESS, ArgumentTypeError

import pytest

from stacker.cli import help as cli_help
from stacker.cli.help import Parser, parse_count, parse_size, usage
from stacker.cli.options import main_parser, verb_parser
from stacker.cli.verbs import SUMMARIES, load
from stacker.errors import UsageError

PULL = """\
Usage: pull [OPTION]... SOURCE [DEST]

Pull.

Arguments:
  SOURCE                    the image
  DEST                      the target

Options:
      --driver {a,b}        how to mount (default: a)
  -u, --username NAME       a long text that does not fit into a line of forty
                            characters
      --a-very-long-option VALUE
                            short

Limits:
  In bytes.
      --flag

Examples:
  pull x
"""


def parser() -> Parser:
    made = Parser(prog="pull", description="Pull.\n", epilog="Examples:\n  pull x\n")
    made.add_argument("source", metavar="SOURCE", help="the image")
    made.add_argument("dest", metavar="DEST", nargs="?", help="the target")
    made.add_argument("--hidden", help=SUPPRESS)
    either = made.add_mutually_exclusive_group()
    text = "how to mount (default: %(default)s)"
    either.add_argument("--driver", choices=("a", "b"), default="a", help=text)
    text = "a long text that does not fit into a line of forty characters"
    either.add_argument("-u", "--username", metavar="NAME", help=text)
    made.add_argument("--a-very-long-option", metavar="VALUE", type=parse_count, help="short")
    made.add_argument_group("limits", "In bytes.").add_argument("--flag", action="store_true")
    return made


def test_help_is_the_same_on_every_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_help, "width", lambda: 78)
    assert parser().format_help() == PULL


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "missing argument: SOURCE"),
        (["a", "b", "c"], "too many arguments: c"),
        (["a", "--nothing"], "unknown option: --nothing"),
        (["a", "--driver", "c"], "invalid value: --driver: got 'c', want one of a, b"),
        (["a", "--username"], "missing value: -u/--username"),
        (["a", "--flag=x"], "unexpected value: --flag: got 'x', want no value"),
        (["a", "--driver=b", "-u", "x"], "options exclude each other: -u/--username, --driver"),
        (
            ["a", "--a-very-long-option=0"],
            "invalid value: --a-very-long-option: got '0', want a whole number, one or more",
        ),
    ],
)
def test_message_names_the_word_and_what_is_wrong_with_it(words: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parser().parse_args(words)
    assert str(caught.value) == message
    assert caught.value.hint == "`pull --help` lists its arguments and options"


def test_usage_of_the_main_command_names_the_verb() -> None:
    assert usage(main_parser()) == "stacker [OPTION]... VERB [ARGUMENT]..."


@pytest.mark.parametrize("verb", ["verify", "repair"])
def test_usage_of_optional_images_has_brackets(verb: str) -> None:
    assert usage(verb_parser(verb, load(verb))) == f"stacker {verb} [OPTION]... [IMAGE]..."


def test_usage_names_the_options_that_are_required() -> None:
    words = usage(verb_parser("convert", load("convert")))
    assert words == "stacker convert --form {tree,erofs} [OPTION]... IMAGE"


def example_lines(verb: str) -> list[str]:
    lines = [line.strip() for line in load(verb).EXAMPLES.splitlines()]
    return [line for line in lines if f"stacker {verb} " in f"{line} " and "$(" not in line]


@pytest.mark.parametrize("verb", SUMMARIES)
def test_examples_of_help_are_accepted(verb: str) -> None:
    assert example_lines(verb)
    for line in example_lines(verb):
        command = line.partition(f"stacker {verb}")[2].partition("   ")[0].partition(" |")[0]
        verb_parser(verb, load(verb)).parse_args(shlex.split(command))


@pytest.mark.parametrize(
    ("text", "bytes_"),
    [
        ("0", 0),
        ("512", 512),
        ("64K", 65536),
        ("64k", 65536),
        ("10M", 10 << 20),
        ("2G", 2 << 30),
        ("1T", 1 << 40),
        ("1GiB", 1 << 30),
        ("1GB", 1 << 30),
    ],
)
def test_size_is_parsed(text: str, bytes_: int) -> None:
    assert parse_size(text) == bytes_


@pytest.mark.parametrize("text", ["", "K", "-1", "1.5G", "1 G", "1X", "1KK", "1e3", "\u0661"])
def test_malformed_size_is_rejected(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match="want a number of bytes"):
        parse_size(text)


@pytest.mark.parametrize("text", ["", "0", "-1", "1.0", "many", "1K", "\u0661"])
def test_malformed_count_is_rejected(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match="whole number"):
        parse_count(text)
