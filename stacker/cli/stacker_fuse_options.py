r"""The command line of `stacker-fuse`, as mount(8), podman and fuse-overlayfs pass it.

Words come in; `Arguments` go out.  Options are split at commas, and lower directories at colons,
except after a backslash, as overlayfs does (overlayfs.rst, *Multiple lower layers*).  Unknown
options are reported, not refused, as fuse-overlayfs does.  This module must not look at files.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from stacker.errors import UsageError
from stacker.linux.process import IdRange

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

SYNOPSIS: Final = (
    "stacker-fuse [-f] [-d] [SOURCE] -o OPTION[,OPTION…] MOUNTPOINT",
    "stacker-fuse SOURCE MOUNTPOINT -o OPTION[,OPTION…]",
    "mount -t fuse.stacker-fuse SOURCE MOUNTPOINT -o OPTION[,OPTION…]",
)
DESCRIPTION: Final = """\
Mount directories as one merged tree through /dev/fuse, with the semantics and the options of the
kernel's overlayfs.  stacker-fuse also accepts the options of fuse-overlayfs.  Use it as a mount
program of podman and other users of containers/storage, or as a helper of mount(8).

The lower directories are ordinary directories.  stacker-fuse reads every common whiteout format:
character devices 0:0, files with overlayfs's whiteout xattr, and files named `.wh.NAME`.  A
directory is opaque if it has a file `.wh..wh..opq`, or the xattr trusted.overlay.opaque,
user.overlay.opaque or user.fuseoverlayfs.opaque.  The mount hides these files and xattrs.  Programs
cannot create a file named `.wh.…`.  stacker-fuse writes to the upper directory in the format of the
kernel's overlayfs.

stacker-fuse moves to the background when the mount answers requests.  It exits when the mount is
unmounted.  After SIGTERM it unmounts the mount and exits.  As root it calls mount(2); for other
users it calls fusermount3.
"""
SWITCHES: Final = (
    ("-f", "stay in the foreground"),
    ("-d, --debug", "stay in the foreground, and print the mount's directories to stderr"),
    ("-h, --help", "print this help and exit"),
    ("-V, --version", "print the version and exit"),
)
OPTIONS: Final = (
    (
        "lowerdir=DIR[:DIR…]",
        "the lower directories, topmost first; escape `:`, `,` and `\\` with a backslash",
    ),
    ("upperdir=DIR", "the directory that receives writes; without it the mount is read-only"),
    (
        "workdir=DIR",
        "a directory on upperdir's filesystem for unfinished writes; stacker-fuse empties DIR/work",
    ),
    ("squash_to_root", "expose all files as owned by root"),
    ("squash_to_uid=UID", "expose all files as owned by the user UID"),
    ("squash_to_gid=GID", "expose all files as owned by the group GID"),
    ("uidmapping=DISK:MOUNT:COUNT[:…]", "map user IDs on disk to user IDs in the mount"),
    ("gidmapping=DISK:MOUNT:COUNT[:…]", "map group IDs on disk to group IDs in the mount"),
    (
        "userxattr",
        "write opaque marks as user.overlay.* xattrs (default without access to trusted.*)",
    ),
    ("noacl", "do not support POSIX ACLs; the mode alone decides about access"),
    ("volatile, fsync=0", "do not flush writes to disk"),
    ("ro, rw", "mount read-only or read-write (default: rw with upperdir, else ro)"),
    ("nosuid, nodev, noexec", "as in mount(8); without root, nosuid and nodev are always set"),
    ("noatime, nodiratime, sync, dirsync", "as in mount(8)"),
    (
        "allow_other",
        "let other users access the mount (default for root); see user_allow_other in fuse(8)",
    ),
    ("allow_root", "as root, deny other users access to the mount"),
    ("fsname=NAME", "the source in /proc/self/mountinfo, instead of SOURCE"),
)
IGNORED: Final = """\
stacker-fuse accepts options that request its fixed behaviour: default_permissions, static_nlink,
redirect_dir=off and metacopy=off.  Cache settings such as timeout have no effect.
stacker-fuse prints a warning for unknown and unsupported options (xattr_permissions, context,
plugins), and ignores them.
"""
EXAMPLES: Final = """\
  stacker-fuse -o lowerdir=/upper:/lower /mnt         mount two directories read-only
  stacker-fuse -o lowerdir=/l,upperdir=/u,workdir=/w /mnt
  umount /mnt                                         or fusermount3 -u /mnt

  mount -t fuse.stacker-fuse overlay /mnt -o lowerdir=/upper:/lower
  podman --storage-opt overlay.mount_program=/usr/local/bin/stacker-fuse run …
