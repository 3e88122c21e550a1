"""Completion scripts that ask stacker for images, mounts and tags, in real shells."""

from __future__ import annotations

import os
import pty
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import images
from tests.support.command import Stacker, at_home
from tests.support.mounts import unmount_below
from tests.support.sample import BASE

BASH = """\
source <(stacker completion bash)
COMP_WORDS=({words})
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_shtab_stacker
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
FISH = """\
stacker completion fish | source
complete -C {line} | string replace -r '\\t.*' ''; or true
"""
ZSH = """\
compadd() {{ shift; print -l -- "$@" }}
source <(stacker completion zsh | sed '/^typeset -A opt_args/,$d')
words=({words}) PREFIX={last}
_stacker_{objects}
"""


@pytest.fixture
def stacker(tmp_path: Path) -> Iterator[Stacker]:
    """Return a command that the shells find as `stacker`, with two images and a mount."""
    stacker = at_home(tmp_path)
    program = tmp_path / "bin/stacker"
    program.parent.mkdir()
    words = shlex.join(stacker.words())
    program.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    program.chmod(0o755)
    for name in ("app:1.0", "apple:2"):
        stacker("pull", images.layout(tmp_path / name.partition(":")[0], [BASE], name=name).source)
    (tmp_path / "target").mkdir()
    stacker("mount", "--driver", "copy", "app:1.0", tmp_path / "target")
    yield stacker
    unmount_below(tmp_path)


def completed(stacker: Stacker, shell: str, words: list[str], objects: str) -> list[str]:
    """Return what a shell offers for the last word of a command line."""
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    line = shlex.join(words[:-1]) + " " + words[-1]
    quoted = shlex.join(words)
    script = {
        "bash": BASH.format(words=quoted),
        "fish": FISH.format(line=shlex.quote(line)),
        "zsh": ZSH.format(words=quoted, last=shlex.quote(words[-1]), objects=objects),
    }[shell]
    path = os.pathsep.join([str(stacker.store.parent / "bin"), os.environ["PATH"]])
    done = subprocess.run(
        [shell, "-c", script],
        check=True,
        capture_output=True,
        text=True,
        env={**stacker.environment, "PATH": path},
        cwd=stacker.store.parent,
    )
    found = [line for line in done.stdout.split("\n") if line.startswith(words[-1])]
    return sorted(line for line in found if line)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_completes_images(stacker: Stacker, shell: str) -> None:
    assert completed(stacker, shell, ["stacker", "inspect", "app"], "images") == [
        "app:1.0",
        "apple:2",
    ]
    assert completed(stacker, shell, ["stacker", "mount", "app:"], "images") == ["app:1.0"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_completes_images_of_the_store_on_the_command_line(
    stacker: Stacker, shell: str
) -> None:
    words = ["stacker", "--store", str(stacker.store.with_name("empty")), "inspect", "app"]
    assert completed(stacker, shell, words, "images") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_completes_mounts(stacker: Stacker, shell: str) -> None:
    target = str(stacker.store.with_name("target"))
    assert completed(stacker, shell, ["stacker", "umount", "/"], "mounts") == [target]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_completes_tags(stacker: Stacker, registry: str, shell: str) -> None:
    for tag in ("1.0", "2.0"):
        stacker("push", "--insecure", "app:1.0", f"docker://{registry}/tagged:{tag}")
    line = ["stacker", "pull", f"docker://{registry}/tagged:"]
    found = completed(stacker, shell, line, "sources")
    assert found == [f"docker://{registry}/tagged:{tag}" for tag in ("1.0", "2.0")]


def test_help_of_a_verb_is_its_man_page_on_a_terminal(stacker: Stacker) -> None:
    if not shutil.which("man"):
        pytest.skip("man is not installed")
    screen, terminal = pty.openpty()
    environment = {**stacker.environment, "MANPAGER": "cat", "MANWIDTH": "80"}
    words = stacker.words("help", "umount")
    with subprocess.Popen(words, stdout=terminal, env=environment) as done:
        os.close(terminal)
        shown = b""
        while True:
            try:
                data = os.read(screen, 1 << 16)
            except OSError:  # the terminal has no writer any more
                break
            shown += data
    os.close(screen)
    assert done.returncode == 0
    assert b"STACKER-UMOUNT(1)" in shown


def test_help_without_a_terminal_is_the_help_text(stacker: Stacker) -> None:
    assert stacker("help", "umount").out == stacker("umount", "--help").out
    assert stacker("help").out == stacker("--help").out


def test_help_of_an_unknown_verb_names_it(stacker: Stacker) -> None:
    assert "unknown verb: mout" in stacker.refused(2, "help", "mout")
