"""Read a command line: global options, the verb, and the verb's own arguments.

`parse` takes words and returns the verb's module and its arguments.  It reads them in two steps,
because one parser for all verbs would import every verb.  Invalid words are a `UsageError`.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import stacker
from stacker.cli.help import Parser, parse_count, parse_size
from stacker.cli.verbs import FAILURES, SUMMARIES, load
from stacker.errors import UsageError

if TYPE_CHECKING:
    from stacker.api.config import Config
    from stacker.cli.verbs import Verb
    from stacker.tar.limits import Limits

_DESCRIPTION = """\
Pull container images, unpack their layers and mount them as root filesystems, without a daemon.
stacker verifies each layer and unpacks it once; images share the unpacked layers.
"""
EXAMPLES = """\
  stacker pull oci-archive:app.tar           pull an image into the store
  stacker mount app:1.0 /mnt                 mount its root filesystem, read-only
  chroot /mnt /bin/sh                        run a program in it
  stacker umount /mnt                        unmount it

  stacker pull docker-archive:saved.tar.gz   pull an archive that `docker save` wrote
  stacker mount --rw app:1.0 /mnt            mount it read-write; discard writes at unmount
  stacker unpack app:1.0 ./rootfs            unpack it into a directory, without a mount
  stacker push app:1.0 docker://registry.example/app:1.0
  stacker images --json                      list the images as JSON