"""
_COMMA: Final = re.compile(r'((?:[a-z]*context=")[^"]*"|(?:\\.|[^\\,])+|\\$)', re.DOTALL)
_COLON: Final = re.compile(r"((?:\\.|[^\\:])+|\\$)", re.DOTALL)
_NO_ID: Final = (1 << 32) - 1
_MOUNT_OPTIONS: Final = {"nosuid", "nodev", "noexec", "noatime", "nodiratime", "sync", "dirsync"}
_OPPOSITE: Final = {
    "suid": "nosuid",
    "dev": "nodev",
    "exec": "noexec",
    "atime": "noatime",
    "diratime": "nodiratime",
    "async": "sync",
}
_ALWAYS_TRUE: Final = {
    # The kernel checks permissions, and directories have one link.
    *("default_permissions", "static_nlink", "redirect_dir=off", "metacopy=off"),
    *("redirect_dir=nofollow", "index=off", "nfs_export=off", "xino=off", "relatime", "fsync=1"),
    *("xattr_permissions=0", "lazytime", "fast_ino", "fast_ino=1"),
    # Only mount(8) uses these (fstab(5)).
    *("defaults", "auto", "noauto", "user", "nouser", "users", "nousers", "owner", "noowner"),
    *("group", "nogroup", "nofail", "_netdev"),
}
_TUNING: Final = {"timeout", "writeback", "max_write", "max_read", "max_background", "clone_fd"}
"""Cache settings of other programs; no cache of this program becomes stale."""


@dataclass(slots=True)
class Arguments:
    """The parsed command line; paths as the caller gave them."""

    source: str = "stacker-fuse"
    target: str = ""
    lowers: list[str] = field(default_factory=list)
    upper: str = ""
    work: str = ""
    read_only: bool = False
    options: set[str] = field(default_factory=set)
    allow_other: bool | None = None
    volatile: bool = False
    userxattr: bool = False
    acls: bool = True
    squashed_user: int | None = None
    squashed_group: int | None = None
    users: tuple[IdRange, ...] = ()
    groups: tuple[IdRange, ...] = ()
    foreground: bool = False
    debug: bool = False
    show: str = ""
    """`help` or `version`, to print it and make no mount."""
    unknown: list[str] = field(default_factory=list)


def parse(words: Sequence[str]) -> Arguments:
    """Parse a command line.

    :param words: the words after the program's name.
    :raises UsageError: the command line is malformed.
    """
    arguments, names = Arguments(), list[str]()
    for word, options in _split(words):
        if options is not None:
            for option in _COMMA.findall(options):
                _take(arguments, option)
        elif word in _SWITCHES:
            _SWITCHES[word](arguments)
        elif word.startswith("-") and word != "-":
            arguments.unknown.append(word)
        else:
            names.append(word)
    if not arguments.show:
        _take_names(arguments, names)
    return arguments


def _split(words: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Yield each word, and for ``-o`` its options; prefix names after ``--`` with ``./``."""
    left = iter(words)
    for word in left:
        if word == "--":
            yield from ((each if each[:1] != "-" else f"./{each}", None) for each in left)
        elif word == "-o":
            options = next(left, None)
            if options is None:
                raise UsageError(
                    "missing value: option -o: got nothing, want OPTION[,OPTION…]", hint=_HINT
                )
            yield word, options
        elif word.startswith("-o"):
            yield "-o", word[2:]
        else:
            yield word, None


_HINT: Final = "see `stacker-fuse --help`"


def _take_names(arguments: Arguments, names: list[str]) -> None:
    if not 1 <= len(names) <= 2 or not names[-1]:
        got = " ".join(names) or "none"
        raise UsageError(f"wrong number of names: got {got}, want [SOURCE] MOUNTPOINT", hint=_HINT)
    arguments.target = names[-1]
    if len(names) == 2:
        arguments.source = names[0]
    if not arguments.lowers:
        raise UsageError("no lower directories: got no lowerdir, want -o lowerdir=DIR", hint=_HINT)
    if arguments.upper and not arguments.work:
        raise UsageError(
            "no work directory: got upperdir without workdir, want -o workdir=DIR", hint=_HINT
        )


