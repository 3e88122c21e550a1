"""References that a user may write for an image in a registry."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stacker.errors import UsageError
from stacker.image.digest import Digest
from stacker.image.reference import Reference

DIGEST = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("registry.example/app", Reference("registry.example", "app", "latest")),
        ("registry.example/app:1.0", Reference("registry.example", "app", "1.0")),
        ("registry.example:5000/a/b/c", Reference("registry.example:5000", "a/b/c", "latest")),
        ("localhost/app", Reference("localhost", "app", "latest")),
        ("localhost:5000/app", Reference("localhost:5000", "app", "latest")),
        ("[::1]:5000/app:x", Reference("[::1]:5000", "app", "x")),
        ("127.0.0.1:1/app", Reference("127.0.0.1:1", "app", "latest")),
        ("host:80/app", Reference("host:80", "app", "latest")),
        ("Registry.Example/app", Reference("registry.example", "app", "latest")),
        (
            "registry.example/a__b/c-d--e/f.g:T",
            Reference("registry.example", "a__b/c-d--e/f.g", "T"),
        ),
        (
            f"registry.example/app@{DIGEST}",
            Reference("registry.example", "app", "", Digest.parse(DIGEST)),
        ),
        (
            f"registry.example/app:1@{DIGEST}",
            Reference("registry.example", "app", "1", Digest.parse(DIGEST)),
        ),
    ],
)
def test_reference_is_parsed(text: str, reference: Reference) -> None:
    assert Reference.parse(text) == reference


@pytest.mark.parametrize(
    "text",
    [
        "registry.example/app:1.0",
        "registry.example:5000/a/b:latest",
        f"registry.example/app@{DIGEST}",
        f"registry.example/app:1@{DIGEST}",
    ],
)
def test_parsed_reference_has_the_text_it_was_parsed_from(text: str) -> None:
    assert str(Reference.parse(text)) == text


def test_digest_precedes_the_tag() -> None:
    assert Reference.parse(f"registry.example/app:1@{DIGEST}").target == DIGEST
    assert Reference.parse("registry.example/app:1").target == "1"


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "host"),
        ("app", "host"),
        ("app:1.0", "host"),
        ("team/app", "host"),
        ("/app", "host"),
        ("-a.example/app", "host"),
        ("a_b.example/app", "host"),
        ("user:word@registry.example/app", "host"),
        ("registry.example:0/app", "port"),
        ("registry.example:65536/app", "port"),
        ("[::1]:99999/app", "port"),
        ("[:::1]:5000/app", "host"),
        ("[127.0.0.1]/app", "host"),
        ("registry.example", "repository"),
        ("registry.example/", "repository"),
        ("registry.example//app", "repository"),
        ("registry.example/App", "repository"),
        ("registry.example/../app", "repository"),
        ("registry.example/a?b", "repository"),
        ("registry.example/" + "a" * 250, "repository"),
        ("registry.example/app:", "tag"),
        ("registry.example/app:-1", "tag"),
        ("registry.example/app:" + "a" * 129, "tag"),
        ("registry.example/app:1\n", "tag"),
        ("registry.example/app@", "digest"),
        ("registry.example/app@sha256:ab", "digest"),
        (f"registry.example/app@{DIGEST}x", "digest"),
    ],
)
def test_a_malformed_reference_is_a_usage_error_that_names_the_part(text: str, part: str) -> None:
    with pytest.raises(UsageError, match=f": {part}: got ") as caught:
        Reference.parse(text)
    assert caught.value.message.isprintable()
    assert "HOST[:PORT]/REPO[:TAG][@DIGEST]" in (caught.value.hint or "")


@given(st.text(alphabet="ab.:/@-_[]0159\0\nZ", max_size=40))
def test_any_text_is_a_reference_or_a_usage_error(text: str) -> None:
    try:
        reference = Reference.parse(text)
    except UsageError:
        return
    assert Reference.parse(str(reference)) == reference
