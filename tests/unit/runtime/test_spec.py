"""config.json: valid by the runtime-spec's schema, with the annotations of image-spec."""

from __future__ import annotations

import json
from typing import Any

import pytest

from stacker.errors import IntegrityError, UsageError
from stacker.image.config import Execution, ImageConfig
from stacker.image.platform import Platform
from stacker.runtime import mounts
from stacker.runtime.mounts import Mount, bind, parse_volume, tmpfs
from stacker.runtime.process import Process, Rlimit
from stacker.runtime.seccomp import PROFILES, read_profile, resolved
from stacker.runtime.spec import Settings, annotations_of, omitted_labels, runtime_config
from stacker.runtime.user import User
from tests.support.schemas import RUNTIME_SPEC, validator

IMAGE = ImageConfig(
    Platform("linux", "arm64", "v8", "6.1"),
    (),
    created="2026-01-01T00:00:00Z",
    author="A <a@example.com>",
    execution=Execution(
        labels={"a": "b", "org.opencontainers.image.os": "mine", "run.oci.handler": "krun"},
        exposed_ports=("80/tcp", "53/udp"),
        volumes=("/data",),
        stop_signal="SIGINT",
    ),
    os_features=("f", "g"),
)
PROCESS = Process(
    ("sh",), ("A=1\n2",), user=User(1, 2, (3,)), rlimits=(Rlimit("NOFILE", 1, 2),), terminal=True
)
PROFILE = json.dumps(
    {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 38,
        "archMap": [
            {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
            {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": None},
        ],
        "syscalls": [
            {"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": None, "comment": "c"},
            {"names": ["arm"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["arm64"]}},
            {"names": ["not_arm"], "action": "SCMP_ACT_ALLOW", "excludes": {"arches": ["arm64"]}},
            {"names": ["chroot"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_A"]}},
            {
                "names": ["chroot"],
                "action": "SCMP_ACT_ERRNO",
                "errnoRet": 1,
                "excludes": {"caps": ["CAP_A"]},
                "args": [{"index": 0, "value": 1, "valueTwo": 0, "op": "SCMP_CMP_EQ"}],
            },
        ],
    }
).encode()


def written(settings: Settings, profile: bytes | None = None) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(runtime_config(IMAGE, PROCESS, settings, profile))
    return found


@pytest.mark.skipif(not RUNTIME_SPEC.is_dir(), reason=f"no runtime-spec schemas in {RUNTIME_SPEC}")
@pytest.mark.parametrize("profile", [None, PROFILE, read_profile()], ids=["none", "own", "podman"])
def test_config_is_valid_by_the_schema_of_runtime_spec(profile: bytes | None) -> None:
    settings = Settings("web", "host", True, (bind("/a", "/b"), tmpfs("/run:size=1m")))
    validator(RUNTIME_SPEC, "config-schema.json").validate(written(settings, profile))


def test_annotations_have_the_fields_of_the_image_and_labels_win() -> None:
    prefix = "org.opencontainers.image."
    assert annotations_of(IMAGE) == {
        f"{prefix}os": "mine",
        f"{prefix}architecture": "arm64",
        f"{prefix}variant": "v8",
        f"{prefix}os.version": "6.1",
        f"{prefix}os.features": "f,g",
        f"{prefix}author": "A <a@example.com>",
        f"{prefix}created": "2026-01-01T00:00:00Z",
        f"{prefix}stopSignal": "SIGINT",
        f"{prefix}exposedPorts": "80/tcp,53/udp",
        f"{prefix}volumes": "/data",
        "a": "b",
    }


def test_labels_that_configure_a_runtime_are_no_annotations() -> None:
    assert omitted_labels(IMAGE) == ("run.oci.handler",)


def test_mounts_that_make_the_root_are_first_and_those_of_the_caller_last() -> None:
    settings = Settings(root_mounts=(Mount("/", "overlay", "o"),), mounts=(bind("/a", "/b"),))
    destinations = [mount["destination"] for mount in written(settings)["mounts"]]
    assert (destinations[0], destinations[1], destinations[-1]) == ("/", "/proc", "/b")


@pytest.mark.parametrize("network", ["none", "host"])
def test_only_a_container_without_network_has_a_network_namespace(network: Any) -> None:
    kinds = [each["type"] for each in written(Settings(network=network))["linux"]["namespaces"]]
    assert ("network" in kinds) == (network == "none")


def test_profile_has_the_rules_of_the_machine_and_the_capabilities() -> None:
    found = resolved(PROFILE, (), "aarch64")
    assert found["architectures"] == ["SCMP_ARCH_AARCH64"]
    assert found["defaultErrnoRet"] == 38
    assert [rule["names"] for rule in found["syscalls"]] == [["read"], ["arm"], ["chroot"]]  # type: ignore[attr-defined]
    other = resolved(PROFILE, ("CAP_A",), "x86_64")
    assert other["architectures"] == ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]
    assert other["syscalls"] == [
        {"names": ["read"], "action": "SCMP_ACT_ALLOW"},
        {"names": ["not_arm"], "action": "SCMP_ACT_ALLOW"},
        {"names": ["chroot"], "action": "SCMP_ACT_ALLOW"},
    ]


@pytest.mark.parametrize("profile", [b"", b"[]", b"{}", b'{"syscalls": [1]}', b'{"syscalls": 1}'])
def test_a_malformed_profile_is_an_error(profile: bytes) -> None:
    with pytest.raises(IntegrityError, match="malformed seccomp profile"):
        resolved(profile, ())


def test_the_profile_of_the_administrator_comes_first(tmp_path: Any) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    assert read_profile((first, second)) is None
    second.write_bytes(b"2")
    assert read_profile((first, second)) == b"2"
    first.write_bytes(b"1")
    assert read_profile((first, second)) == b"1"
    assert PROFILES[0].is_relative_to("/etc")


def test_volumes_and_tmpfs_of_the_caller() -> None:
    assert parse_volume("/a:/b/../c:ro") == bind("/a", "/c", read_only=True)
    assert parse_volume("/a:/b").options == ("rbind", "rprivate", "rw")
    assert tmpfs("/run:size=1m,mode=755").options == ("nosuid", "nodev", "size=1m", "mode=755")


@pytest.mark.parametrize(
    "text", ["/a", "a:/b", "/a:b", "/a:/", "/a:/b:x", "/a:/proc/1", "/a:/x/.."]
)
def test_a_malformed_volume_is_an_error(text: str) -> None:
    with pytest.raises(UsageError):
        parse_volume(text)


@pytest.mark.parametrize("text", ["run", "/run:lowerdir=/", "/sys", "/run:size=1m,,"])
def test_a_malformed_tmpfs_is_an_error(text: str) -> None:
    with pytest.raises(UsageError):
        tmpfs(text)


def test_standard_mount_points_are_below_those_that_an_image_may_not_replace() -> None:
    assert {mount.destination.split("/")[1] for mount in mounts.STANDARD} == {"proc", "dev", "sys"}
