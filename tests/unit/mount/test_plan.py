"""A plan is a value; these are the rules it is laid out by."""

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


def test_several_layers_read_only_need_nothing_else() -> None:
    got = plan(A, B)
    assert (got.layers, got.directories, got.is_bind) == ((A, B), (), False)


def test_one_plain_layer_read_only_is_a_bind() -> None:
    got = plan(A, plain=True)
    assert (got.layers, got.directories, got.is_bind) == ((A,), (), True)


def test_one_layer_with_whiteouts_gets_an_empty_one_below() -> None:
    got = plan(A)
    assert (got.layers, got.directories, got.is_bind) == (
        (A, ROOM / "empty"),
        (ROOM / "empty",),
        False,
    )


def test_no_layer_at_all_is_an_empty_directory() -> None:
    got = plan()
    assert (got.layers, got.directories, got.is_bind) == (
        (ROOM / "empty",),
        (ROOM / "empty",),
        True,
    )


def test_writes_go_to_the_room_and_are_volatile() -> None:
    got = plan(A, plain=True, read_only=False)
    assert got.layers == (A,)
    assert got.directories == (ROOM / "upper", ROOM / "work")
    assert (got.volatile, got.is_bind) == (True, False)


def test_writes_that_are_kept_go_to_the_upper_and_are_synced() -> None:
    upper = Path("/home/me/changes")
    got = plan(A, B, read_only=False, upper=upper)
    assert got.directories == (upper, Path("/home/me/.changes.stacker-work"))
    assert got.work == work_beside(upper)
    assert not got.volatile


def test_kept_writes_can_be_looked_at_read_only() -> None:
    got = plan(A, plain=True, upper=Path("/changes"))
    assert (got.read_only, got.is_bind, got.layers) == (True, False, (A,))


def options(got: Plan) -> list[str]:
    mounts = got.to_json()["mounts"]
    assert isinstance(mounts, list)
    (only,) = mounts
    found = only["options"]
    assert isinstance(found, list)
    return found


def test_the_document_lists_the_mount_as_other_runtimes_take_it() -> None:
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


def test_the_plan_of_a_fuse_mount_names_its_directories() -> None:
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


def test_the_plan_of_a_fuse_mount_is_never_a_bind() -> None:
    assert plan(A, plain=True).to_json("fuse")["mounts"] == [
        {
            "type": "fuse.stacker",
            "source": "stacker:0a",
            "options": ["ro", f"lowerdir={A}", "default_permissions"],
        }
    ]


def test_a_copy_is_planned_without_a_mount() -> None:
    assert plan(A, B).to_json("copy")["mounts"] == []


def test_a_bind_is_listed_as_one() -> None:
    document = plan(A, plain=True).to_json()
    assert document["mounts"] == [
        {"type": "bind", "source": "/layers/a", "options": ["bind", "ro"]}
    ]


def test_the_user_form_is_mounted_with_userxattr() -> None:
    got = MountRequest(TARGET).plan(image_of(A, B, whiteout_format=WhiteoutFormat.USER), "0a", ROOM)
    assert "userxattr" in options(got)
    assert "userxattr" not in options(plan(A, B))


def test_special_characters_are_escaped_for_the_option_string() -> None:
    odd = Path("/l:1,\\x")
    assert r"lowerdir=/l\:1\,\\x:/layers/b" in options(plan(odd, B))
    got = plan(A, read_only=False, upper=Path("/u:1,"))
    assert r"upperdir=/u:1\," in options(got)


def test_a_path_of_any_bytes_survives_json() -> None:
    odd = Path("/\udcff")
    layers = json.loads(json.dumps(plan(odd, B).to_json()))["layers"]
    assert Path(layers[0]) == odd


def test_ids_are_short_and_do_not_repeat() -> None:
    ids = {new_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert {len(identifier) for identifier in ids} == {12}
