"""The snapshots service without its transport: status codes, and what a killed process leaves.

Containerd's own suite (tests/containerd) covers what each call does.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from stacker.containerd.metadata import Kind
from stacker.containerd.mounts import Mount
from stacker.containerd.snapshots import Snapshotter
from stacker.containerd.status import Code, StatusError
from tests.support.containerd import Services, done

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="changes owners: needs root")


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Snapshotter]:
    found = Services(tmp_path)
    yield found.snapshots
    found.close()


def code_of(call: Coroutine[Any, Any, object]) -> Code:
    with pytest.raises(StatusError) as raised:
        done(call)
    return raised.value.code


def committed(service: Snapshotter, name: str, parent: str = "") -> None:
    done(service.prepare(f"{name}-active", parent, {}))
    done(service.commit(f"{name}-active", name, {}))


def test_a_missing_snapshot_is_not_found(service: Snapshotter) -> None:
    calls = (
        service.mounts("x"),
        service.remove("x"),
        service.stat("x"),
        service.usage("x"),
        service.update("x", {}, []),
        service.commit("x", "y", {}),
        service.prepare("y", "x", {}),
        service.view("y", "x", {}),
    )
    assert {code_of(call) for call in calls} == {Code.NOT_FOUND}


def test_a_parent_that_is_not_committed_is_an_invalid_argument(service: Snapshotter) -> None:
    done(service.prepare("active", "", {}))
    assert code_of(service.prepare("x", "active", {})) == Code.INVALID_ARGUMENT
    assert code_of(service.view("x", "active", {})) == Code.INVALID_ARGUMENT


def test_a_key_or_a_name_that_is_taken_already_exists(service: Snapshotter) -> None:
    committed(service, "base")
    done(service.prepare("active", "base", {}))
    assert code_of(service.prepare("active", "base", {})) == Code.ALREADY_EXISTS
    assert code_of(service.view("base", "", {})) == Code.ALREADY_EXISTS
    assert code_of(service.commit("active", "base", {})) == Code.ALREADY_EXISTS


def test_an_empty_key_is_an_invalid_argument(service: Snapshotter) -> None:
    assert code_of(service.prepare("", "", {})) == Code.INVALID_ARGUMENT


def test_only_an_active_snapshot_can_be_committed(service: Snapshotter) -> None:
    committed(service, "base")
    done(service.view("view", "base", {}))
    assert code_of(service.commit("view", "x", {})) == Code.FAILED_PRECONDITION
    assert code_of(service.commit("base", "x", {})) == Code.FAILED_PRECONDITION


def test_a_committed_snapshot_has_no_mounts(service: Snapshotter) -> None:
    committed(service, "base")
    assert code_of(service.mounts("base")) == Code.FAILED_PRECONDITION


def test_a_snapshot_with_a_child_cannot_be_removed(service: Snapshotter) -> None:
    committed(service, "base")
    done(service.prepare("child", "base", {}))
    with pytest.raises(StatusError, match="remove") as raised:
        done(service.remove("base"))
    assert raised.value.code == Code.FAILED_PRECONDITION
    done(service.remove("child"))
    done(service.remove("base"))
    assert list(service.directories.snapshots.iterdir()) == []


def test_commit_gives_a_parent_to_a_snapshot_without_one(service: Snapshotter) -> None:
    committed(service, "base")
    done(service.prepare("active", "", {}))
    done(service.commit("active", "top", {}, "base"))
    assert done(service.stat("top")).parent == "base"
    done(service.view("view", "top", {}))
    [mount] = done(service.mounts("view"))
    assert mount.options[-1].count(":") == 1  # both are lower directories


def test_commit_does_not_change_a_parent(service: Snapshotter) -> None:
    committed(service, "base")
    committed(service, "other")
    done(service.prepare("active", "base", {}))
    assert code_of(service.commit("active", "top", {}, "other")) == Code.INVALID_ARGUMENT
    assert code_of(service.commit("active", "top", {}, "missing")) == Code.INVALID_ARGUMENT
    done(service.prepare("alone", "", {}))
    assert code_of(service.commit("alone", "top", {}, "missing")) == Code.NOT_FOUND
    done(service.commit("active", "top", {}, "base"))


def test_commit_replaces_the_labels(service: Snapshotter) -> None:
    done(service.prepare("active", "", {"old": "1"}))
    done(service.commit("active", "base", {"new": "2"}))
    found = done(service.stat("base"))
    assert (found.labels, found.kind) == ({"new": "2"}, Kind.COMMITTED)
    assert found.created == found.updated


def test_an_update_without_a_value_removes_the_label(service: Snapshotter) -> None:
    done(service.prepare("active", "", {"a": "1", "b.c": "2"}))
    found = done(service.update("active", {"a": "3"}, ["labels.a", "labels.b.c"]))
    assert found.labels == {"a": "3"}
    assert code_of(service.update("active", {}, ["kind"])) == Code.INVALID_ARGUMENT


def test_list_selects_by_label_and_parent(service: Snapshotter) -> None:
    committed(service, "base")
    labels = {"containerd.io/snapshot.ref": "sha256:ab"}
    done(service.prepare("one", "base", labels))
    done(service.prepare("two", "", labels))
    text = 'labels."containerd.io/snapshot.ref"==sha256:ab,parent==base'
    assert [each.key for each in done(service.select([text]))] == ["one"]
    assert [each.key for each in done(service.select([]))] == ["base", "one", "two"]


def test_usage_counts_the_files_of_the_snapshot_alone(service: Snapshotter) -> None:
    done(service.prepare("active", "", {}))
    [mount] = done(service.mounts("active"))
    (mount.upper / "file").write_bytes(b"x" * 5000)
    os.link(mount.upper / "file", mount.upper / "link")
    active = done(service.usage("active"))
    assert active[0] >= 5000
    assert active[1] == 2  # the root directory and the file
    done(service.commit("active", "base", {}))
    assert done(service.usage("base")) == active
    done(service.prepare("child", "base", {}))
    assert done(service.usage("child"))[1] == 1
    done(service.view("view", "base", {}))
    assert done(service.usage("view")) == (0, 0)


def test_a_child_has_the_owner_and_the_mode_of_its_parent(service: Snapshotter) -> None:
    done(service.prepare("active", "", {}))
    [mount] = done(service.mounts("active"))
    assert mount.upper.stat().st_mode & 0o7777 == 0o755
    os.chown(mount.upper, 5, 6)
    mount.upper.chmod(0o1700)
    done(service.commit("active", "base", {}))
    [mount] = done(service.prepare("child", "base", {}))
    found = mount.upper.stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (5, 6, 0o1700)


def test_a_failed_prepare_leaves_nothing(
    service: Snapshotter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_words: object, **_options: object) -> None:
        raise OSError(28, "No space left on device")

    committed(service, "base")
    with monkeypatch.context() as patch:
        patch.setattr("stacker.containerd.mounts.copy_layer_attributes", refuse)
        with pytest.raises(OSError, match="No space"):
            done(service.prepare("child", "base", {}))
    assert code_of(service.stat("child")) == Code.NOT_FOUND
    done(service.prepare("child", "base", {}))  # with the same ID, whose directory is left over
    done(service.cleanup())
    assert len(list(service.directories.snapshots.iterdir())) == 2
    assert list(service.directories.trash.iterdir()) == []


def test_cleanup_removes_what_has_no_row(service: Snapshotter) -> None:
    committed(service, "base")
    lost = service.directories.snapshots / "77" / "fs" / "deep"
    lost.mkdir(parents=True)
    (service.directories.links / "4d.0").symlink_to(lost)
    done(service.cleanup())
    assert [path.name for path in service.directories.snapshots.iterdir()] == ["1"]
    assert list(service.directories.links.iterdir()) == []
    assert list(service.directories.trash.iterdir()) == []


def test_a_long_list_of_lower_directories_has_short_names(
    service: Snapshotter, monkeypatch: pytest.MonkeyPatch
) -> None:
    committed(service, "base")
    committed(service, "middle", "base")
    [real] = done(service.prepare("first", "middle", {}))
    monkeypatch.setattr("stacker.containerd.snapshots.LONGEST_OPTION", 20)
    [short] = done(service.prepare("second", "middle", {}))
    paths = [Path(each) for each in lower_of(short)]
    assert {path.parent for path in paths} == {service.directories.links}
    assert [str(path.readlink()) for path in paths] == lower_of(real)
    assert done(service.mounts("second")) == [short]


def lower_of(mount: Mount) -> list[str]:
    return mount.options[-1].removeprefix("lowerdir=").split(":")


def test_a_status_error_keeps_its_code_between_processes() -> None:
    found = pickle.loads(pickle.dumps(StatusError(Code.NOT_FOUND, "text")))
    assert (found.code, found.message) == (Code.NOT_FOUND, "text")
