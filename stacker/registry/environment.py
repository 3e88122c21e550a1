"""Find the settings for registries that environment variables and files of the system give.

Environment variables come in as a mapping; paths, proxies and a `RegistriesConf` go out.  The files
are where podman, skopeo and docker keep them.  This module must not read the environment itself.
Sources: containers-registries.conf(5), "DESCRIPTION"; containers-registries.conf.d(5);
containers-auth.json(5); containers-certs.d(5); Docker's documentation of DOCKER_CONFIG.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from stacker.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from stacker.registry.http.proxies import Proxies
    from stacker.registry.registries_conf import RegistriesConf

_SYSTEM = Path("/etc/containers")
_CERTIFICATES = ("/etc/containers/certs.d", "/etc/docker/certs.d")


def proxies(environ: Mapping[str, str]) -> Proxies:
    """Return the proxies in the environment; upper case names take precedence.

    :raises UsageError: a value is malformed.
    """
    from stacker.registry.http.proxies import Proxies

    return Proxies.parse(*proxy_variables(environ))


def proxy_variables(environ: Mapping[str, str]) -> tuple[str, str, str]:
    """Return the values of HTTP_PROXY, HTTPS_PROXY and NO_PROXY; upper case takes precedence."""
    names = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
    http, https, no_proxy = (environ.get(name) or environ.get(name.lower(), "") for name in names)
    return http, https, no_proxy


def certificate_directories(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the directories with a subdirectory of certificates for each host."""
    return f"{_user_directory(environ)}/certs.d", *_CERTIFICATES


def _user_directory(environ: Mapping[str, str]) -> Path:
    # A user without an entry in the password database and without HOME has no such directory.
    base = environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return Path(base) / "containers"


def registries_conf(named: str | None, environ: Mapping[str, str]) -> RegistriesConf:
    """Return the configuration of registries.

    :param named: the file that an option names; no other file is read then.
    :raises NotFoundError: that file is missing.
    :raises UsageError: a file is malformed.
    """
    if named:
        return read_registries_conf([named], what="--registries-conf")
    files = registries_conf_files(environ)
    return read_registries_conf(files, what="CONTAINERS_REGISTRIES_CONF")


def registries_conf_files(environ: Mapping[str, str]) -> list[Path]:
    """Return the files of containers-registries.conf(5), in order; a later one has priority."""
    if one := environ.get("CONTAINERS_REGISTRIES_CONF"):
        return [Path(one)]
    return conf_files(_SYSTEM, _user_directory(environ))


def read_registries_conf(
    files: Iterable[Path | str], *, what: str = "registries.conf"
) -> RegistriesConf:
    """Return the configuration in files, in order; a later one overrides an earlier one.

    :param what: what names the files, for messages.
    :raises NotFoundError: a file is missing.
    :raises UsageError: a file is malformed.
    """
    from stacker.registry.registries_conf import parse_registries_conf

    return parse_registries_conf((str(path), _content(path, what)) for path in files)


def _content(path: Path | str, what: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise NotFoundError(f"no such file: {what} {str(path)!r}") from None


def conf_files(system: Path, user: Path) -> list[Path]:
    """Return the files to read, in order; a later file overrides an earlier one.

    A user's registries.conf replaces the system's, including its drop-in files.
    """
    own = user / "registries.conf"
    if _is_reachable(own):
        return [own, *_drop_ins(user)]
    main = system / "registries.conf"
    return [*([main] if main.is_file() else []), *_drop_ins(system), *_drop_ins(user)]


def _is_reachable(path: Path) -> bool:
    """Return whether a file exists that this user can reach; HOME may be that of another user."""
    try:
        return path.is_file()
    except PermissionError:
        return False


def _drop_ins(directory: Path) -> list[Path]:
    try:
        found = list((directory / "registries.conf.d").glob("*.conf"))
    except PermissionError:
        return []
    return sorted(path for path in found if path.is_file())


def auth_files(named: str | None, environ: Mapping[str, str], user: int) -> list[str]:
    """Return the credential files, in the order in which they are read.

    :param named: the file that an option names; no other file is read then.
    :param user: the user ID, for the runtime directory if XDG_RUNTIME_DIR is not set.
    """
    if one := named or environ.get("REGISTRY_AUTH_FILE"):
        return [one]
    home = os.path.expanduser("~")
    runtime = environ.get("XDG_RUNTIME_DIR") or f"/run/containers/{user}"
    config = environ.get("XDG_CONFIG_HOME") or f"{home}/.config"
    docker = environ.get("DOCKER_CONFIG") or f"{home}/.docker"
    podman = "containers/auth.json" if environ.get("XDG_RUNTIME_DIR") else "auth.json"
    return [
        f"{runtime}/{podman}",
        f"{config}/containers/auth.json",
        f"{docker}/config.json",
    ]
