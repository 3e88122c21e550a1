"""What a machine's owner says about registries: mirrors, other locations, short names.

In comes an image's name, out come the addresses it may be had from, the best first.  Which files
say so, and how a registry is talked to, is not known here.
Source: containers-registries.conf(5), version 2 of the format.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stacker.errors import IntegrityError, UnsupportedError, UsageError
from stacker.image.document import objects, optional, quoted, string_map, strings
from stacker.image.location import REGISTRY_TRANSPORT
from stacker.image.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Iterable


PULLS = {"": (True, True), "all": (True, True), "digest-only": (True, False)}
PULLS |= {"tag-only": (False, True)}
"""``pull-from-mirror``: whether a mirror is asked by digest, and by tag."""

_END = r"(?=[:/@]|$)"  # what may follow a prefix in a name


@dataclass(frozen=True, slots=True)
class Mirror:
    """A place that has what another one has, or some of it.

    :param location: what stands there in place of the prefix.
    :param pulls: a key of `PULLS`.
    """

    location: str
    insecure: bool = False
    pulls: str = "all"


@dataclass(frozen=True, slots=True)
class Namespace:
    """What is said about all names that begin with a prefix: one ``[[registry]]`` table.

    :param prefix: ``HOST[:PORT][/PATH]``, or ``*.DOMAIN[/PATH]`` for the hosts below a domain.
    :param location: what stands in its place where the image is; empty for the name as it is.
    """

    prefix: str
    location: str = ""
    insecure: bool = False
    blocked: bool = False
    mirrors: tuple[Mirror, ...] = ()

    def matches(self, name: str) -> int:
        """Return how many characters of a name the prefix stands for, 0 when it is another's."""
        host = "[^/]+" if self.prefix.startswith("*.") else ""
        found = re.match(host + re.escape(self.prefix.removeprefix("*")) + _END, name)
        return found.end() if found else 0


@dataclass(frozen=True, slots=True)
class RegistryAddress:
    """Where an image is to be had: its name there, and whether anybody has to vouch for it."""

    reference: Reference
    insecure: bool = False


@dataclass(frozen=True, slots=True)
class RegistriesConf:
    """Everything that is said.

    :param aliases: short names and what they stand for.
    :param search: registries to look for other short names in.
    """

    namespaces: tuple[Namespace, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict, hash=False)
    search: tuple[str, ...] = ()

    def expand_short_name(self, text: str) -> str:
        """Return a name with its registry: the text itself, unless it is a short name.

        Where several registries are to be searched nobody is asked: whoever owns the name in
        one of them would decide what is pulled.

        :raises UsageError: several registries may be meant.
        """
        name, _, _ = text.partition("@")
        host, slash, _ = name.partition("/")
        if slash and (any(mark in host for mark in ".:") or host == "localhost"):
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
        """Return where an image really is, which no mirror is: where one pushes to.

        :raises UsageError: it is blocked, or a location cannot be part of a name.
        """
        return self.addresses(reference)[-1]

    def addresses(self, reference: Reference) -> tuple[RegistryAddress, ...]:
        """Return where an image may be had, its mirrors before its own location.

        :raises UsageError: it is blocked, or a location cannot be part of a name.
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
            raise UsageError(f"blocked: {reference}: registries.conf blocks {quoted(found.prefix)}")
        rest = name[found.matches(name) :]
        kind = 0 if reference.digest else 1
        mirrors = [mirror for mirror in found.mirrors if PULLS[mirror.pulls][kind]]
        own = _located(found.location + rest) if found.location else reference
        return (
            *(RegistryAddress(_located(m.location + rest), m.insecure) for m in mirrors),
            RegistryAddress(own, found.insecure),
        )


def _located(name: str) -> Reference:
    try:
        return Reference.parse(name)
    except UsageError as error:
        raise UsageError(f"{error.message}, after a location in registries.conf") from None


# FOLDED from stacker.registry.registries_conf
# """registries.conf files to one value: TOML, merged as podman and skopeo merge it.
#
# In come the contents of files, out comes a `RegistriesConf`.  Where they are is unknown here.
# Source: containers-registries.conf(5) and containers-registries.conf.d(5).
# """

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
