"""Find the numbers of a user in the /etc/passwd and /etc/group of a root filesystem.

The text of ``USER`` and a `Root` come in; a `User` goes out.  Both files are the image author's: a
malformed line is skipped, and a number out of range is an error only if it would be used.  This
module asks no name service, and must not read the host's files.

Source: image-spec config.md ("User") and conversion.md ("Config.User"); passwd(5), group(5).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from stacker.errors import NotFoundError, UsageError
from stacker.image.document import quoted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stacker.runtime.root import Root

ID_LIMIT: Final = (1 << 31) - 1
"""The largest user or group ID that runc accepts."""
_PASSWD, _GROUP = "/etc/passwd", "/etc/group"
_FORMS = "want NAME, UID, NAME:GROUP or UID:GID"
_PASSWD_FIELDS, _GROUP_FIELDS = 7, 4


@dataclass(frozen=True, slots=True)
class User:
    """The IDs of a process.

    :param additional_gids: the supplementary groups, ascending, without `gid`.
    :param home: the home directory in /etc/passwd, ``/`` without one.
    """

    uid: int = 0
    gid: int = 0
    additional_gids: tuple[int, ...] = ()
    home: str = "/"


@dataclass(frozen=True, slots=True)
class _Account:
    """One line of /etc/passwd; the IDs are text, since the file may be malformed."""

    name: str
    uid: str
    gid: str
    home: str


def find_user(text: str, root: Root) -> User:
    """Return the user that a config or a caller names; without a name, root.

    A number is an ID, and needs no line in either file.  A user with a line has its home directory,
    and its group if the text has none.  Only a user by name, without a group, has supplementary
    groups.

    :param text: empty, ``NAME``, ``UID``, ``NAME:GROUP``, ``UID:GID``, or a mixture.
    :raises UsageError: the text is malformed.
    :raises NotFoundError: the root filesystem has no user or group of that name.
    :raises IntegrityError: a file is unsafe to read, or an ID is over `ID_LIMIT`.
    """
    name, colon, group = text.partition(":")
    if ":" in group or (colon and not (name and group)):
        raise UsageError(f"malformed user: got {quoted(text)}, {_FORMS}")
    account = _account(name or "0", root)
    gid = _group_id(group, root) if group else _id(account.gid, "group")
    memberships = () if group or _is_number(name or "0") else _memberships(name, root)
    additional = tuple(sorted({_id(each, "group") for each in memberships} - {gid}))
    home = account.home if account.home.startswith("/") and "\0" not in account.home else "/"
    return User(_id(account.uid, "user"), gid, additional, home)


def _account(name: str, root: Root) -> _Account:
    """Return the line of a user; a number without a line has group 0 and no home directory."""
    uid = str(_id(name, "user")) if _is_number(name) else None
    for fields in _lines(root, _PASSWD, _PASSWD_FIELDS):
        account = _Account(fields[0], fields[2], fields[3], fields[5])
        if name == account.name if uid is None else uid == account.uid:
            return account
    if uid is None:
        raise _missing("user", name, _PASSWD)
    return _Account(name, uid, "0", "/")


def _group_id(group: str, root: Root) -> int:
    if _is_number(group):
        return _id(group, "group")
    for fields in _lines(root, _GROUP, _GROUP_FIELDS):
        if fields[0] == group:
            return _id(fields[2], "group")
    raise _missing("group", group, _GROUP)


def _memberships(name: str, root: Root) -> Iterator[str]:
    for fields in _lines(root, _GROUP, _GROUP_FIELDS):
        if name in fields[3].split(","):
            yield fields[2]


def _lines(root: Root, path: str, fields: int) -> Iterator[list[str]]:
    """Yield the fields of each line that has enough of them and is UTF-8."""
    for line in (root.read(path) or b"").split(b"\n"):
        try:
            found = line.decode().split(":")
        except UnicodeDecodeError:
            continue
        if len(found) >= fields and found[0]:
            yield found


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _id(text: str, kind: str) -> int:
    # Python refuses to convert thousands of digits, so compare lengths first.
    if _is_number(text) and len(text) <= len(str(ID_LIMIT)) and int(text) <= ID_LIMIT:
        return int(text)
    raise UsageError(
        f"{kind} ID out of range: got {quoted(text)}, want 0 to {ID_LIMIT}",
        hint="name another user with --user",
    )


def _missing(kind: str, name: str, path: str) -> NotFoundError:
    return NotFoundError(
        f"no such {kind}: the image's {path} has no {kind} {quoted(name)}",
        hint="name the user by number, as in --user 1000:1000",
    )
