"""What containerd's config.toml needs to use this snapshotter and differ.

A version of containerd and the address of the socket come in; a part of config.toml goes out.
"""

from __future__ import annotations

import json
from typing import Final

from stacker.errors import UnsupportedError

VERSIONS: Final = ("1.6", "1.7")
"""The releases of containerd whose configuration is tested."""
_SNAPSHOTTER: Final = """\
version = 2

[proxy_plugins.stacker]
  type = "snapshot"
  address = {address}

[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "stacker"
  disable_snapshot_annotations = false
"""
_DIFFER: Final = """
[proxy_plugins.stacker-diff]
  type = "diff"
  address = {address}

[plugins."io.containerd.service.v1.diff-service"]
  default = ["stacker-diff", "walking"]
"""


def configuration(version: str, address: str) -> str:
    """Return the part of config.toml for a release of containerd.

    Releases before 1.7 have no differs outside of containerd.

    :param version: for example ``1.7`` or ``1.7.24``.
    :param address: the path of the socket.
    :raises UnsupportedError: the configuration of the release is not known.
    """
    release = ".".join(version.removeprefix("v").split(".")[:2])
    if release not in VERSIONS:
        raise UnsupportedError(
            f"unknown release of containerd: {version}: want {' or '.join(VERSIONS)}",
            hint="`containerd --version` prints the release",
        )
    text = _SNAPSHOTTER if release == "1.6" else _SNAPSHOTTER + _DIFFER
    return text.format(address=json.dumps(address))
