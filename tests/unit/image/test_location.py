"""What a user may write to name an image outside of the store."""

from __future__ import annotations

import pytest

from stacker.errors import UsageError
from stacker.image.location import ImageLocation, is_in_registry, parse_location, repository_of

ALL = ("oci", "oci-archive", "docker-archive", "docker")


@pytest.mark.parametrize(
    ("text", "location", "what"),
    [
        ("oci:layout", ImageLocation("oci", "layout", ""), "oci:layout"),
        ("oci:/a/b:1.0", ImageLocation("oci", "/a/b", "1.0"), "oci:/a/b"),
        ("oci-archive:a.tar:", ImageLocation("oci-archive", "a.tar", ""), "oci-archive:a.tar"),
        (
            "docker-archive:a:host:5000/app:1.0@sha256:x",
            ImageLocation("docker-archive", "a", "host:5000/app:1.0@sha256:x"),
            "docker-archive:a",
        ),
        ("docker://host/app:1", ImageLocation("docker", "", "host/app:1"), "docker:"),
        ("oci:a\x1bb", ImageLocation("oci", "a\x1bb", ""), r"oci:a\x1bb"),
    ],
)
def test_the_path_ends_at_the_first_colon(text: str, location: ImageLocation, what: str) -> None:
    assert parse_location(text, ALL) == location
    assert location.what == what


@pytest.mark.parametrize(
    "text", ["", "image.tar", "oci", "OCI:x", "dir:x", ":x", "docker:host/app"]
)
def test_unknown_transport_is_refused_with_examples(text: str) -> None:
    with pytest.raises(UsageError, match="unknown transport: ") as caught:
        parse_location(text, ALL)
    assert all(f"{transport}:" in (caught.value.hint or "") for transport in ALL)


@pytest.mark.parametrize("text", ["docker-archive:x", "docker://host/app"])
def test_transport_that_the_caller_does_not_accept_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="unknown transport: ") as caught:
        parse_location(text, ("oci", "oci-archive"))
    assert "docker" not in (caught.value.hint or "")


@pytest.mark.parametrize("text", ["oci:", "oci::1.0", "docker-archive:", "oci:\0"])
def test_location_without_a_path_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no path: "):
        parse_location(text, ALL)


@pytest.mark.parametrize(
    ("text", "repository"),
    [
        ("docker://registry.example/team/app:1.0", "registry.example/team/app"),
        ("docker://app:1.0", "docker.io/library/app"),
        ("docker://App", ""),
        ("oci:layout:1.0", ""),
        ("", ""),
    ],
)
def test_only_an_image_in_a_registry_has_a_repository(text: str, repository: str) -> None:
    assert repository_of(text) == repository
    assert is_in_registry(text) is text.startswith("docker://")
