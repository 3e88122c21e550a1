"""Scripts of the repository: the demo, and the suite started in unusual ways."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(shutil.which("busybox") is None, reason="busybox is not installed")
@pytest.mark.skipif(os.geteuid() != 0, reason="runs chroot: needs root")
def test_demo_runs_a_program_in_a_root_filesystem() -> None:
    done = subprocess.run(
        [ROOT / "scripts" / "demo"],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "STACKER_VENV": sys.prefix},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "hello from inside\n  Three layers, one tree.\n  motd\n" in done.stdout
    assert "/etc/secret, which the third layer deletes, is absent" in done.stdout
    assert done.stdout.rstrip().endswith("Done.\033[0m")


def test_child_process_dies_of_sigint() -> None:
    done = subprocess.run(["sh", "-c", "kill -INT $$; echo survived"], check=False)
    assert done.returncode == -signal.SIGINT


def test_signal_tests_pass_while_the_suite_ignores_sigint() -> None:
    this = f"{Path(__file__).relative_to(ROOT)}::test_child_process_dies_of_sigint"
    pytest_here = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", this]
    command = ["sh", "-c", "trap '' INT; exec \"$@\"", "sh", *pytest_here]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_continuous_integration_names_only_existing_tests() -> None:
    script = (ROOT / ".ci/run").read_text()
    words = re.findall(r"tests/[\w/{},.]+", script)
    command = f"printf '%s\\n' {' '.join(words)}"
    # bash expands the braces, as it does in the script.
    paths = subprocess.run(["bash", "-c", command], check=True, capture_output=True, text=True)
    assert words
    assert [path for path in paths.stdout.split() if not (ROOT / path).exists()] == []
