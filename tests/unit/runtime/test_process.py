"""The process of an image config and of a caller's changes."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from stacker.errors import IntegrityError, UsageError
from stacker.image.config import Execution
from stacker.runtime.process import (
    CAPABILITIES,
    DEFAULT_PATH,
    STRING_LIMIT,
    TOTAL_LIMIT,
    Overrides,
    Process,
    Rlimit,
    make_process,
)
from stacker.runtime.root import Root

IMAGE = Execution(entrypoint=("init",), cmd=("-v",), env=("A=1",), working_dir="/srv", user="app")


def arguments(root: Root, image: Execution, **changes: tuple[str, ...]) -> tuple[str, ...]:
    return make_process(image, Overrides(**changes), root).args  # type: ignore[arg-type]


def test_command_is_appended_to_the_entrypoint(root: Root) -> None:
    assert arguments(root, IMAGE) == ("init", "-v")
    assert arguments(root, IMAGE, command=("-x", "y")) == ("init", "-x", "y")


def test_another_entrypoint_omits_the_images_command(root: Root) -> None:
    assert arguments(root, IMAGE, entrypoint=("sh",)) == ("sh",)
    assert arguments(root, IMAGE, entrypoint=(), command=("sh", "-c")) == ("sh", "-c")


def test_an_image_without_a_command_needs_one(root: Root) -> None:
    with pytest.raises(UsageError, match="no command"):
        arguments(root, Execution())


def test_process_has_the_values_of_the_image(root: Root) -> None:
    process = make_process(IMAGE, Overrides(), root)
    assert process.env == ("A=1", f"PATH={DEFAULT_PATH}", "HOME=/home/app")
    assert (process.cwd, process.user.uid) == ("/srv", 1000)
    assert process.no_new_privileges
    assert (process.capabilities, process.effective) == (CAPABILITIES, ())


def test_changes_of_the_caller_win(root: Root) -> None:
    changes = Overrides(
        env={"A": "2", "HOME": "/x"},
        working_dir="/tmp",
        user="0:0",
        terminal=True,
        new_privileges=True,
    )
    process = make_process(IMAGE, changes, root)
    assert process.env == ("A=2", "HOME=/x", f"PATH={DEFAULT_PATH}", "TERM=xterm")
    assert (process.cwd, process.effective) == ("/tmp", CAPABILITIES)
    assert (process.terminal, process.no_new_privileges) == (True, False)


def test_variables_keep_newlines_and_entries_without_a_value_are_omitted(root: Root) -> None:
    image = Execution(cmd=("sh",), env=("A=1\nB=2", "bare", "=x", "", "C=", "A=3\n", "D=a=b"))
    process = make_process(image, Overrides(), root)
    assert process.env[:3] == ("A=3\n", "C=", "D=a=b")


@pytest.mark.parametrize("text", ["a\0b", "\udcff"])
def test_a_string_that_execve_or_json_cannot_hold_is_refused(root: Root, text: str) -> None:
    with pytest.raises(UsageError, match="malformed process"):
        arguments(root, IMAGE, command=(text,))


def test_strings_too_long_for_execve_are_refused(root: Root) -> None:
    arguments(root, IMAGE, command=("x" * (STRING_LIMIT - 1),))
    with pytest.raises(IntegrityError, match="too long"):
        arguments(root, IMAGE, command=("x" * STRING_LIMIT,))
    with pytest.raises(IntegrityError, match="too many arguments"):
        arguments(root, IMAGE, command=("",) * (TOTAL_LIMIT // 8))


def working_dir(root: Root, image: str, wanted: str | None = None) -> str:
    execution = Execution(cmd=("sh",), working_dir=image)
    return make_process(execution, Overrides(working_dir=wanted), root).cwd


def test_working_dir_starts_at_the_root(root: Root) -> None:
    assert working_dir(root, "") == "/"
    assert working_dir(root, "app") == "/app"
    with pytest.raises(UsageError, match="relative"):
        working_dir(root, "", "app")


@pytest.mark.parametrize(
    "target", ["/proc/self/fd/7", "../../../proc/self/fd/7", "/sys/fs/cgroup", "/dev", "hop"]
)
def test_working_dir_behind_a_link_to_a_host_descriptor_is_refused(
    root: Root, directory: Path, target: str
) -> None:
    (directory / "hop").symlink_to("//proc/self/cwd")
    (directory / "work").symlink_to(target)
    with pytest.raises(IntegrityError, match="unsafe working directory"):
        working_dir(root, "/work/sub")
    with pytest.raises(IntegrityError, match="unsafe working directory"):
        working_dir(root, "/", "/proc/self/fd/7")


def test_working_dir_may_lead_through_other_links(root: Root, directory: Path) -> None:
    (directory / "work").symlink_to("/data/new")
    assert working_dir(root, "/work") == "/work"


def test_rlimits_are_lowered_to_the_hard_limit_without_the_capability(
    root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    def limits(*, capable: bool) -> tuple[Rlimit, ...]:
        monkeypatch.setattr("stacker.runtime.process.has_capability", lambda _: capable)
        changes = Overrides(rlimits=(Rlimit("NOFILE", 5, 1 << 20),))
        return make_process(IMAGE, changes, root).rlimits

    monkeypatch.setattr(resource, "getrlimit", lambda _: (1, 1024))
    assert limits(capable=False) == (Rlimit("NOFILE", 5, 1024),)
    assert limits(capable=True) == (Rlimit("NOFILE", 5, 1 << 20),)


def test_capabilities_outside_of_the_callers_bounding_set_are_omitted(
    root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stacker.runtime.process.bounding_set", lambda: 0b1001)
    process = make_process(IMAGE, Overrides(user="0"), root)
    assert process.capabilities == process.effective == ("CAP_CHOWN", "CAP_FOWNER")


def test_an_unknown_rlimit_is_an_error(root: Root) -> None:
    with pytest.raises(UsageError, match="unknown resource limit"):
        make_process(IMAGE, Overrides(rlimits=(Rlimit("X", 1, 1),)), root)


def test_root_without_capabilities_has_none() -> None:
    assert Process(("sh",), (), capabilities=()).effective == ()
