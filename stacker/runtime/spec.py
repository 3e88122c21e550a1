"""The ``config.json`` of an OCI runtime.

An `ImageConfig`, a `Process` and the `Settings` of a caller come in; bytes go out.  This module
must not look at the host's files.

Source: runtime-spec config.md and config-linux.md; image-spec conversion.md ("Annotation Fields").
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from stacker.runtime.mounts import MASKED, READ_ONLY, STANDARD, Mount

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stacker.image.config import ImageConfig
    from stacker.runtime.process import Process

Network = Literal["none", "host"]
"""``none`` is a network namespace with a loopback device only."""
SPEC_VERSION, PORTABLE_VERSION = "1.0.2", "1.0.0"
ROOT: Final = "rootfs"
"""The root filesystem's directory in a bundle."""
_NAMESPACES = ("pid", "ipc", "uts", "mount", "cgroup")
_PREFIX = "org.opencontainers.image."
_UNSAFE_LABELS = (
    "io.katacontainers.",
    "krun.",
    "module.wasm.",
    "org.criu.",
    "org.systemd.property.",
    "run.oci.",
    "stacker.",
)


@dataclass(frozen=True, slots=True)
class Settings:
    """What a container has besides its process.

    :param hostname: the host name in its UTS namespace; empty for ``stacker``.
    :param network: its own network namespace, or the host's.
    :param read_only: the process cannot write to the root filesystem.
    :param mounts: mounts in addition to `STANDARD`, made after them.
    :param root_mounts: mounts that make the root filesystem, made before all others.
    :param annotations: annotations in addition to those of the image.
    :param root: the root filesystem, absolute or relative to the bundle.
    :param portable: omit the seccomp profile and the rules for devices.  systemd-nspawn refuses
        both: it has a seccomp filter of its own, and needs systemd for the rules.
    """

    hostname: str = ""
    network: Network = "none"
    read_only: bool = False
    mounts: tuple[Mount, ...] = ()
    root_mounts: tuple[Mount, ...] = ()
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    root: str = ROOT
    portable: bool = False


def runtime_config(
    config: ImageConfig, process: Process, settings: Settings, profile: bytes | None
) -> bytes:
    """Return the ``config.json`` of a container.

    :param profile: a seccomp profile, as for `stacker.runtime.seccomp.resolved`.
    :raises IntegrityError: the profile is malformed.
    """
    mounts = (*settings.root_mounts, *STANDARD, *settings.mounts)
    document = {
        "ociVersion": PORTABLE_VERSION if settings.portable else SPEC_VERSION,
        "process": _process(process),
        "root": {"path": settings.root, "readonly": settings.read_only},
        "hostname": settings.hostname or "stacker",
        "mounts": [mount.to_json() for mount in mounts],
        "annotations": {**annotations_of(config), **settings.annotations},
        "linux": _linux(process, settings, profile),
    }
    return json.dumps(document, ensure_ascii=False, indent=1).encode() + b"\n"


def annotations_of(config: ImageConfig) -> dict[str, str]:
    """Return the annotations of a container: the image's labels, and its other fields.

    A label takes precedence over a field.  Labels that configure a runtime are omitted; see
    `omitted_labels`.
    """
    platform, execution = config.platform, config.execution
    fields = {
        "os": platform.os,
        "architecture": platform.architecture,
        "variant": platform.variant,
        "os.version": platform.os_version,
        "os.features": ",".join(config.os_features),
        "author": config.author,
        "created": config.created or "",
        "stopSignal": execution.stop_signal,
        "exposedPorts": ",".join(execution.exposed_ports),
        "volumes": ",".join(execution.volumes),
    }
    omitted = omitted_labels(config)
    labels = {key: value for key, value in execution.labels.items() if key and key not in omitted}
    return {**{_PREFIX + key: value for key, value in fields.items() if value}, **labels}


def omitted_labels(config: ImageConfig) -> tuple[str, ...]:
    """Return the labels of an image that do not become annotations.

    Runtimes read such annotations as settings: crun starts another handler for ``run.oci.handler``,
    and runc sets properties of the systemd unit.  The image's author must not choose them.
    """
    return tuple(key for key in config.execution.labels if key.startswith(_UNSAFE_LABELS))


def _process(process: Process) -> dict[str, object]:
    user: dict[str, object] = {"uid": process.user.uid, "gid": process.user.gid}
    if process.user.additional_gids:
        user["additionalGids"] = list(process.user.additional_gids)
    effective = list(process.effective)
    found: dict[str, object] = {
        "terminal": process.terminal,
        "user": user,
        "args": list(process.args),
        "env": list(process.env),
        "cwd": process.cwd,
        "capabilities": {
            "bounding": list(process.capabilities),
            "effective": effective,
            "permitted": effective,
        },
        "noNewPrivileges": process.no_new_privileges,
    }
    if process.rlimits:
        found["rlimits"] = [
            {"type": f"RLIMIT_{limit.name}", "soft": limit.soft, "hard": limit.hard}
            for limit in process.rlimits
        ]
    return found


def _linux(process: Process, settings: Settings, profile: bytes | None) -> dict[str, object]:
    kinds = _NAMESPACES if settings.network == "host" else (*_NAMESPACES, "network")
    found: dict[str, object] = {
        "namespaces": [{"type": kind} for kind in kinds],
        "maskedPaths": list(MASKED),
        "readonlyPaths": list(READ_ONLY),
    }
    if settings.portable:
        return found
    # Every device of the host is denied; a runtime adds rules for the harmless ones.
    found["resources"] = {"devices": [{"allow": False, "access": "rwm"}]}
    from stacker.runtime.seccomp import resolved  # a process without a runtime has no filter

    found["seccomp"] = resolved(profile, process.capabilities)
    return found
