"""Platforms of users, machines and images, and the choice from an index."""

from __future__ import annotations

import pytest

from stacker.errors import NotFoundError, UsageError
from stacker.image import mediatype
from stacker.image.descriptor import Descriptor
from stacker.image.digest import Digest
from stacker.image.platform import Platform
from stacker.image.selection import choose_platform


def entry(platform: str | None, media_type: str = mediatype.OCI_MANIFEST) -> Descriptor:
    """Return an index entry; the platform has no aliases."""
    if platform is None:
        return Descriptor(media_type, Digest.of(b"none"), 4)
    words = platform.split("/")
    return Descriptor(media_type, Digest.of(platform.encode()), 4, Platform(*words))


@pytest.mark.parametrize(
    ("text", "platform"),
    [
        ("linux/amd64", Platform("linux", "amd64")),
        ("arm64", Platform("linux", "arm64")),
        ("x86_64", Platform("linux", "amd64")),
        ("linux/x86_64", Platform("linux", "amd64")),
        ("Linux/X86-64", Platform("linux", "amd64")),
        ("linux/amd64/v3", Platform("linux", "amd64", "v3")),
        ("linux/aarch64", Platform("linux", "arm64")),
        ("linux/arm64/v8", Platform("linux", "arm64", "v8")),
        ("linux/arm64/8", Platform("linux", "arm64", "v8")),
        ("linux/armhf", Platform("linux", "arm", "v7")),
        ("linux/armel", Platform("linux", "arm", "v6")),
        ("linux/arm/v5", Platform("linux", "arm", "v5")),
        ("linux/i386", Platform("linux", "386")),
        ("linux/riscv64", Platform("linux", "riscv64")),
        ("windows/amd64", Platform("windows", "amd64")),
        ("windows/amd64:10.0.17763", Platform("windows", "amd64", "", "10.0.17763")),
        ("windows/arm64/v8:10.0.1", Platform("windows", "arm64", "v8", "10.0.1")),
    ],
)
def test_a_platform_is_read_with_the_usual_aliases(text: str, platform: Platform) -> None:
    assert Platform.parse(text) == platform


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "linux",
        "Windows",
        ":10.0",
        "linux/",
        "/amd64",
        "linux//v8",
        "a/b/c/d",
        "linux/am d64",
        "l\n/a",
        "linux/ämd64",
        "linux/arm/",
        "windows/amd64:",
        "windows/amd64:10 0",
        "windows/amd64:1:2",
        "windows/amd64:1/v2",
        "../../x",
    ],
)
def test_malformed_platform_is_a_usage_error_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match=r"want \[OS/\]ARCH") as caught:
        Platform.parse(text)
    assert "linux/amd64" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("machine", "platform"),
    [
        ("x86_64", "linux/amd64"),
        ("aarch64", "linux/arm64"),
        ("armv7l", "linux/arm/v7"),
        ("armv6l", "linux/arm/v6"),
        ("i686", "linux/386"),
        ("ppc64le", "linux/ppc64le"),
        ("s390x", "linux/s390x"),
        ("riscv64", "linux/riscv64"),
        ("loongarch64", "linux/loong64"),
    ],
)
def test_a_machine_is_a_linux_platform(machine: str, platform: str) -> None:
    assert str(Platform.host(machine)) == platform


@pytest.mark.parametrize(
    ("wanted", "there", "taken"),
    [
        ("linux/amd64", ["linux/arm64", "linux/amd64"], "linux/amd64"),
        ("linux/amd64", ["windows/amd64", "linux/amd64"], "linux/amd64"),
        # arm: its own variant, then lower ones, no variant last
        ("linux/arm/v7", ["linux/arm/v5", "linux/arm/v6", "linux/arm/v7"], "linux/arm/v7"),
        ("linux/arm/v7", ["linux/arm/v5", "linux/arm/v6"], "linux/arm/v6"),
        ("linux/arm/v6", ["linux/arm/v7", "linux/arm/v5"], "linux/arm/v5"),
        ("linux/arm", ["linux/arm/v5", "linux/arm/v7"], "linux/arm/v7"),
        ("linux/arm/v7", ["linux/arm", "linux/arm/v5"], "linux/arm/v5"),
        ("linux/arm/v6", ["linux/arm/v7", "linux/arm"], "linux/arm"),
        ("linux/arm/v8", ["linux/arm/v6", "linux/arm/v7"], "linux/arm/v7"),
        # arm64 is arm64/v8
        ("linux/arm64", ["linux/arm64/v8"], "linux/arm64/v8"),
        ("linux/arm64/v8", ["linux/arm64"], "linux/arm64"),
        ("linux/arm64/v9", ["linux/arm64", "linux/arm64/v9"], "linux/arm64/v9"),
        ("linux/arm64/v9", ["linux/arm64/v8"], "linux/arm64/v8"),
        ("linux/arm64/v8.2", ["linux/arm64", "linux/arm64/v8.2"], "linux/arm64/v8.2"),
        ("linux/arm64/v8.2", ["linux/arm64"], "linux/arm64"),
        # amd64: its own variant, then lower ones
        ("linux/amd64/v4", ["linux/amd64", "linux/amd64/v2", "linux/amd64/v3"], "linux/amd64/v3"),
        ("linux/amd64/v2", ["linux/amd64/v3", "linux/amd64"], "linux/amd64"),
        ("linux/amd64", ["linux/amd64/v3", "linux/amd64/v1"], "linux/amd64/v1"),
        # an architecture without an order of variants
        ("linux/ppc64le/power9", ["linux/ppc64le", "linux/ppc64le/power9"], "linux/ppc64le/power9"),
        ("linux/ppc64le/power9", ["linux/ppc64le"], "linux/ppc64le"),
        # spellings of old tools
        ("linux/arm64", ["linux/x86_64", "linux/aarch64"], "linux/aarch64"),
        ("linux/arm/v7", ["linux/arm/5", "linux/arm/7"], "linux/arm/7"),
    ],
)
def test_the_best_variant_a_machine_can_run_is_taken(
    wanted: str, there: list[str], taken: str
) -> None:
    chosen = choose_platform([entry(text) for text in there], Platform.parse(wanted), "index")
    assert str(chosen.platform) == taken