"""
ENVIRONMENT = (
    ("STACKER_STORE", "store directory; --store overrides it"),
    ("XDG_DATA_HOME", "parent directory of a user's store (default: ~/.local/share)"),
    ("REGISTRY_AUTH_FILE", "credentials file for registries; --authfile overrides it"),
    ("CONTAINERS_REGISTRIES_CONF", "registries.conf file; --registries-conf overrides it"),
    ("DOCKER_CONFIG", "directory of Docker's config.json (default: ~/.docker)"),
    (
        "XDG_RUNTIME_DIR",
        (
            "parent of containers/auth.json (without it: /run/containers/UID/auth.json), and of the"
            " locks and mounts of read-only stores (without it: /run/user/UID)"
        ),
    ),
    (
        "XDG_CONFIG_HOME",
        "parent of a user's stacker/config.toml and containers directory (default: ~/.config)",
    ),
    ("HTTPS_PROXY, HTTP_PROXY", "proxies for registries; lower-case names work as well"),
    ("NO_PROXY", "hosts, domains and networks to reach without a proxy, or `*` for all"),
    ("SSL_CERT_FILE", "file of CA certificates that replace the system's"),
    ("TMPDIR", "directory for temporary files of `stacker copy` (default: /var/tmp)"),
    ("NO_COLOR", "if set, disable colours"),
    ("TERM", "`dumb` disables progress bars"),
)
GLOBAL_OPTIONS = "global options"
"""Title of the group of options that every verb accepts."""

_STORE = (
    "$STACKER_STORE, else from the config file, else /var/lib/stacker for root, "
    "~/.local/share/stacker for other users"
)
_IMAGE = "image ID, unique prefix of an image ID, name, or SOURCE of the pull"
_COLUMN = 12


def parse(words: list[str], config: Config | None = None) -> tuple[Verb, argparse.Namespace]:
    """Return the verb that a command line names, and its arguments.

    :param words: the command line without the program's name.
    :param config: values that replace the defaults of the verb's options.
    :raises UsageError: the words are not a valid command.
    """
    at = _verb_at(words)
    found = main_parser().parse_args(words[:at])
    if at == len(words):
        raise UsageError("missing verb", hint="`stacker --help` lists the verbs")
    name = words[at]
    if name not in SUMMARIES:
        raise UsageError(f"unknown verb: {name}", hint=_guess(name))
    verb = load(name)
    parser = verb_parser(name, verb)
    if config is not None:
        set_defaults(parser, config.defaults(name))
    try:
        return verb, parser.parse_args(words[at + 1 :], found)
    except UsageError as error:
        error.exit_code = FAILURES.get(name, error.exit_code)
        raise


def set_defaults(parser: argparse.ArgumentParser, values: dict[str, object]) -> None:
    """Replace the defaults of options.

    :param values: defaults by the names of options; those that the parser lacks are ignored.
    """
    for action in parser._actions:  # noqa: SLF001 - argparse has no public list of them
        if action.dest in values:
            action.default = values[action.dest]
        elif isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            for choice in action.choices.values():
                set_defaults(choice, values)


def _verb_at(words: list[str]) -> int:
    """Return the index of the verb: the first word that is neither an option nor its value."""
    is_value = False
    for number, word in enumerate(words):
        if not (is_value or word.startswith("-")):
            return number
        is_value = not is_value and word in {"--store", "--additional-store"}
    return len(words)


def main_parser() -> Parser:
    """Return the parser of the words before the verb."""
    parser = Parser(
        prog="stacker",
        usage="stacker [OPTION]... VERB [ARGUMENT]...",
        description=f"{_DESCRIPTION}\nVerbs:\n{_verb_lines()}",
        epilog=f"Examples:\n{EXAMPLES}\n`stacker VERB --help` describes a verb and its options.",
    )
    add_globals(parser)
    return parser


def verb_parser(name: str, verb: Verb) -> Parser:
    """Return the parser of the words after a verb."""
    parser = Parser(prog=f"stacker {name}")
    parser.description, parser.epilog = verb.DESCRIPTION, f"Examples:\n{verb.EXAMPLES}"
    _fill(parser, verb)
    return parser


def whole_parser() -> Parser:
    """Return one parser for all verbs, which completions are generated from.

    It imports the module of every verb.
    """
    parser = main_parser()
    choices = parser.add_subparsers(metavar="VERB", dest="verb")
    for name, summary in SUMMARIES.items():
        _fill(choices.add_parser(name, help=summary, description=summary), load(name))
    return parser


def _fill(parser: argparse.ArgumentParser, verb: Verb) -> None:
    verb.configure(parser)
    add_globals(parser)


def add_image(parser: argparse.ArgumentParser) -> None:
    """Add the argument that names an image in the store."""
    parser.add_argument("image", metavar="IMAGE", help=_IMAGE)


def add_images(parser: argparse.ArgumentParser, nargs: str) -> None:
    """Add the argument that names several images in the store.

    :param nargs: ``+`` for one or more images, ``*`` for any number.
    """
    parser.add_argument("images", metavar="IMAGE", nargs=nargs, help=_IMAGE)


def add_jobs(parser: argparse.ArgumentParser, what: str) -> None:
    """Add the number of parallel workers.

    :param what: the objects of the workers and their task, such as ``layers to unpack``.
    """
    parser.add_argument(
        "--jobs",
        metavar="N",
        type=parse_count,
        help=f"the number of {what} in parallel (default: the number of processors)",
    )


def add_archive_ratio(parser: argparse.ArgumentParser) -> None:
    """Add the limit on what a compressed archive expands to."""
    from stacker.tar.limits import ARCHIVE_RATIO  # mounts do not need it

    parser.add_argument(
        "--max-archive-ratio",
        metavar="N",
        type=parse_count,
        default=ARCHIVE_RATIO,
        help="maximum decompressed bytes per byte of a compressed archive; 16M are always allowed "
        "(default: %(default)s)",
    )


def add_limits(parser: argparse.ArgumentParser) -> None:
    """Add the limits on one layer; `limits_of` reads them."""
    from stacker.tar.limits import Limits  # mounts do not need it

    limits = Limits()
    group = parser.add_argument_group(
        "limits of a layer", "SIZE is a number of bytes; a suffix K, M, G or T is a power of 1024."
    )
    sizes = (
        ("--max-bytes", limits.unpacked_bytes, "bytes of the unpacked layer (default: 1T)"),
        ("--max-pax-bytes", limits.pax_bytes, "bytes of one PAX header (default: 1M)"),
        (
            "--max-names",
            limits.names,
            "bytes of names, attributes and link targets held in memory (default: 128M)",
        ),
        ("--max-window", limits.window, "bytes of the zstd window, at most 2G (default: 128M)"),
    )
    for flag, default, text in sizes:
        group.add_argument(flag, metavar="SIZE", type=parse_size, default=default, help=text)
    counts = (
        ("--max-entries", limits.entries, "entries in the layer (default: %(default)s)"),
        ("--max-depth", limits.depth, "components in a path (default: %(default)s)"),
        (
            "--max-ratio",
            limits.ratio,
            "unpacked bytes per compressed byte; 64M are always allowed (default: %(default)s)",
        ),
    )
    for flag, default, text in counts:
        group.add_argument(flag, metavar="N", type=parse_count, default=default, help=text)


def limits_of(args: argparse.Namespace) -> Limits:
    """Return the limits that the options of `add_limits` set."""
    from stacker.tar.limits import Limits

    return Limits(
        unpacked_bytes=args.max_bytes,
        entries=args.max_entries,
        depth=args.max_depth,
        pax_bytes=args.max_pax_bytes,
        names=args.max_names,
        ratio=args.max_ratio,
        window=args.max_window,
        archive_ratio=args.max_archive_ratio,
    )


def add_globals(parser: argparse.ArgumentParser) -> None:
    """Add the global options, which may precede or follow the verb.

    They have no defaults, so that the parser of a verb keeps the values given before the verb.  If
    a verb has an option ``-v`` of its own, as podman's verbs for containers have, the global option
    is ``--verbose`` only.
    """
    taken = parser._option_string_actions  # noqa: SLF001 - argparse has no public list of them
    add = parser.add_argument_group(GLOBAL_OPTIONS).add_argument
    omitted = argparse.SUPPRESS
    add("--store", metavar="DIR", default=omitted, help=f"store directory (default: {_STORE})")
    add(
        "--additional-store",
        metavar="DIR",
        action="append",
        default=omitted,
        help="another store, whose layers are used in place and never pulled; repeatable",
    )
    for flags, level, text in (
        (("-q", "--quiet"), -1, "print only results and errors"),
        (("-v", "--verbose"), 1, "print more messages to stderr"),
    ):
        free = [flag for flag in flags if flag not in taken]
        add(*free, dest="verbosity", action="store_const", const=level, default=omitted, help=text)
    add("--json", action="store_true", default=omitted, help="print results as JSON")
    add("--debug", action="store_true", default=omitted, help="print a traceback after an error")
    version = f"stacker {stacker.__version__}"
    add("--version", action="version", version=version, help="print the version and exit")
    add("-h", "--help", action="help", help="print this help and exit")


def _verb_lines() -> str:
    return "".join(f"  {name:<{_COLUMN}}{summary}\n" for name, summary in SUMMARIES.items())


def _guess(name: str) -> str:
    from difflib import get_close_matches  # only for a mistake

    close = get_close_matches(name, SUMMARIES, n=1)
    return f"did you mean `{close[0]}`?" if close else "`stacker --help` lists the verbs"
