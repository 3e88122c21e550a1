"""Options for registries: credentials, registries.conf, certificates and proxies.

Parsed options and the environment come in; a `RegistryAccess` goes out.  This module looks for the
files where podman, skopeo and docker keep them.  It must not parse them.
Sources: containers-registries.conf(5), "DESCRIPTION"; containers-registries.conf.d(5);
containers-auth.json(5); containers-certs.d(5); Docker's documentation of DOCKER_CONFIG.
"""

from __future__ import annotations

import os
from argparse import SUPPRESS, ArgumentTypeError
from pathlib import Path
from typing import TYPE_CHECKING

from stacker.cli.help import parse_time
from stacker.errors import NotFoundError

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace, _ArgumentGroup
    from collections.abc import Mapping

    from stacker.registry.http.proxies import Proxies
    from stacker.registry.registries_conf import RegistriesConf
    from stacker.registry.settings import RegistryAccess


_SYSTEM = Path("/etc/containers")
_CERTIFICATES = ("/etc/containers/certs.d", "/etc/docker/certs.d")


def add_registries(
    parser: ArgumentParser,
    authfile: str = "authentication file (default: $REGISTRY_AUTH_FILE, else the files of podman "
    "and docker)",
) -> _ArgumentGroup:
    """Add the options for registries, and return their group.

    :param authfile: the help text of --authfile.
    """
    group = parser.add_argument_group("registries")
    add = group.add_argument
    add("--authfile", metavar="FILE", help=authfile)
    add(
        "--registries-conf",
        metavar="FILE",
        help="registries.conf file (default: $CONTAINERS_REGISTRIES_CONF, else the files of "
        "podman)",
    )
    add(
        "--cert-dir",
        metavar="DIR",
        help="directory of additional certificates: *.crt of CAs, *.cert and *.key of clients "
        "(default: only the CAs of the system, and certs.d)",
    )
    add(
        "--tls-verify",
        metavar="true|false",
        dest="insecure",
        type=_parse_tls_verify,
        default=SUPPRESS,
        help="require HTTPS and verify certificates (default: true); false is the same as "
        "--insecure",
    )
    add(
        "--insecure",
        action="store_true",
        help="allow plain HTTP and certificates of unknown CAs (plain HTTP to loopback addresses "
        "is always allowed)",
    )
    return group


def add_timeout(group: _ArgumentGroup) -> None:
    """Add the limit on the time of a whole command."""
    group.add_argument(
        "--timeout",
        metavar="TIME",
        type=parse_time,
        default=0,
        help="end the command with exit code 10 if it takes longer than TIME, such as 90s, 30m or "
        "2h (default: 0, no limit)",
    )


def _parse_tls_verify(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ArgumentTypeError(f"got {text!r}, want true or false")
    return text.lower() == "false"


def registry_access(args: Namespace, environ: Mapping[str, str], *locations: str) -> RegistryAccess:
    """Return the settings for registries, from the options that `add_registries` adds.

    :param locations: all locations that the verb opens; without a registry among them, only
        the credential files are looked up.
    :raises NotFoundError: a file that an option names is missing.
    :raises UsageError: a file is malformed.
    """
    from dataclasses import replace

    from stacker.image.location import is_in_registry

    with_credentials = _credential_access(args, environ)
    if locations and not any(map(is_in_registry, locations)):
        return with_credentials
    return replace(anonymous_access(args, environ), auth_files=with_credentials.auth_files)


def anonymous_access(args: Namespace, environ: Mapping[str, str]) -> RegistryAccess:
    """Return the settings for registries, without credentials.

    :raises NotFoundError: a file or directory that an option names is missing.
    :raises UsageError: a file or a variable is malformed.
    """
    from stacker.registry.http.certificates import CertificateDirectories
    from stacker.registry.settings import RegistryAccess

    if args.cert_dir is not None and not os.path.isdir(args.cert_dir):
        raise NotFoundError(f"no such directory: --cert-dir {args.cert_dir!r}")
    directory = os.path.abspath(args.cert_dir) if args.cert_dir else ""
    return RegistryAccess(
        insecure=args.insecure,
        registries=registries_conf(args.registries_conf, environ),
        proxies=proxies(environ),
        certificates=CertificateDirectories(
            directory, (f"{_user_directory(environ)}/certs.d", *_CERTIFICATES)
        ),
    )


def _credential_access(args: Namespace, environ: Mapping[str, str]) -> RegistryAccess:
    """Return the settings for registries, from --insecure and --authfile only.

    :raises NotFoundError: the file that --authfile names is missing.
    """
    from stacker.registry.settings import RegistryAccess

    if args.authfile is not None and not os.path.exists(args.authfile):
        raise NotFoundError(f"no such file: --authfile {args.authfile!r}")
    files = auth_files(args.authfile, environ, os.geteuid())
    return RegistryAccess(insecure=args.insecure, auth_files=tuple(map(os.path.abspath, files)))


def proxies(environ: Mapping[str, str]) -> Proxies:
    """Return the proxies in the environment; upper case names take precedence.

    :raises UsageError: a value is malformed.
    """
    from stacker.registry.http.proxies import Proxies

    names = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
    http, https, no_proxy = (environ.get(name) or environ.get(name.lower(), "") for name in names)
    return Proxies.parse(http, https, no_proxy)


def _user_directory(environ: Mapping[str, str]) -> Path:
    return Path(environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "containers"


def registries_conf(named: str | None, environ: Mapping[str, str]) -> RegistriesConf:
    """Return the configuration of registries.

    :param named: the file that an option names; no other file is read then.
    :raises NotFoundError: that file is missing.
    :raises UsageError: a file is malformed.
    """
    from stacker.registry.registries_conf import parse_registries_conf

    if one := named or environ.get("CONTAINERS_REGISTRIES_CONF"):
        if not os.path.exists(one):
            option = "--registries-conf" if named else "CONTAINERS_REGISTRIES_CONF"
            raise NotFoundError(f"no such file: {option} {one!r}")
        return parse_registries_conf([(one, Path(one).read_bytes())])
    files = conf_files(_SYSTEM, _user_directory(environ))
    return parse_registries_conf((str(path), path.read_bytes()) for path in files)


def conf_files(system: Path, user: Path) -> list[Path]:
    """Return the files to read, in order; a later file overrides an earlier one.

    A user's registries.conf replaces the system's, including its drop-in files.
    """
    own = user / "registries.conf"
    if own.is_file():
        return [own, *_drop_ins(user)]
    main = system / "registries.conf"
    return [*([main] if main.is_file() else []), *_drop_ins(system), *_drop_ins(user)]


def _drop_ins(directory: Path) -> list[Path]:
    found = (directory / "registries.conf.d").glob("*.conf")
    return sorted(path for path in found if path.is_file())


def auth_files(named: str | None, environ: Mapping[str, str], user: int) -> list[str]:
    """Return the credential files, in the order in which they are read.

    :param named: the file that an option names; no other file is read then.
    :param user: the user ID, for the runtime directory if XDG_RUNTIME_DIR is not set.
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
