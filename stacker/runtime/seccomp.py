"""The system calls that a container may make: a profile of the containers tools, or a built-in one.

The bytes of a profile come in; ``linux.seccomp`` of the runtime-spec goes out.  A profile has rules
for several architectures and capabilities; the result has those that apply here.  This module
installs no filter.

Source: containers-seccomp.json(5), seccomp(2), runtime-spec config-linux.md ("Seccomp").
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from stacker.errors import IntegrityError, json_fault
from stacker.image.platform import Platform

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

PROFILES: Final = (Path("/etc/containers/seccomp.json"), Path("/usr/share/containers/seccomp.json"))
"""Where podman looks for its profile, in this order."""
_GOARCH = {"386": "x86"}
_NATIVE = {
    "386": "X86",
    "amd64": "X86_64",
    "arm": "ARM",
    "arm64": "AARCH64",
    "loong64": "LOONGARCH64",
    "mips64le": "MIPSEL64",
    "ppc64le": "PPC64LE",
    "riscv64": "RISCV64",
    "s390x": "S390X",
}
_RULE_FIELDS = ("names", "action", "errnoRet")
_EPERM, _ENOSYS = 1, 38
_CLONE_NEWUSER = 0x10000000
_DENIED: Final = (
    *("acct", "add_key", "bpf", "clock_adjtime", "clock_settime", "create_module"),
    *("delete_module", "fanotify_init", "finit_module", "get_kernel_syms", "init_module"),
    *("io_uring_enter", "io_uring_register", "io_uring_setup", "ioperm", "iopl", "kcmp"),
    *("kexec_file_load", "kexec_load", "keyctl", "lookup_dcookie", "mbind", "migrate_pages"),
    *("mount", "mount_setattr", "move_mount", "move_pages", "name_to_handle_at", "nfsservctl"),
    *("open_by_handle_at", "open_tree", "perf_event_open", "pivot_root", "process_vm_readv"),
    *("process_vm_writev", "query_module", "quotactl", "quotactl_fd", "reboot", "request_key"),
    *("set_mempolicy", "setns", "settimeofday", "stime", "swapoff", "swapon", "sysfs"),
    *("fsopen", "fsconfig", "fsmount", "fspick", "umount", "umount2", "unshare", "uselib"),
    *("userfaultfd", "ustat", "vm86", "vm86old"),
)
"""The calls that the built-in profile denies; it allows all others."""


def read_profile(paths: Iterable[Path] = PROFILES) -> bytes | None:
    """Return the first profile that exists; ``None`` if there is none.

    :raises OSError: a profile cannot be read.
    """
    for path in paths:
        try:
            return path.read_bytes()
        except FileNotFoundError:
            continue
    return None


def resolved(
    profile: bytes | None, capabilities: Collection[str], machine: str | None = None
) -> dict[str, object]:
    """Return the rules that apply to a process on a machine.

    :param profile: the JSON of a profile; ``None`` for the built-in one.
    :param capabilities: the bounding set, such as ``CAP_CHOWN``.
    :param machine: as uname(2) names it; ``None`` for this one.
    :raises IntegrityError: the profile is malformed.
    """
    architecture = Platform.host(machine or os.uname().machine).architecture
    if profile is None:
        return _built_in(architecture)
    try:
        return _resolve(json.loads(profile), capabilities, architecture)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise IntegrityError(
            f"malformed seccomp profile: got {json_fault(error)}, want containers-seccomp.json(5)",
            hint=f"repair or remove {PROFILES[0]} and {PROFILES[1]}",
        ) from None


def _resolve(
    members: dict[str, Any], capabilities: Collection[str], architecture: str
) -> dict[str, object]:
    rules = [
        _rule(each) for each in members["syscalls"] if _applies(each, capabilities, architecture)
    ]
    found: dict[str, object] = {"defaultAction": members["defaultAction"]}
    if members.get("defaultErrnoRet") is not None:
        found["defaultErrnoRet"] = members["defaultErrnoRet"]
    return {**found, "architectures": _architectures(members, architecture), "syscalls": rules}


def _architectures(members: dict[str, Any], architecture: str) -> list[str]:
    native = f"SCMP_ARCH_{_NATIVE.get(architecture, architecture.upper())}"
    for entry in members.get("archMap") or ():
        if entry["architecture"] == native:
            return [native, *(entry.get("subArchitectures") or ())]
    return list(members.get("architectures") or [native])


def _applies(rule: dict[str, Any], capabilities: Collection[str], architecture: str) -> bool:
    includes, excludes = rule.get("includes") or {}, rule.get("excludes") or {}
    name = _GOARCH.get(architecture, architecture)
    wanted = includes.get("arches")
    if (wanted and name not in wanted) or name in (excludes.get("arches") or ()):
        return False
    if not all(each in capabilities for each in includes.get("caps") or ()):
        return False
    return not any(each in capabilities for each in excludes.get("caps") or ())


def _rule(rule: dict[str, Any]) -> dict[str, object]:
    found = {field: rule[field] for field in _RULE_FIELDS if rule.get(field) is not None}
    if rule.get("args"):
        found["args"] = rule["args"]
    return found


def _built_in(architecture: str) -> dict[str, object]:
    """Return a profile that denies what a container without capabilities has no use for.

    clone3(2) passes its flags in memory, where a filter cannot see them, so it fails as if the
    kernel lacked it; C libraries then call clone(2).
    """
    denied = "SCMP_ACT_ERRNO"
    user_namespace = {
        "index": 0,
        "value": _CLONE_NEWUSER,
        "valueTwo": _CLONE_NEWUSER,
        "op": "SCMP_CMP_MASKED_EQ",
    }
    return {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": _architectures({}, architecture),
        "syscalls": [
            {"names": list(_DENIED), "action": denied, "errnoRet": _EPERM},
            {"names": ["clone3"], "action": denied, "errnoRet": _ENOSYS},
            {"names": ["clone"], "action": denied, "errnoRet": _EPERM, "args": [user_namespace]},
        ],
    }
