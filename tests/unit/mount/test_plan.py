"""From a request to a plan, and the plan as JSON."""

from __future__ import annotations

import json
from pathlib import Path

from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.mount.plan import MountRequest, Plan, new_id, work_beside
from tests.support.bench import image_of

ROOM = Path("/store/mounts/0a")
A, B = Path("/layers/a"), Path("/layers/b")
TARGET = Path("/target")


def plan(
    *layers: Path, plain: bool = False, read_only: bool = True, upper: Path | None = None
) -> Plan:
    request = MountRequest(TARGET, read_only=read_only, upper=upper)
    return request.plan(image_of(*layers, plain=plain), "0a", ROOM)


def test_several_read_only_layers_need_no_directories() -> None:
    got = plan(A, B)
    assert (got.layers, got.directories, got.is_bind) == ((A, B), (), False)


def test_single_plain_read_only_layer_is_a_bind_mount() -> None:
    got = plan(A, plain=True)
    assert (got.layers, got.directories, got.is_bind) == ((A,), (), True)


def test_single_layer_with_whiteouts_gets_an_empty_lower() -> None:
    got = plan(A)
    assert (got.layers, got.directories, got.is_bind) == (
        (A, ROOM / "empty"),
        (ROOM / "empty",),
        False,
    )


def test_image_without_layers_is_an_empty_directory() -> None:
    got = plan()
    assert (got.layers, got.directories, got.is_bind) == (
        (ROOM / "empty",),
        (ROOM / "empty",),
        True,
    )


def test_writes_without_upper_are_volatile_in_the_mounts_directory() -> None:
    got = plan(A, plain=True, read_only=False)
    assert got.layers == (A,)
    assert got.directories == (ROOM / "upper", ROOM / "work")
    assert (got.volatile, got.is_bind) == (True, False)


def test_writes_with_upper_are_persistent() -> None:
    upper = Path("/home/me/changes")
    got = plan(A, B, read_only=False, upper=upper)
    assert got.directories == (upper, Path("/home/me/.changes.stacker-work"))
    assert got.work == work_beside(upper)
    assert not got.volatile


def test_persistent_upper_can_be_mounted_read_only() -> None:
    got = plan(A, plain=True, upper=Path("/changes"))
    assert (got.read_only, got.is_bind, got.layers) == (True, False, (A,))


def options(got: Plan) -> list[str]:
    mounts = got.to_json()["mounts"]
    assert isinstance(mounts, list)
    (only,) = mounts
    found = only["options"]
    assert isinstance(found, list)
    return found


def test_plan_document_lists_the_overlay_mount() -> None:
    document = plan(A, B, read_only=False).to_json()
    assert document["version"] == 1
    assert document["target"] == "/target"
    assert document["layers"] == ["/layers/a", "/layers/b"]
    assert document["directories"] == ["/store/mounts/0a/upper", "/store/mounts/0a/work"]
    assert document["mounts"] == [
        {
            "type": "overlay",
            "source": "stacker:0a",
            "options": [
                "rw",
                "lowerdir=/layers/a:/layers/b",
                "upperdir=/store/mounts/0a/upper",
                "workdir=/store/mounts/0a/work",
                "redirect_dir=nofollow",
                "metacopy=off",
                "volatile",
            ],
        }
    ]


def test_plan_document_of_a_fuse_mount_lists_its_directories() -> None:
    assert plan(A, B, read_only=False).to_json("fuse")["mounts"] == [
        {
            "type": "fuse.stacker",
            "source": "stacker:0a",
            "options": [
                "rw",
                f"lowerdir={A}:{B}",
                "upperdir=/store/mounts/0a/upper",
                "workdir=/store/mounts/0a/work",
                "default_permissions",
            ],
        }
    ]


def test_plan_document_of_a_fuse_mount_is_not_a_bind() -> None:
    assert plan(A, plain=True).to_json("fuse")["mounts"] == [
        {
            "type": "fuse.stacker",
            "source": "stacker:0a",
            "options": ["ro", f"lowerdir={A}", "default_permissions"],
        }
    ]


def test_plan_document_of_a_copy_lists_no_mount() -> None:
    assert plan(A, B).to_json("copy")["mounts"] == []


def test_plan_document_lists_a_bind_mount() -> None:
    document = plan(A, plain=True).to_json()
    assert document["mounts"] == [
        {"type": "bind", "source": "/layers/a", "options": ["bind", "ro"]}
    ]


def test_user_whiteout_format_sets_userxattr() -> None:
    got = MountRequest(TARGET).plan(image_of(A, B, whiteout_format=WhiteoutFormat.USER), "0a", ROOM)
    assert "userxattr" in options(got)
    assert "userxattr" not in options(plan(A, B))


def test_special_characters_are_escaped_in_options() -> None:
    odd = Path("/l:1,\\x")
    assert r"lowerdir=/l\:1\,\\x:/layers/b" in options(plan(odd, B))
    got = plan(A, read_only=False, upper=Path("/u:1,"))
    assert r"upperdir=/u:1\," in options(got)


def test_path_of_any_bytes_survives_json() -> None:
    odd = Path("/\udcff")
    layers = json.loads(json.dumps(plan(odd, B).to_json()))["layers"]
    assert Path(layers[0]) == odd


def test_ids_are_short_and_unique() -> None:
    ids = {new_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert {len(identifier) for identifier in ids} == {12}
