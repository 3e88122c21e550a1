"""`stacker run`: the process, its exit code, and what is left afterwards, by each runtime."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from stacker.linux import mountinfo
from tests.integration.run.conftest import Run, with_runtime
from tests.support import runtimes
from tests.support.command import PATIENCE, Stacker, conforming

LOOP = "trap 'echo got; exit 9' TERM; echo ready; while :; do sleep 0.02; done"
OPTIONS_SCRIPT = """\
echo "$A $B $C $D"; id -u; id -g; pwd; hostname; ls /sys/class/net
cat /ro/file; (echo new > /ro/new) 2>/dev/null || echo refused
cat /rw/file; echo written > /rw/out
echo 1 > /tmp/x && cat /tmp/x
(echo x > /srv/x) 2>/dev/null || echo refused
cat /proc/self/status | while read -r key value; do
  case $key in NoNewPrivs:|CapEff:) echo "$key $value";; esac; done
"""


def test_default_command_runs_as_pid_1_and_its_writes_are_discarded(run: Run) -> None:
    assert run("app:1.0").out == "default\n"
    script = (
        "echo $$; pwd; echo $A; echo x > /new; cat /new; ls /proc/self/fd | while read -r n; do"
    )
    result = run("app:1.0", "sh", "-c", f"{script} [ $n -gt 3 ] && echo leaked $n; done; :")
    assert result.out == "1\n/srv\n1\nx\n"
    assert run("app:1.0", "cat", "/new").code == 1


def test_exit_code_is_that_of_the_process(run: Run) -> None:
    assert run("app:1.0", "sh", "-c", "exit 42").code == 42
    assert run("app:1.0", "no-such-program").code == 127
    failed = run("app:1.0", "/etc/secret")
    assert failed.code == 126
    assert "/etc/secret" in failed.err


def test_options_change_the_process_and_its_container(run: Run, tmp_path: Path) -> None:
    for name in ("ro", "rw"):
        (tmp_path / name).mkdir(mode=0o777)
        (tmp_path / name).chmod(0o777)
        (tmp_path / name / "file").write_text(f"{name}\n")
    (tmp_path / "env").write_text("# comment\nB=2\nC=3\n")
    result = run(
        *("-e", "C=4", "-e", "D=a b", "--env-file", tmp_path / "env"),
        *("-u", "1000:1001", "-w", "/tmp/work", "--hostname", "web", "--network", "none"),
        *("-v", f"{tmp_path}/ro:/ro:ro", "-v", f"{tmp_path}/rw:/rw", "--tmpfs", "/tmp:mode=1777"),
        *("--read-only", "app:1.0", "sh", "-c", OPTIONS_SCRIPT),
    )
    assert result.out.splitlines() == [
        *("1 2 4 a b", "1000", "1001", "/tmp/work", "web", "lo"),
        *("ro", "refused", "rw", "1", "refused"),
        *("CapEff: 0000000000000000", "NoNewPrivs: 1"),
    ]
    assert (tmp_path / "rw/out").read_text() == "written\n"
    assert os.listdir(tmp_path / "ro") == ["file"]


def test_entrypoint_replaces_the_images_command(run: Run) -> None:
    assert run("--entrypoint", "echo", "app:1.0", "a", "--keep").out == "a --keep\n"


def test_user_reaches_the_mount_points_that_are_created(run: Run) -> None:
    volume = f"{runtimes.BUSYBOX}:/new/below/busybox"
    options = ("-u", "1000", "-w", "/work/below", "-v", volume)
    result = run(*options, "app:1.0", "sh", "-c", "/new/below/busybox pwd; umask")
    assert result.out == "/work/below\n0022\n"


def test_root_of_the_container_has_few_privileges(run: Run) -> None:
    script = """\
