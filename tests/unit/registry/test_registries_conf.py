"""Mirrors, locations and short names of containers-registries.conf(5)."""

from __future__ import annotations

import pytest

from stacker.errors import StackerError, UnsupportedError, UsageError
from stacker.image.digest import Digest
from stacker.image.reference import Reference
from stacker.registry.registries_conf import RegistriesConf, parse_registries_conf

DIGEST = Digest.of(b"")


def parsed(*texts: str) -> RegistriesConf:
    return parse_registries_conf((f"file{n}", text.encode()) for n, text in enumerate(texts))


def addresses(text: str, name: str) -> list[str]:
    """Return the addresses of `name`; ``!`` marks an insecure one."""
    found = parsed(text).addresses(Reference.parse(name))
    return [f"{'!' if place.insecure else ''}{place.reference}" for place in found]


def refused(kind: type[StackerError], *texts: str) -> StackerError:
    with pytest.raises(kind) as caught:
        parsed(*texts)
    assert type(caught.value) is kind
    assert caught.value.message.isprintable()
    return caught.value


def test_name_without_configuration_is_its_own_address() -> None:
    assert addresses("", "registry.example/app:1.0") == ["registry.example/app:1.0"]


def test_location_replaces_the_prefix() -> None:
    conf = '[[registry]]\nprefix = "a.example/foo/"\nlocation = "b.example:5000/bar"'
    assert addresses(conf, "a.example/foo/app:1.0") == ["b.example:5000/bar/app:1.0"]
    assert addresses(conf, "a.example/foo:1.0") == ["b.example:5000/bar:1.0"]
    assert addresses(conf, f"a.example/foo@{DIGEST}") == [f"b.example:5000/bar@{DIGEST}"]
    assert addresses(conf, "a.example/foobar:1.0") == ["a.example/foobar:1.0"]
    assert addresses(conf, "a.example/x/foo:1.0") == ["a.example/x/foo:1.0"]
    assert addresses(conf, "xa.example/foo:1.0") == ["xa.example/foo:1.0"]


def test_location_without_prefix_is_the_prefix() -> None:
    conf = '[[registry]]\nlocation = "a.example/foo"\ninsecure = true'
    assert addresses(conf, "a.example/foo:1.0") == ["!a.example/foo:1.0"]
    assert addresses(conf, "a.example/bar:1.0") == ["a.example/bar:1.0"]


def test_longest_matching_prefix_counts() -> None:
    tables = [("a.example", "x.example"), ("a.example/foo/bar", "z.example")]
    tables.insert(1, ("a.example/foo", "y.example"))
    conf = "".join(f'[[registry]]\nprefix = "{p}"\nlocation = "{q}"\n' for p, q in tables)
    assert addresses(conf, "a.example/foo/bar/app:1") == ["z.example/app:1"]
    assert addresses(conf, "a.example/foo/app:1") == ["y.example/app:1"]
    assert addresses(conf, "a.example/app:1") == ["x.example/app:1"]


@pytest.mark.parametrize(
    ("name", "there"),
    [
        ("b.a.example/app:1", "x.example/all/app:1"),
        ("c.b.a.example/team/app:1", "x.example/all/team/app:1"),
        ("a.example/app:1", "a.example/app:1"),
        ("ba.example/app:1", "ba.example/app:1"),
        ("b.a.example.org/app:1", "b.a.example.org/app:1"),
        ("other.example/b.a.example/app:1", "other.example/b.a.example/app:1"),
    ],
)
def test_wildcard_matches_subdomains(name: str, there: str) -> None:
    conf = '[[registry]]\nprefix = "*.a.example"\nlocation = "x.example/all"'
    assert addresses(conf, name) == [there]


def test_wildcard_without_location_keeps_the_name() -> None:
    conf = '[[registry]]\nprefix = "*.a.example"\ninsecure = true'
    assert addresses(conf, "b.a.example/app:1") == ["!b.a.example/app:1"]
    exact = conf + '\n[[registry]]\nlocation = "long.b.a.example"'
    assert addresses(exact, "long.b.a.example/app:1") == ["long.b.a.example/app:1"]


MIRRORS = """
[[registry]]
location = "a.example"
[[registry.mirror]]
location = "one.example/a"
insecure = true
[[registry.mirror]]
location = "two.example/a"
pull-from-mirror = "digest-only"
[[registry.mirror]]
location = "three.example/a"
pull-from-mirror = "tag-only"
"""


def test_mirrors_precede_the_registry_in_order() -> None:
    assert addresses(MIRRORS, "a.example/app:1") == [
        "!one.example/a/app:1",
        "three.example/a/app:1",
        "a.example/app:1",
    ]
    assert addresses(MIRRORS, f"a.example/app:1@{DIGEST}") == [
        f"!one.example/a/app:1@{DIGEST}",
        f"two.example/a/app:1@{DIGEST}",
        f"a.example/app:1@{DIGEST}",
    ]


