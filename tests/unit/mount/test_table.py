"""The mount table: directories, records, states and cleanup."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stacker.errors import LockedError, UnsupportedError
from stacker.linux import lock, process
from tests.support.mounts import mount_record

if TYPE_CHECKING:
    from stacker.mount.record import MountRecord
    from tests.support.bench import Bench


def record(bench: Bench, identifier: str) -> MountRecord:
    return mount_record(
        bench.target,
        id=identifier,
        layers=(bench.path,),
        boot_id=process.boot_id(),
        mount_namespace=process.mount_namespace(),
        target_inode=bench.target.stat().st_ino,
        target_mode=(0o755, os.getuid(), os.getgid()),
    )


def written(bench: Bench, **changes: object) -> MountRecord:
    with bench.table.new_directory() as workspace:
        made = replace(record(bench, workspace.id), **changes)  # type: ignore[arg-type]
        bench.table.write(made)
    return made


def test_mount_directory_is_private_and_named_by_its_id(bench: Bench) -> None:
    with bench.table.new_directory() as workspace:
        assert workspace.path == bench.table.directory / workspace.id
    assert workspace.path.stat().st_mode & 0o777 == 0o700
    assert bench.table.directory.stat().st_mode & 0o777 == 0o700


def test_mount_directory_is_removed_after_a_failure(bench: Bench) -> None:
    def fail() -> None:
        with bench.table.new_directory() as workspace:
            (workspace.path / "upper").mkdir()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert os.listdir(bench.table.directory) == []


def test_missing_table_is_empty(bench: Bench) -> None:
    assert bench.table.entries() == []
    assert bench.table.abandoned() == []
    assert bench.table.find(bench.target) is None
    assert not bench.table.directory.exists()


def test_record_is_found_by_id_and_by_target(bench: Bench) -> None:
    made = written(bench)
    assert bench.table.read(made.id) == made
    found = bench.table.find(bench.target)
    assert found is not None
    assert found.record == made
    assert bench.table.find(bench.path) is None


def test_writing_again_replaces_the_record(bench: Bench) -> None:
    made = written(bench)
    bench.table.write(replace(made, driver="copy"))
    assert bench.table.read(made.id) == replace(made, driver="copy")
    assert os.listdir(bench.table.directory / made.id) == ["mount.json"]


def test_entries_are_listed_oldest_first(bench: Bench) -> None:
    second = written(bench, created="2024-01-02T00:00:00Z")
    first = written(bench, created="2024-01-01T00:00:00Z")
    assert [entry.record for entry in bench.table.entries()] == [first, second]


def test_locked_mount_is_busy_and_not_stale(bench: Bench) -> None:
    with bench.table.new_directory() as workspace:
        bench.table.write(record(bench, workspace.id))
        assert [entry.state for entry in bench.table.entries()] == ["busy"]
        with pytest.raises(LockedError, match=workspace.id), bench.table.locked(workspace.id):
            pass
    assert [entry.state for entry in bench.table.entries()] == ["stale"]


def test_locking_a_missing_mount_is_refused(bench: Bench) -> None:
    with pytest.raises(LockedError), bench.table.locked("0a"):
        pass


def test_directory_without_record_and_lock_is_abandoned(bench: Bench) -> None:
    written(bench)
    with bench.table.new_directory() as left:
        pass
    with bench.table.new_directory() as held:
        assert bench.table.abandoned() == [left.id]
    assert bench.table.abandoned() == sorted([left.id, held.id])


@pytest.mark.parametrize("data", [b"", b"{", b"{}"])
def test_truncated_record_counts_as_missing(bench: Bench, data: bytes) -> None:
    made = written(bench)
    (bench.table.directory / made.id / "mount.json").write_bytes(data)
    assert bench.table.entries() == []
    assert bench.table.abandoned() == [made.id]


def test_record_of_a_later_version_is_never_cleared(bench: Bench) -> None:
    made = written(bench)
    (bench.table.directory / made.id / "mount.json").write_bytes(b'{"version": 2}')
    with pytest.raises(UnsupportedError):
        bench.table.entries()
    with pytest.raises(UnsupportedError):
        bench.table.abandoned()


def test_directory_cleared_before_its_lock_is_created_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = lock.exclusive
    swept: list[Path] = []

    def sweep_first(path: Path, *, create: bool = True) -> lock.Lock:
        if not swept:
            swept.append(path)
            path.rmdir()
        return real(path, create=create)

    monkeypatch.setattr(lock, "exclusive", sweep_first)
    with bench.table.new_directory() as workspace:
        assert workspace.path.is_dir()
    assert swept != [workspace.path]


def test_mount_of_a_run_is_stale_as_soon_as_the_lock_is_released(bench: Bench) -> None:
    with bench.table.new_directory() as workspace:
        held = bench.table.hold_for_run(workspace.id)
        made = replace(record(bench, workspace.id), runtime=(), driver="copy")
        bench.table.write(made)
    with held:
        assert [entry.state for entry in bench.table.entries()] == ["mounted"]
    assert [entry.state for entry in bench.table.entries()] == ["stale"]
