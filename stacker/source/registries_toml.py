"""registries.conf files to one value: TOML, merged as podman and skopeo merge it.

In come the contents of files, out comes a `RegistriesConf`.  Where the files are is not known here.
Source: containers-registries.conf(5) and containers-registries.conf.d(5).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stacker.errors import IntegrityError, UnsupportedError, UsageError
from stacker.image.document import objects, optional, string_map, strings
from stacker.image.wording import quoted
from stacker.source.registries_conf import PULLS, Mirror, Namespace, RegistriesConf

if TYPE_CHECKING:
    from collections.abc import Iterable

_MODES = ("enforcing", "permissive", "disabled", "")


def parse_registries_conf(files: Iterable[tuple[str, bytes]]) -> RegistriesConf:
    """Return what files say together; of two that speak about the same, the later one counts.

    :param files: name and content of each.
    :raises UsageError: one is malformed.
    :raises UnsupportedError: one is in version 1 of the format.
    """
    namespaces: dict[str, Namespace] = {}
    aliases: dict[str, str] = {}
    search: tuple[str, ...] = ()
    for name, content in files:
        members = _parsed(name, content)
        try:
            namespaces |= _namespaces(members, name)
            aliases |= string_map(members, "aliases", name)
            if "unqualified-search-registries" in members:
                search = strings(members, "unqualified-search-registries", name)
            _check_mode(members, name)
        except IntegrityError as error:
            raise UsageError(error.message) from None
    # An empty value takes an alias away.
    aliases = {short: meant for short, meant in aliases.items() if meant}
    return RegistriesConf(tuple(namespaces.values()), aliases, search)


def _parsed(name: str, content: bytes) -> dict[str, object]:
    import tomllib  # only where there is such a file

    try:
        members: dict[str, object] = tomllib.loads(content.decode())
    except ValueError as error:
        raise UsageError(f"malformed TOML: {name}: {error}") from None
    if "registries" in members:
        raise UnsupportedError(
            f"{name}: [registries]: got version 1 of the format, want version 2",
            hint="containers-registries.conf(5) says how [[registry]] is written; "
            "--registries-conf names another file",
        )
    return members


def _check_mode(members: dict[str, object], name: str) -> None:
    mode = optional(members, "short-name-mode", str, name) or ""
    if mode not in _MODES:
        raise UsageError(f"{name}: short-name-mode: got {quoted(mode)}, want one of {_MODES[:-1]}")


def _namespaces(members: dict[str, object], name: str) -> dict[str, Namespace]:
    found: dict[str, Namespace] = {}
    for number, table in enumerate(objects(members, "registry", name)):
        where = f"{name}: registry[{number}]"
        space = _namespace(table, where)
        if found.setdefault(space.prefix, space) != space:
            raise UsageError(f"{where}: prefix {quoted(space.prefix)}: got it twice, want it once")
    return found


def _namespace(table: dict[str, object], where: str) -> Namespace:
    location = _location(table, "location", where)
    prefix = _location(table, "prefix", where) or location
    if not prefix:
        raise UsageError(f"{where}: got neither prefix nor location, want one of them")
    if "*" in prefix and (not prefix.startswith("*.") or "*" in prefix[1:]):
        raise UsageError(f"{where}: prefix: got {quoted(prefix)}, want '*.' at its start only")
    if "*" in location or not (location or prefix.startswith("*.")):
        raise UsageError(f"{where}: location: got {quoted(location)}, want a registry")
    by_digest = optional(table, "mirror-by-digest-only", bool, where) or False
    return Namespace(
        prefix,
        location,
        optional(table, "insecure", bool, where) or False,
        optional(table, "blocked", bool, where) or False,
        tuple(
            _mirror(mirror, f"{where}: mirror[{number}]", by_digest=by_digest)
            for number, mirror in enumerate(objects(table, "mirror", where))
        ),
    )


def _mirror(table: dict[str, object], where: str, *, by_digest: bool) -> Mirror:
    location = _location(table, "location", where)
    if not location:
        raise UsageError(f"{where}: location: got nothing, want a registry")
    pulls = optional(table, "pull-from-mirror", str, where) or ""
    if pulls not in PULLS:
        known = [word for word in PULLS if word]
        raise UsageError(f"{where}: pull-from-mirror: got {quoted(pulls)}, want one of {known}")
    if by_digest and pulls:
        raise UsageError(f"{where}: got pull-from-mirror and mirror-by-digest-only, want one")
    insecure = optional(table, "insecure", bool, where) or False
    return Mirror(location, insecure, "digest-only" if by_digest else pulls or "all")


def _location(table: dict[str, object], name: str, where: str) -> str:
    text = (optional(table, name, str, where) or "").rstrip("/")
    if "://" in text:
        raise UsageError(f"{where}: {name}: got {quoted(text)}, want no scheme")
    return text
