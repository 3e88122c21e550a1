r"""What `stacker-fuse` is asked for, in the words of mount(8), podman and fuse-overlayfs's users.

In come words, out goes a `Wanted`; no file is looked at.  Options are split at commas, and lower
directories at colons, unless a backslash stands before, as overlayfs does it (overlayfs.rst,
*Multiple lower layers*).  What is not known is named, not refused: so does fuse-overlayfs.
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
Shows directories as one tree, in the way of the kernel's overlayfs and with its options, through
/dev/fuse: a mount program for podman and others that use containers/storage, and a helper of
mount(8).  It takes what fuse-overlayfs takes.

The directories are plain ones.  Deletions in them are understood in every form in use: character
devices 0:0 and files with overlayfs's xattr as whiteouts, `.wh.NAME` and `.wh..wh..opq`, and the
opaque marks trusted.overlay.opaque, user.overlay.opaque and user.fuseoverlayfs.opaque.  None of
these shows, and no file can be called `.wh.…`.  Writes are kept as the kernel's overlay keeps them.

It goes to the background when the mount answers.  Umount ends it, and SIGTERM takes the mount away.
As root it mounts by mount(2), otherwise by fusermount3.
"""
SWITCHES: Final = (
    ("-f", "stay in the foreground"),
    ("-d, --debug", "the same, and say on stderr what is mounted"),
    ("-h, --help", "show this text"),
    ("-V, --version", "show the version"),
)
OPTIONS: Final = (
    (
        "lowerdir=DIR[:DIR…]",
        "the directories, topmost first; `\\:`, `\\,` and `\\\\` stand in a name",
    ),
    ("upperdir=DIR", "takes the writes; without one the mount is read-only"),
    ("workdir=DIR", "goes with upperdir, on the same filesystem; what is in it goes"),
    ("squash_to_root", "everything shows as root's"),
    ("squash_to_uid=ID", "everything shows as this user's"),
    ("squash_to_gid=ID", "everything shows as this group's"),
    ("uidmapping=KEPT:SHOWN:COUNT[:…]", "users on disk that show as others"),
    ("gidmapping=KEPT:SHOWN:COUNT[:…]", "the same of groups"),
    ("userxattr", "write marks as user.overlay.*; always so for who may not write trusted.*"),
    ("volatile, fsync=0", "nothing waits for the disk"),
    ("ro, rw", "read-only, or with writes if there is an upperdir"),
    ("nosuid, nodev, noexec", "as in mount(8); a user's mounts are nosuid,nodev always"),
    ("noatime, nodiratime, sync, dirsync", "as in mount(8)"),
    ("allow_other", "others may use it: always so for root's mounts; fusermount3 may refuse it"),
    ("allow_root", "as root: nobody else may use it"),
    ("fsname=NAME", "SOURCE, in another way"),
)
IGNORED: Final = """\
What is true anyway is accepted without a word: default_permissions, static_nlink, noacl,
redirect_dir=off, metacopy=off, timeout and other settings of caches.  What is not known, or cannot
be had (xattr_permissions, context, plugins), is named in one warning and ignored.
"""
EXAMPLES: Final = """\
  stacker-fuse -o lowerdir=/upper:/lower /mnt         show two directories, read-only
  stacker-fuse -o lowerdir=/l,upperdir=/u,workdir=/w /mnt
  umount /mnt                                         or fusermount3 -u /mnt

  mount -t fuse.stacker-fuse overlay /mnt -o lowerdir=/upper:/lower
  podman --storage-opt overlay.mount_program=/usr/local/bin/stacker-fuse run …
"""
_COMMA: Final = re.compile(r'((?:[a-z]*context=")[^"]*"|(?:\\.|[^\\,])+|\\$)', re.DOTALL)
_COLON: Final = re.compile(r"((?:\\.|[^\\:])+|\\$)", re.DOTALL)
_NO_ID: Final = (1 << 32) - 1
_MOUNT: Final = {"nosuid", "nodev", "noexec", "noatime", "nodiratime", "sync", "dirsync"}
_OPPOSITE: Final = {
    "suid": "nosuid",
    "dev": "nodev",
    "exec": "noexec",
    "atime": "noatime",
    "diratime": "nodiratime",
    "async": "sync",
}
_NOTHING_TO_DO: Final = {
    # True anyway: the kernel checks permissions, directories have one link, ACLs are not kept.
    *("default_permissions", "static_nlink", "noacl", "redirect_dir=off", "metacopy=off"),
    *("redirect_dir=nofollow", "index=off", "nfs_export=off", "xino=off", "relatime", "fsync=1"),
    *("xattr_permissions=0", "lazytime", "fast_ino", "fast_ino=1"),
    # What concerns nobody but mount(8) (fstab(5)).
    *("defaults", "auto", "noauto", "user", "nouser", "users", "nousers", "owner", "noowner"),
    *("group", "nogroup", "nofail", "_netdev"),
}
_TUNING: Final = {"timeout", "writeback", "max_write", "max_read", "max_background", "clone_fd"}
"""What says how another program keeps things in memory; nothing here gets stale."""


