"""The privileges of a process decide the whiteout format and the owners of new layers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command import REPOSITORY

ASK = """
from stacker.layer.metadata import IdMap
from stacker.layer.whiteout_format import WhiteoutFormat
print(WhiteoutFormat.permitted().value, IdMap.permitted().squash)
"""


def permitted_to(*wrap: str) -> str:
    environ = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    words = [*wrap, sys.executable, "-c", ASK]
    return subprocess.check_output(words, text=True, env=environ).strip()


@pytest.mark.parametrize(
    ("wrap", "permitted"),
    [
        ((), "trusted False"),
        (("unshare", "--user", "--map-root-user"), "user True"),
        (("setpriv", "--bounding-set=-sys_admin"), "user False"),
        (("setpriv", "--bounding-set=-chown"), "trusted True"),
    ],
    ids=["root", "one-id", "no-sys-admin", "no-chown"],
)
def test_privileges_decide_format_and_owners(wrap: tuple[str, ...], permitted: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root")
    assert permitted_to(*wrap) == permitted


def test_user_namespace_with_many_ids_keeps_owners() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may map many ids by itself")
    script = f"echo ready; read -r go; exec {sys.executable} -c '{ASK}'"
    with subprocess.Popen(
        ["unshare", "--user", "sh", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        text=True,
    ) as process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{process.pid}/{name}").write_text("0 0 1000")
        process.stdin.write("go\n")
        process.stdin.close()
        assert process.stdout.read() == "user False\n"
