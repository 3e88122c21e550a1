"""registries.conf: mirrors, other locations, blocked registries and short names.

The contents of TOML files come in; a `RegistriesConf` goes out, merged as podman and skopeo merge
them.  It turns an image's name into registry addresses.  The caller finds and reads the files.
Source: containers-registries.conf(5), version 2 of the format; containers-registries.conf.d(5).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stacker.errors import IntegrityError, UnsupportedError, UsageError
from stacker.image.document import objects, optional, quoted, string_map, strings
from stacker.image.location import REGISTRY_TRANSPORT
from stacker.image.reference import Reference, has_host

if TYPE_CHECKING:
    from collections.abc import Iterable


PULLS = {"": (True, True), "all": (True, True), "digest-only": (True, False)}
PULLS |= {"tag-only": (False, True)}
"""``pull-from-mirror`` → whether the mirror serves digests, and whether it serves tags."""

_MODES = ("enforcing", "permissive", "disabled", "")
_END = r"(?=[:/@]|$)"  # a prefix ends here, or continues with one of these


@dataclass(frozen=True, slots=True)
class Mirror:
    """A mirror of a namespace.

    :param location: replaces the namespace's prefix.
    :param pulls: a key of `PULLS`.
    """

    location: str
    insecure: bool = False
    pulls: str = "all"


@dataclass(frozen=True, slots=True)
class Namespace:
    """One ``[[registry]]`` table: settings for all names with a prefix.

    :param prefix: ``HOST[:PORT][/PATH]``, or ``*.DOMAIN[/PATH]`` for the hosts below a domain.
    :param location: replaces the prefix; empty to use the name as it is.
    """

    prefix: str
    location: str = ""
    insecure: bool = False
    blocked: bool = False
    mirrors: tuple[Mirror, ...] = ()

    def matches(self, name: str) -> int:
        """Return how many characters of a name the prefix matches, 0 for none."""
        host = "[^/]+" if self.prefix.startswith("*.") else ""
        found = re.match(host + re.escape(self.prefix.removeprefix("*")) + _END, name)
        return found.end() if found else 0


@dataclass(frozen=True, slots=True)
class RegistryAddress:
    """An image's name in a registry.

    :param insecure: accept plain HTTP and certificates of unknown CAs.
    """

    reference: Reference
    insecure: bool = False


@dataclass(frozen=True, slots=True)
class RegistriesConf:
    """The settings of all files.

    :param aliases: short name → full name.
    :param search: registries in which other short names are searched.
    """

    namespaces: tuple[Namespace, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict, hash=False)
    search: tuple[str, ...] = ()

    def expand_short_name(self, text: str) -> str:
        """Return a name with its registry: `text` itself unless it is a short name.

        A short name is not searched in several registries: the owner of the name in any of them
        would decide which image is pulled.

        :raises UsageError: there are several registries to search.
        """
        name, _, _ = text.partition("@")
        if has_host(name):
            return text
        path, _, _ = name.partition(":")
        if path in self.aliases:
            return self.aliases[path] + text[len(path) :]
        if len(self.search) > 1:
            addresses = ", ".join(
                f"{REGISTRY_TRANSPORT}{registry}/{text}" for registry in self.search
            )
            raise UsageError(
                f"ambiguous short name: {quoted(text)}: got {len(self.search)} registries to "
                "search, want one",
                hint=f"write one of {addresses}",
            )
        return f"{self.search[0]}/{text}" if self.search and path else text

    def primary(self, reference: Reference) -> RegistryAddress:
        """Return the address of an image without its mirrors; pushes go there.

        :raises UsageError: the registry is blocked, or a location is malformed.
        """
        return self.addresses(reference)[-1]

    def addresses(self, reference: Reference) -> tuple[RegistryAddress, ...]:
        """Return the addresses of an image, mirrors first.

        :raises UsageError: the registry is blocked, or a location is malformed.
        """
        name = str(reference)
        found = max(
            (space for space in self.namespaces if space.matches(name)),
            key=lambda space: len(space.prefix),
            default=None,
        )
        if found is None:
            return (RegistryAddress(reference),)
        if found.blocked:
            raise UsageError(
                f"registry blocked: {reference}: registries.conf blocks {quoted(found.prefix)}",
                hint="remove `blocked`, or name another file with --registries-conf",
            )
        rest = name[found.matches(name) :]
        kind = 0 if reference.digest else 1
        mirrors = [mirror for mirror in found.mirrors if PULLS[mirror.pulls][kind]]
        own = _located(found.location + rest) if found.location else reference
        return (
            *(RegistryAddress(_located(m.location + rest), m.insecure) for m in mirrors),
            RegistryAddress(own, found.insecure),
        )


def _located(name: str) -> Reference:
    """Return a name that begins with a location; no registry is completed."""
    where = "(in a location of registries.conf)"
    if not has_host(name):
        raise UsageError(f"malformed reference: {quoted(name)}: got no host, want one {where}")
    try:
        return Reference.parse(name)
    except UsageError as error:
        raise UsageError(f"{error.message} {where}") from None


def parse_registries_conf(files: Iterable[tuple[str, bytes]]) -> RegistriesConf:
    """Return the merged settings of all files; a later file overrides an earlier one.

    :param files: name and content of each file.
    :raises UsageError: a file is malformed.
    :raises UnsupportedError: a file has version 1 of the format.
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
    # An empty value removes an alias of an earlier file.
    aliases = {short: full for short, full in aliases.items() if full}
    return RegistriesConf(tuple(namespaces.values()), aliases, search)


def _parsed(name: str, content: bytes) -> dict[str, object]:
    import tomllib  # most machines have no such file

    try:
        members: dict[str, object] = tomllib.loads(content.decode())
    except ValueError as error:
        raise UsageError(f"malformed TOML: {name}: {error}") from None
    if "registries" in members:
        raise UnsupportedError(
            f"{name}: [registries]: got version 1 of the format, want version 2",
            hint="rewrite it with [[registry]] tables, see containers-registries.conf(5), or name "
            "another file with --registries-conf",
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
            raise UsageError(
                f"{where}: prefix {quoted(space.prefix)}: got two different tables, want one"
            )
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