def test_mirrors_may_serve_digests_only() -> None:
    conf = '[[registry]]\nlocation = "a.example"\nmirror-by-digest-only = true\n'
    conf += '[[registry.mirror]]\nlocation = "one.example"'
    assert addresses(conf, "a.example/app:1") == ["a.example/app:1"]
    assert len(addresses(conf, f"a.example/app@{DIGEST}")) == 2
    refused(UsageError, conf + '\npull-from-mirror = "all"')


def test_blocked_registry_is_refused() -> None:
    with pytest.raises(UsageError, match=r"blocked: a\.example/app:1: ") as caught:
        addresses('[[registry]]\nlocation = "a.example"\nblocked = true', "a.example/app:1")
    assert "'a.example'" in caught.value.message


def test_malformed_location_error_names_registries_conf() -> None:
    with pytest.raises(UsageError, match=r"location of registries\.conf"):
        addresses('[[registry]]\nprefix = "a.example"\nlocation = "nodots"', "a.example/app:1")


def test_later_file_overrides_earlier_ones() -> None:
    first = (
        'unqualified-search-registries = ["a.example"]\nshort-name-mode = "enforcing"\n'
        '[aliases]\napp = "a.example/app"\nother = "a.example/other"\n'
        '[[registry]]\nlocation = "a.example"\nblocked = true\n'
        '[[registry]]\nlocation = "c.example"\nblocked = true\n'
    )
    second = (
        'unqualified-search-registries = ["b.example"]\n'
        '[aliases]\napp = "b.example/app"\nother = ""\n'
        '[[registry]]\nlocation = "a.example"\n'
    )
    conf = parsed(first, second)
    assert conf.search == ("b.example",)
    assert conf.aliases == {"app": "b.example/app"}
    assert [(space.prefix, space.blocked) for space in conf.namespaces] == [
        ("a.example", False),
        ("c.example", True),
    ]
    assert parsed(first, "").search == ("a.example",)


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("app", "a.example/team/app"),
        ("app:1.0", "a.example/team/app:1.0"),
        (f"app@{DIGEST}", f"a.example/team/app@{DIGEST}"),
        ("with/slash:1", "a.example/slash:1"),
        ("registry.example/app", "registry.example/app"),
        ("localhost/app", "localhost/app"),
        ("host:5000/app", "host:5000/app"),
        ("other:1.0", "search.example/other:1.0"),
        ("team/other", "search.example/team/other"),
        ("", ""),
    ],
)
def test_short_name_is_an_alias_or_searched_in_one_registry(text: str, full: str) -> None:
    conf = parsed(
        'unqualified-search-registries = ["search.example"]\n'
        '[aliases]\napp = "a.example/team/app"\n"with/slash" = "a.example/slash"'
    )
    assert conf.expand_short_name(text) == full


def test_short_name_with_several_search_registries_is_refused() -> None:
    conf = parsed('unqualified-search-registries = ["a.example", "b.example"]')
    with pytest.raises(UsageError, match="ambiguous short name: 'app:1'") as caught:
        conf.expand_short_name("app:1")
    assert "docker://a.example/app:1, docker://b.example/app:1" in (caught.value.hint or "")
    assert parsed("").expand_short_name("app") == "app"


@pytest.mark.parametrize(
    "text",
    [
        "nonsense",
        "\udcff",
        "registry = 1",
        "[[registry]]",
        "[[registry]]\nlocation = 1",
        '[[registry]]\nprefix = "a.example"',
        '[[registry]]\nprefix = "a.*.example"\nlocation = "x.example"',
        '[[registry]]\nprefix = "*.*.example"\nlocation = "x.example"',
        '[[registry]]\nlocation = "*.example"',
        '[[registry]]\nlocation = "https://a.example"',
        '[[registry]]\nlocation = "a.example"\nblocked = "yes"',
        '[[registry]]\nlocation = "a.example"\n[[registry.mirror]]\ninsecure = true',
        '[[registry]]\nlocation="a.example"\n[[registry.mirror]]\npull-from-mirror="never"',
        '[[registry]]\nlocation="a.example"\nmirror=[{location="b.example",pull-from-mirror="x"}]',
        '[[registry]]\nlocation = "a.example"\n[[registry]]\nlocation = "a.example"\nblocked=true',
        'unqualified-search-registries = "a.example"',
        "[aliases]\napp = 1",
        'short-name-mode = "lax"',
    ],
)
def test_a_malformed_file_is_an_error_that_names_it(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_registries_conf([("the-file", text.encode(errors="surrogateescape"))])
    assert "the-file" in caught.value.message


def test_registries_conf_version_1_is_unsupported() -> None:
    error = refused(UnsupportedError, "[registries.search]\nregistries = ['a.example']")
    assert "version 1" in error.message


def test_unknown_settings_are_ignored() -> None:
    conf = parsed('credential-helpers = ["x"]\n[[registry]]\nlocation="a.example"\nnew = 1')
    assert [space.prefix for space in conf.namespaces] == ["a.example"]
