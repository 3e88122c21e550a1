"""OCI runtimes: where they are, and what their log says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stacker.errors import StackerError, StartError
from stacker.runtime.oci import Runtime


@pytest.mark.parametrize(
    ("text", "kind", "code"),
    [
        ('exec: "x": executable file not found in $PATH', StartError, 127),
        ("executable file `x` not found in $PATH: No such file or directory", StartError, 127),
        ("open executable: Permission denied", StartError, 126),
        ("exec /x: exec format error", StartError, 126),
        ("unable to apply cgroup configuration", StackerError, 1),
    ],
)
def test_error_in_the_log_has_the_exit_code_of_a_shell(
    tmp_path: Path, text: str, kind: type[StackerError], code: int
) -> None:
    entries = [{"level": "warning", "msg": "first"}, {"level": "error", "msg": text}]
    lines = [*map(json.dumps, entries), "no JSON"]
    (tmp_path / "log.json").write_text("\n".join(lines))
    failure = Runtime(("/usr/sbin/runc",), tmp_path).failure("x")
    assert failure is not None
    assert (type(failure), failure.exit_code) == (kind, code)
    assert text in failure.message


def test_runtime_without_an_error_in_its_log_has_started_the_process(tmp_path: Path) -> None:
    runtime = Runtime(("/usr/sbin/runc",), tmp_path)
    assert runtime.failure("x") is None
    (tmp_path / "log.json").write_text('{"level": "warning", "msg": "harmless"}\n')
    assert runtime.failure("x") is None


def test_missing_runtime_cannot_be_executed(tmp_path: Path) -> None:
    from stacker.runtime.streams import Streams

    with pytest.raises(StackerError, match="cannot execute the runtime: /missing/runc"):
        Runtime(("/missing/runc",), tmp_path).start(Streams((0, 1, 2)))
