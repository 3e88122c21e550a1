"""Instructions of a Containerfile change the config as docker and podman do it."""

from __future__ import annotations

import pytest

from stacker.errors import UsageError
from stacker.image.instructions import Instruction

BEFORE = {
    "Env": ["PATH=/bin", "LANG=C"],
    "Labels": {"a": "1"},
    "Volumes": {"/old": {}},
    "Unknown": 1,
}


@pytest.mark.parametrize(
    ("text", "member", "value"),
    [
        ("ENV LANG=de_DE X='a b'", "Env", ["PATH=/bin", "LANG=de_DE", "X=a b"]),
        ("env LANG some words", "Env", ["PATH=/bin", "LANG=some words"]),
        ("ENV=LANG=", "Env", ["PATH=/bin", "LANG="]),
        ('LABEL b=2 "c d"=e', "Labels", {"a": "1", "b": "2", "c d": "e"}),
        ('CMD ["sh", "-c", "date"]', "Cmd", ["sh", "-c", "date"]),
        ("CMD date -u", "Cmd", ["/bin/sh", "-c", "date -u"]),
        ("CMD []", "Cmd", []),
        ("ENTRYPOINT", "Entrypoint", []),
        ("EXPOSE 80 53/udp", "ExposedPorts", {"80/tcp": {}, "53/udp": {}}),
        ("VOLUME /data /old", "Volumes", {"/old": {}, "/data": {}}),
        ('VOLUME ["/with space"]', "Volumes", {"/old": {}, "/with space": {}}),
        ("USER 1000:1000", "User", "1000:1000"),
        ("WORKDIR /srv", "WorkingDir", "/srv"),
        ("STOPSIGNAL SIGINT", "StopSignal", "SIGINT"),
    ],
)
def test_instruction_changes_one_member(text: str, member: str, value: object) -> None:
    config: dict[str, object] = {**BEFORE}
    Instruction.parse(text).apply(config)
    assert config == {**BEFORE, member: value}


@pytest.mark.parametrize(
    "text",
    ["", "RUN make", "ENV", "ENV =x", "ENV 'a=b", "LABEL a=b c", "CMD [1]", 'CMD ["a"', "USER"],
)
def test_unknown_or_malformed_instruction_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        Instruction.parse(text)