def _take(arguments: Arguments, option: str) -> None:
    key, equals, value = option.partition("=")
    if option == "remount":
        raise UsageError(
            "cannot remount: got the option remount, want a new mount",
            hint="unmount the mount, and mount it again",
        )
    if option in _MOUNT_OPTIONS:
        arguments.options.add(option)
    elif option in _OPPOSITE:
        arguments.options.discard(_OPPOSITE[option])
    elif option in _FLAGS:
        _FLAGS[option](arguments)
    elif equals and key in _VALUES:
        try:
            _VALUES[key](arguments, value)
        except UsageError as error:
            raise UsageError(f"invalid value: option {key}: {error.message}", hint=_HINT) from None
    elif not _is_ignored(option, key):
        arguments.unknown.append(option)


def _is_ignored(option: str, key: str) -> bool:
    return option in _ALWAYS_TRUE or key in _TUNING or key[:2] in {"x-", "X-"}


def _set(name: str, value: object) -> Callable[[Arguments], None]:
    return lambda arguments: setattr(arguments, name, value)


def _debug(arguments: Arguments) -> None:
    arguments.foreground = arguments.debug = True


def _squash_to_root(arguments: Arguments) -> None:
    """Squash user and group, unless another option names one (fuse-overlayfs(1))."""
    arguments.squashed_user = arguments.squashed_user or 0
    arguments.squashed_group = arguments.squashed_group or 0


_SWITCHES: Final[dict[str, Callable[[Arguments], None]]] = {
    "-f": _set("foreground", True),  # noqa: FBT003 - a value of any type
    "-d": _debug,
    "--debug": _debug,
    "-h": _set("show", "help"),
    "--help": _set("show", "help"),
    "-V": _set("show", "version"),
    "--version": _set("show", "version"),
}
_FLAGS: Final[dict[str, Callable[[Arguments], None]]] = {
    "ro": _set("read_only", True),  # noqa: FBT003
    "rw": _set("read_only", False),  # noqa: FBT003
    "volatile": _set("volatile", True),  # noqa: FBT003
    "fsync=0": _set("volatile", True),  # noqa: FBT003
    "userxattr": _set("userxattr", True),  # noqa: FBT003
    "noacl": _set("acls", False),  # noqa: FBT003
    "allow_other": _set("allow_other", True),  # noqa: FBT003
    "allow_root": _set("allow_other", False),  # noqa: FBT003
    "squash_to_root": _squash_to_root,
    "squash_to_root=1": _squash_to_root,
    "debug": _debug,
}


def _text(name: str) -> Callable[[Arguments, str], None]:
    def take(arguments: Arguments, value: str) -> None:
        if not value:
            raise UsageError("got nothing, want a path or a name")
        setattr(arguments, name, unescaped(value))

    return take


def _id(name: str) -> Callable[[Arguments, str], None]:
    return lambda arguments, value: setattr(arguments, name, _number(value))


def _mapping(name: str) -> Callable[[Arguments, str], None]:
    return lambda arguments, value: setattr(arguments, name, ranges(value))


def _lowers(arguments: Arguments, value: str) -> None:
    arguments.lowers = [unescaped(each) for each in _COLON.findall(value)]


def _one_lower(arguments: Arguments, value: str) -> None:
    arguments.lowers.append(unescaped(value))


_VALUES: Final[dict[str, Callable[[Arguments, str], None]]] = {
    "lowerdir": _lowers,
    "lowerdir+": _one_lower,
    "upperdir": _text("upper"),
    "workdir": _text("work"),
    "fsname": _text("source"),
    "squash_to_uid": _id("squashed_user"),
    "squash_to_gid": _id("squashed_group"),
    "uidmapping": _mapping("users"),
    "gidmapping": _mapping("groups"),
}


def unescaped(text: str) -> str:
    r"""Remove each backslash that escapes a character.

    >>> unescaped(r"a\:b\\c")
    'a:b\\c'
    """
    return re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL)


def ranges(text: str) -> tuple[IdRange, ...]:
    """Parse a mapping: triples of an ID on disk, the ID in the mount, and a count.

    Empty fields are skipped, since containers/storage starts with a colon.

    :raises UsageError: the mapping is malformed.
    """
    numbers = [_number(each) for each in text.split(":") if each]
    if len(numbers) % 3:
        raise UsageError(f"got {text!r}, want DISK:MOUNT:COUNT[:…]")
    return tuple(IdRange(*numbers[at : at + 3]) for at in range(0, len(numbers), 3))


def _number(text: str) -> int:
    if not re.fullmatch("[0-9]{1,10}", text) or int(text) >= _NO_ID:
        raise UsageError(f"got the ID {text!r}, want a number below {_NO_ID}")
    return int(text)