@dataclass(slots=True)
class Wanted:
    """What is asked for; paths as they were given."""

    source: str = "stacker-fuse"
    target: str = ""
    lowers: list[str] = field(default_factory=list)
    upper: str = ""
    work: str = ""
    read_only: bool = False
    options: set[str] = field(default_factory=set)
    to_all: bool | None = None
    volatile: bool = False
    user_xattrs: bool = False
    squashed_user: int | None = None
    squashed_group: int | None = None
    users: tuple[IdRange, ...] = ()
    groups: tuple[IdRange, ...] = ()
    foreground: bool = False
    debug: bool = False
    show: str = ""
    """`help` or `version`, in place of everything else."""
    unknown: list[str] = field(default_factory=list)


def parse(words: Sequence[str]) -> Wanted:
    """Read a command line.

    :param words: without the program's own.
    :raises UsageError: they make no sense.
    """
    wanted, names = Wanted(), list[str]()
    for word, options in _split(words):
        if options is not None:
            for option in _COMMA.findall(options):
                _take(wanted, option)
        elif word in _SWITCHES:
            _SWITCHES[word](wanted)
        elif word.startswith("-") and word != "-":
            wanted.unknown.append(word)
        else:
            names.append(word)
    if not wanted.show:
        _take_names(wanted, names)
    return wanted


