"""What a machine's owner says about registries: mirrors, other locations, short names.

In comes an image's name, out come the places it may be had from, the best first.  Which files
say so, and how a registry is talked to, is not known here.
Source: containers-registries.conf(5), version 2 of the format.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from stacker.errors import UsageError
from stacker.image.reference import Reference
from stacker.image.wording import quoted

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
class Place:
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

    def qualified(self, text: str) -> str:
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
            places = ", ".join(f"docker://{registry}/{text}" for registry in self.search)
            raise UsageError(
                f"ambiguous short name: {quoted(text)}: got {len(self.search)} registries to "
                "search, want one",
                hint=f"write one of {places}",
            )
        return f"{self.search[0]}/{text}" if self.search and path else text

    def home(self, reference: Reference) -> Place:
        """Return where an image really is, which no mirror is: where one pushes to.

        :raises UsageError: it is blocked, or a location cannot be part of a name.
        """
        return self.places(reference)[-1]

    def places(self, reference: Reference) -> tuple[Place, ...]:
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
            return (Place(reference),)
        if found.blocked:
            raise UsageError(f"blocked: {reference}: registries.conf blocks {quoted(found.prefix)}")
        rest = name[found.matches(name) :]
        kind = 0 if reference.digest else 1
        mirrors = [mirror for mirror in found.mirrors if PULLS[mirror.pulls][kind]]
        own = _located(found.location + rest) if found.location else reference
        return (
            *(Place(_located(m.location + rest), m.insecure) for m in mirrors),
            Place(own, found.insecure),
        )


def _located(name: str) -> Reference:
    try:
        return Reference.parse(name)
    except UsageError as error:
        raise UsageError(f"{error.message}, after a location in registries.conf") from None
