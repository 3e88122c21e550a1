"""Where credentials for registries lie: options and environment in, a list of files out.

What is in the files is not known here.
Sources: containers-auth.json(5); Docker's documentation of DOCKER_CONFIG.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from stacker.errors import NotFoundError

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Mapping

    from stacker.source.access import Access


def access(args: Namespace, environ: Mapping[str, str]) -> Access:
    """Return how registries may be reached, by ``--insecure`` and ``--authfile``.

    :raises NotFoundError: the file that was named is not there.
    """
    from stacker.source.access import Access

    if args.authfile is not None and not os.path.exists(args.authfile):
        raise NotFoundError(f"no such file: --authfile {args.authfile!r}")
    files = auth_files(args.authfile, environ, os.geteuid())
    return Access(insecure=args.insecure, auth_files=tuple(map(os.path.abspath, files)))


def auth_files(named: str | None, environ: Mapping[str, str], user: int) -> list[str]:
    """Return the files that may have credentials, the first to be asked first.

    :param named: the one file somebody named.
    :param user: a user ID, whose runtime directory it is when the environment does not say.
    """
    if one := named or environ.get("REGISTRY_AUTH_FILE"):
        return [one]
    home = Path.home()
    runtime = environ.get("XDG_RUNTIME_DIR") or f"/run/containers/{user}"
    config = environ.get("XDG_CONFIG_HOME") or f"{home}/.config"
    docker = environ.get("DOCKER_CONFIG") or f"{home}/.docker"
    podman = "containers/auth.json" if environ.get("XDG_RUNTIME_DIR") else "auth.json"
    return [
        f"{runtime}/{podman}",
        f"{config}/containers/auth.json",
        f"{docker}/config.json",
    ]