def _split(words: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Give words, and those of ``-o``; after ``--`` all are names, marked by a leading ``./``."""
    left = iter(words)
    for word in left:
        if word == "--":
            yield from ((each if each[:1] != "-" else f"./{each}", None) for each in left)
        elif word == "-o":
            options = next(left, None)
            if options is None:
                raise UsageError("option without a value: -o", hint=_HINT)
            yield word, options
        elif word.startswith("-o"):
            yield "-o", word[2:]
        else:
            yield word, None


_HINT: Final = "`stacker-fuse --help` shows what it takes"


def _take_names(wanted: Wanted, names: list[str]) -> None:
    if not 1 <= len(names) <= 2 or not names[-1]:
        got = " ".join(names) or "none"
        raise UsageError(f"wrong number of names: got {got}, want [SOURCE] MOUNTPOINT", hint=_HINT)
    wanted.target = names[-1]
    if len(names) == 2:
        wanted.source = names[0]
    if not wanted.lowers:
        raise UsageError("no directories to show: want -o lowerdir=DIR", hint=_HINT)
    if wanted.upper and not wanted.work:
        raise UsageError("upperdir without a work directory: want -o workdir=DIR", hint=_HINT)


def _take(wanted: Wanted, option: str) -> None:
    key, equals, value = option.partition("=")
    if option == "remount":
        raise UsageError("cannot change a mount that is there: unmount it, and mount it anew")
    if option in _MOUNT:
        wanted.options.add(option)
    elif option in _OPPOSITE:
        wanted.options.discard(_OPPOSITE[option])
    elif option in _FLAGS:
        _FLAGS[option](wanted)
    elif equals and key in _VALUES:
        _VALUES[key](wanted, value)
    elif not _is_idle(option, key):
        wanted.unknown.append(option)


def _is_idle(option: str, key: str) -> bool:
    return option in _NOTHING_TO_DO or key in _TUNING or key[:2] in {"x-", "X-"}


def _set(name: str, value: object) -> Callable[[Wanted], None]:
    return lambda wanted: setattr(wanted, name, value)


def _debug(wanted: Wanted) -> None:
    wanted.foreground = wanted.debug = True


def _squash_to_root(wanted: Wanted) -> None:
    """Both of them, unless another one is named (fuse-overlayfs.1)."""
    wanted.squashed_user = wanted.squashed_user or 0
    wanted.squashed_group = wanted.squashed_group or 0


_SWITCHES: Final[dict[str, Callable[[Wanted], None]]] = {
    "-f": _set("foreground", True),  # noqa: FBT003 - whatever the value's type
    "-d": _debug,
    "--debug": _debug,
    "-h": _set("show", "help"),
    "--help": _set("show", "help"),
    "-V": _set("show", "version"),
    "--version": _set("show", "version"),
}
_FLAGS: Final[dict[str, Callable[[Wanted], None]]] = {
    "ro": _set("read_only", True),  # noqa: FBT003
    "rw": _set("read_only", False),  # noqa: FBT003
    "volatile": _set("volatile", True),  # noqa: FBT003
    "fsync=0": _set("volatile", True),  # noqa: FBT003
    "userxattr": _set("user_xattrs", True),  # noqa: FBT003
    "allow_other": _set("to_all", True),  # noqa: FBT003
    "allow_root": _set("to_all", False),  # noqa: FBT003
    "squash_to_root": _squash_to_root,
    "squash_to_root=1": _squash_to_root,
    "debug": _debug,
}


def _text(name: str) -> Callable[[Wanted, str], None]:
    def take(wanted: Wanted, value: str) -> None:
        if not value:
            raise UsageError("option without a value: want a name", hint=_HINT)
        setattr(wanted, name, unescaped(value))

    return take


def _id(name: str) -> Callable[[Wanted, str], None]:
    return lambda wanted, value: setattr(wanted, name, _number(value, value))


def _mapping(name: str) -> Callable[[Wanted, str], None]:
    return lambda wanted, value: setattr(wanted, name, ranges(value))


def _lowers(wanted: Wanted, value: str) -> None:
    wanted.lowers = [unescaped(each) for each in _COLON.findall(value)]


def _one_lower(wanted: Wanted, value: str) -> None:
    wanted.lowers.append(unescaped(value))


_VALUES: Final[dict[str, Callable[[Wanted, str], None]]] = {
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
    r"""Take backslashes away that stand before something.

    >>> unescaped(r"a\:b\\c")
    'a:b\\c'
    """
    return re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL)


def ranges(text: str) -> tuple[IdRange, ...]:
    """Read a mapping: triples of an id on disk, the one that shows for it, and how many.

    Colons too many mean nothing: containers/storage begins with one.

    :raises UsageError: it is none.
    """
    numbers = [_number(each, text) for each in text.split(":") if each]
    if len(numbers) % 3:
        raise UsageError(f"malformed mapping: {text}: want KEPT:SHOWN:COUNT, any number of times")
    return tuple(IdRange(*numbers[at : at + 3]) for at in range(0, len(numbers), 3))


def _number(text: str, whole: str) -> int:
    if not re.fullmatch("[0-9]{1,10}", text) or int(text) >= _NO_ID:
        raise UsageError(f"malformed id: got {text!r} in {whole}, want a number below {_NO_ID}")
    return int(text)
