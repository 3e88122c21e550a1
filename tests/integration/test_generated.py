"""Man pages, completions and docs/reference agree with the argparse table."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from stacker.cli.verbs import SUMMARIES
from tests.support.command import REPOSITORY

PAGES = [REPOSITORY / "man" / name for name in ("stacker.1", "stacker-fuse.1")]
PAGES += [REPOSITORY / "man" / f"stacker-{verb}.1" for verb in SUMMARIES]


def test_generated_files_are_up_to_date() -> None:
    words = [sys.executable, str(REPOSITORY / "scripts" / "generate"), "--check"]
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_every_man_page_belongs_to_a_verb() -> None:
    assert sorted((REPOSITORY / "man").iterdir()) == sorted(PAGES)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_man_page_has_no_groff_warnings(page: Path) -> None:
    if not shutil.which("groff"):
        pytest.skip("groff is not installed")
    words = ["groff", "-man", "-ww", "-Kutf8", "-Tutf8", "-rLL=78n", str(page)]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("shell", "script"),
    [
        ("bash", "completions/stacker.bash"),
        ("zsh", "completions/_stacker"),
        ("fish", "completions/stacker.fish"),
    ],
)
def test_completion_script_has_valid_syntax(shell: str, script: str) -> None:
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    subprocess.run([shell, "-n", str(REPOSITORY / script)], check=True)


def test_bash_completes_verbs_and_options() -> None:
    script = (
        f"source {REPOSITORY}/completions/stacker.bash; COMP_WORDS=(stacker {{}}); "
        "COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _shtab_stacker; echo ${{COMPREPLY[@]}}"
    )

    def completed(words: str) -> list[str]:
        done = subprocess.run(
            ["bash", "-c", script.format(words)], check=True, capture_output=True, text=True
        )
        return done.stdout.split()

    assert completed("u") == ["umount", "unpack", "untag"]
    assert completed("mount --dr") == ["--driver"]
    assert completed("mount --driver c") == ["copy"]


def test_schema_is_valid_and_every_kind_has_a_constant() -> None:
    schema = json.loads((REPOSITORY / "docs" / "reference" / "cli-output.schema.json").read_bytes())
    jsonschema.Draft202012Validator.check_schema(schema)
    kinds = [entry["$ref"].rpartition("/")[2] for entry in schema["oneOf"]]
    for kind in kinds:
        assert schema["$defs"][kind]["properties"]["kind"] == {"const": kind}
