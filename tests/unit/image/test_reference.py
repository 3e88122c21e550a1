"""References that a user may write for an image in a registry."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stacker.errors import UsageError
from stacker.image.digest import Digest
from stacker.image.reference import Reference, complete_name, spellings

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
        ("app", Reference("docker.io", "library/app", "latest")),
        ("app:1.0", Reference("docker.io", "library/app", "1.0")),
        ("team/app", Reference("docker.io", "team/app", "latest")),
        ("docker.io/app", Reference("docker.io", "library/app", "latest")),
        ("index.docker.io/team/app:1", Reference("docker.io", "team/app", "1")),
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
        ("", "repository"),
        ("/app", "repository"),
        ("Team/app", "repository"),
        ("library/", "repository"),
        ("app:", "tag"),
        ("-a.example/app", "host"),
        ("a_b.example/app", "host"),
        ("user:word@registry.example/app", "digest"),
        ("registry.example:0/app", "port"),
        ("registry.example:65536/app", "port"),
        ("[::1]:99999/app", "port"),
        ("[:::1]:5000/app", "host"),
        ("[127.0.0.1]/app", "host"),
        ("registry.example/", "repository"),
        ("registry.example//app", "repository"),
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
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "lowercase"),
    [("ALPINE", "alpine"), ("Team/App:V1", "team/app:V1"), ("a.example/App", "a.example/app")],
)
def test_uppercase_name_has_a_hint_with_the_lowercase_name(text: str, lowercase: str) -> None:
    with pytest.raises(UsageError, match="repository: got ") as caught:
        Reference.parse(text)
    assert caught.value.hint == f"names of images are lowercase: {lowercase!r}"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("app", "app:latest"),
        ("app:1.0", "app:1.0"),
        ("localhost:5000/app", "localhost:5000/app:latest"),
        ("localhost:5000/latest", "localhost:5000/latest:latest"),
    ],
)
def test_local_name_gets_the_tag_latest_and_no_registry(text: str, name: str) -> None:
    assert complete_name(text) == name


@pytest.mark.parametrize("text", ["App", "a b", f"app@{DIGEST}", "app:", ""])
def test_malformed_local_name_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="malformed "):
        complete_name(text)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("app", ("app", "app:latest", "docker.io/library/app:latest")),
        ("app:1", ("app:1", "docker.io/library/app:1")),
        ("a.example/app", ("a.example/app", "a.example/app:latest")),
        ("A", ("A", "A:latest")),
        ("A:1", ("A:1",)),
    ],
)
def test_spellings_of_a_name_start_with_the_most_exact(text: str, names: tuple[str, ...]) -> None:
    assert spellings(text) == names


@given(st.text(alphabet="ab.:/@-_[]0159\0\nZ", max_size=40))
def test_any_text_is_a_reference_or_a_usage_error(text: str) -> None:
    try:
        reference = Reference.parse(text)
    except UsageError:
        return
    assert Reference.parse(str(reference)) == reference