cat /proc/kcore /proc/keys /sys/firmware/* 2>/dev/null
(echo x > /proc/sys/kernel/domainname) 2>/dev/null || echo read-only
while read -r key value; do case $key in CapBnd:) echo $value;; esac; done < /proc/self/status
touch /dev/shm/x /dev/null && [ -c /dev/zero ] && [ -e /dev/stdout ] && echo devices
"""
    result = run("app:1.0", "sh", "-c", script)
    assert result.out == "read-only\n00000000800405fb\ndevices\n"


@pytest.mark.parametrize("runtime", ["chroot", "runc"])
def test_stdin_reaches_the_process_only_if_it_is_asked_for(stacker: Stacker, runtime: str) -> None:
    command, options = with_runtime(stacker, runtime)
    for words, expected in ((["-i"], "text"), ([], "")):
        process = command.start(*options, *words, "app:1.0", "cat", text="text")
        assert process.communicate()[0] == expected
        assert process.returncode == 0


def test_exit_code_arrives_although_the_caller_ignores_sigchld(stacker: Stacker) -> None:
    command = replace(stacker, wrap=("env", "--ignore-signal=CHLD"))
    assert command.run("run", "--runtime", "chroot", "app:1.0", "sh", "-c", "exit 4").code == 4


@pytest.mark.parametrize("runtime", ["chroot", "runc"])
def test_signal_reaches_the_process(stacker: Stacker, runtime: str) -> None:
    command, options = with_runtime(stacker, runtime)
    process = command.start(*options, "app:1.0", "sh", "-c", LOOP)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.communicate()[0] == "got\n"
    assert process.returncode == 9


@pytest.mark.parametrize("runtime", ["chroot", "runc"])
def test_next_command_clears_what_a_killed_one_left(stacker: Stacker, runtime: str) -> None:
    command, options = with_runtime(stacker, runtime)
    process = command.start(*options, "app:1.0", "sh", "-c", LOOP)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    (mount,) = stacker("mounts", "--json").items
    assert "is in use" in stacker.refused(8, "umount", mount["target"])
    stacker("umount", "--all")
    process.kill()
    process.wait()
    stacker("mounts")
    assert process.communicate()[0] == ""  # no process of the container has it open
    assert os.listdir(stacker.store / "mounts") == []
    assert mountinfo.read().below(stacker.store) == []


def test_next_command_ends_a_process_that_refuses_to_end_with_its_command(
    stacker: Stacker,
) -> None:
    clear = "exec busybox chroot /host /usr/bin/setpriv --pdeathsig clear"
    words = f"{clear} sh -c 'echo ready; sleep 1000'"
    options = ("run", "--runtime", "chroot", "-v", "/:/host:ro")
    with stacker.start(*options, "app:1.0", "sh", "-c", words) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.kill()
        process.wait()
        stacker("mounts")
        assert process.stdout.read() == ""  # the pipe is closed, so the process has ended
    assert os.listdir(stacker.store / "mounts") == []


class Terminal:
    """A terminal that a command runs in."""

    def __init__(self, command: Stacker, *words: str) -> None:
        import termios

        self.number, other = os.openpty()
        termios.tcsetwinsize(self.number, (33, 77))
        self.before = termios.tcgetattr(other)
        self.process = subprocess.Popen(
            [*command.words(*words)],
            env=command.environment,
            stdin=other,
            stdout=other,
            stderr=other,
            start_new_session=True,
        )
        self.other = other

    def until(self, text: str) -> str:
        """Read until the output has a text."""
        found = ""
        while text not in found:
            assert select.select([self.number], [], [], PATIENCE)[0], found
            found += os.read(self.number, 4096).decode()
        return found

    def resize(self, rows: int, columns: int) -> None:
        """Resize the terminal; the kernel tells only a session that has it as its terminal."""
        import termios

        termios.tcsetwinsize(self.number, (rows, columns))
        self.process.send_signal(signal.SIGWINCH)


@contextmanager
def in_terminal(command: Stacker, *words: str) -> Iterator[Terminal]:
    """Run a command in a terminal."""
    terminal = Terminal(command, *words)
    try:
        yield terminal
    finally:
        terminal.process.kill()
        terminal.process.wait()
        os.close(terminal.number)
        os.close(terminal.other)
        command("mounts")  # ends the container of a killed command


@pytest.mark.skipif(sys.version_info < (3, 11), reason="termios.tcsetwinsize")
@pytest.mark.parametrize("runtime", ["chroot", "runc"])
def test_terminal_has_the_size_of_the_callers_and_is_restored(
    stacker: Stacker, runtime: str
) -> None:
    import termios

    command, options = with_runtime(stacker, runtime)
    script = (
        # runc sets the size of its terminal only after the process has started
        'until [ -n "$(stty size 2>/dev/null)" ]; do sleep 0.01; done;'
        " trap 'stty size' WINCH; stty size;"
        " [ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo all;"
        " while ! read -r line; do :; done; echo line $line; exit 3"
    )
    with in_terminal(command, *options, "-it", "app:1.0", "busybox", "sh", "-c", script) as tty:
        assert "33 77" in tty.until("all")
        tty.resize(44, 99)
        tty.until("44 99")
        os.write(tty.number, b"typed\r")
        tty.until("line typed")
        assert tty.process.wait(PATIENCE) == 3
        assert termios.tcgetattr(tty.other) == tty.before


def test_kept_writes_can_be_committed(stacker: Stacker) -> None:
    result = stacker("run", "--json", "--keep", "app:1.0", "touch", "/kept")
    item = conforming(result.document)["item"]
    assert isinstance(item, dict)
    assert item["exit_code"] == 0
    assert f"kept {item['target']}" in result.err
    stacker("commit", item["target"], "changed")
    stacker("umount", item["target"])
    assert stacker.run("run", "changed", "ls", "/kept").code == 0
    stacker("rm", "changed")


def test_failure_before_the_start_is_125_and_leaves_nothing(stacker: Stacker) -> None:
    assert "no such user" in stacker.refused(125, "run", "-u", "nobody", "app:1.0")
    stacker.refused(125, "run", "--pull", "never", "missing:1.0")
    stacker.refused(125, "run", "--no-such-option", "app:1.0")
    stacker.refused(125, "run", "-v", "/no/such/file:/x", "app:1.0")
    assert os.listdir(stacker.store / "mounts") == []


def test_process_runs_in_a_fuse_mount(stacker: Stacker) -> None:
    if not os.path.exists("/dev/fuse"):
        pytest.skip("no /dev/fuse")
    options = ("run", "--runtime", "chroot", "--driver", "fuse")
    assert stacker(*options, "app:1.0", "cat", "/etc/secret").out == "text\n"
    assert os.listdir(stacker.store / "mounts") == []


def test_image_is_pulled_if_the_store_lacks_it(stacker: Stacker, tmp_path: Path) -> None:
    source = runtimes.layout(tmp_path / "other", Cmd=["echo", "other"]).source
    assert stacker("run", "--runtime", "chroot", source).out == "other\n"