@pytest.mark.parametrize(
    ("wanted", "there"),
    [
        ("linux/amd64", ["linux/amd64/v2"]),
        ("linux/arm/v6", ["linux/arm/v7"]),
        ("linux/arm64", ["linux/arm/v7"]),
        ("linux/arm64", ["linux/arm64/v9"]),
        ("linux/386", ["linux/amd64"]),
        ("linux/s390x", ["linux/s390x/z15"]),
        ("linux/amd64", ["windows/amd64"]),
        ("linux/amd64", []),
    ],
)
def test_platform_that_the_machine_cannot_run_is_not_chosen(wanted: str, there: list[str]) -> None:
    with pytest.raises(NotFoundError):
        choose_platform([entry(text) for text in there], Platform.parse(wanted), "index")


def test_first_of_equal_platforms_is_chosen() -> None:
    first, second = entry("linux/amd64"), entry("linux/amd64/v1")
    assert choose_platform([first, second], Platform("linux", "amd64"), "index") is first
    assert choose_platform([second, first], Platform("linux", "amd64"), "index") is second


def test_os_version_matters_only_if_requested() -> None:
    old = Descriptor(
        mediatype.OCI_MANIFEST, Digest.of(b"o"), 1, Platform("windows", "amd64", "", "10.0.1")
    )
    new = Descriptor(
        mediatype.OCI_MANIFEST, Digest.of(b"n"), 1, Platform("windows", "amd64", "", "10.0.2")
    )
    assert choose_platform([old, new], Platform("windows", "amd64"), "index") is old
    assert choose_platform([old, new], Platform("windows", "amd64", "", "10.0.2"), "index") is new


def test_os_version_without_revision_matches_any_revision() -> None:
    one, other = (
        Descriptor(mediatype.OCI_MANIFEST, Digest.of(v.encode()), 1, Platform("w", "a", "", v))
        for v in ("10.0.20348.2700", "10.0.2034.1")
    )
    for wanted in ("10.0.2034", "10.0.2034.1"):
        assert choose_platform([one, other], Platform("w", "a", "", wanted), "index") is other
    with pytest.raises(NotFoundError, match=r"got w/a:10.0.20348.2700, w/a.*, want w/a:10.0.1$"):
        choose_platform([one, other], Platform("w", "a", "", "10.0.1"), "index")


def test_single_entry_without_platform_is_the_last_choice() -> None:
    wanted = Platform("linux", "amd64")
    nameless, fitting = entry(None), entry("linux/amd64")
    assert choose_platform([nameless, fitting], wanted, "index") is fitting
    assert choose_platform([nameless, entry("linux/s390x")], wanted, "index") is nameless
    with pytest.raises(NotFoundError):
        choose_platform([nameless, nameless], wanted, "index")


def test_an_attestation_never_matches() -> None:
    attestation = entry("unknown/unknown")
    for wanted in (Platform("linux", "amd64"), Platform("unknown", "unknown")):
        with pytest.raises(NotFoundError, match="got none"):
            choose_platform([attestation], wanted, "index")


def test_entry_that_is_not_an_image_is_skipped() -> None:
    artifact = entry("linux/amd64", "application/vnd.example.artifact+json")
    image = entry("linux/amd64")
    assert choose_platform([artifact, image], Platform("linux", "amd64"), "index") is image
    nested = entry("linux/amd64", mediatype.OCI_INDEX)
    assert choose_platform([artifact, nested], Platform("linux", "amd64"), "index") is nested


def test_message_lists_each_platform_once_and_the_wanted_one() -> None:
    there = [entry("linux/amd64"), entry("linux/arm/v7"), entry("linux/amd64"), entry("\x1b[2J/x")]
    with pytest.raises(NotFoundError) as caught:
        choose_platform(there, Platform.parse("linux/s390x"), "index sha256:1234")
    assert caught.value.message == (
        "no matching platform: index sha256:1234: "
        "got linux/amd64, linux/arm/v7, \\x1b[2J/x, want linux/s390x"
    )
    assert caught.value.hint == "choose one of these platforms with --platform"
