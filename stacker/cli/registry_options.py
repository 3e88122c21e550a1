"""How registries are reached: options, environment and the usual places in, values out.

What is in the files is not known here.
Source: containers-registries.conf(5), "DESCRIPTION"; containers-registries.conf.d(5).
"""

from __future__ import annotations

import os
from argparse import SUPPRESS, ArgumentTypeError
from pathlib import Path
from typing import TYPE_CHECKING

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
    authfile: str = "credentials, and no others (default: $REGISTRY_AUTH_FILE, else those of "
    "podman and docker)",
) -> _ArgumentGroup:
    """Add what reaching a registry takes; return the group, for what else concerns it.

    :param authfile: what the file with credentials is for.
    """
    group = parser.add_argument_group("registries")
    add = group.add_argument
    add("--authfile", metavar="FILE", help=authfile)
    add(
        "--registries-conf",
        metavar="FILE",
        help="mirrors, locations, blocked registries and short names, and no others (default: "
        "$CONTAINERS_REGISTRIES_CONF, else those of podman)",
    )
    add(
        "--cert-dir",
        metavar="DIR",
        help="certificates: *.crt of who vouches for registries, *.cert with *.key of yours "
        "(besides those in certs.d of podman and docker)",
    )
    add(
        "--tls-verify",
        metavar="true|false",
        dest="insecure",
        type=_parse_verify,
        default=SUPPRESS,
        help="`false` is --insecure, as other programs call it",
    )
    add(
        "--insecure",
        action="store_true",
        help="take certificates nobody vouches for, and plain http (always taken from this "
        "machine)",
    )
    return group


def _parse_verify(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ArgumentTypeError(f"got {text!r}, want true or false")
    return text.lower() == "false"


def registry_access(args: Namespace, environ: Mapping[str, str], *places: str) -> RegistryAccess:
    """Return how registries may be reached, with credentials, by what `add_registries` added.

    :param places: all that is opened; when no registry is among them nothing is looked up.
    :raises NotFoundError: a file that was named is not there.
    :raises UsageError: one is malformed.
    """
    from dataclasses import replace

    from stacker.image.location import is_in_registry

    known = access(args, environ)
    if places and not any(map(is_in_registry, places)):
        return known
    return replace(anonymous_access(args, environ), auth_files=known.auth_files)


def anonymous_access(args: Namespace, environ: Mapping[str, str]) -> RegistryAccess:
    """Return how registries may be reached, without credentials; see `registry_access`."""
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
            directory, (f"{_user(environ)}/certs.d", *_CERTIFICATES)
        ),
    )


def proxies(environ: Mapping[str, str]) -> Proxies:
    """Return the proxies that the environment names, in upper or lower case.

    :raises UsageError: one is malformed.
    """
    from stacker.registry.http.proxies import Proxies

    names = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
    http, https, exempt = (environ.get(name) or environ.get(name.lower(), "") for name in names)
    return Proxies.parse(http, https, exempt)


def _user(environ: Mapping[str, str]) -> Path:
    return Path(environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "containers"


def registries_conf(named: str | None, environ: Mapping[str, str]) -> RegistriesConf:
    """Return what is said about registries.

    :param named: the one file that counts.
    :raises NotFoundError: the file that was named is not there.
    :raises UsageError: a file is malformed.
    """
    from stacker.registry.registries_conf import parse_registries_conf

    if one := named or environ.get("CONTAINERS_REGISTRIES_CONF"):
        if not os.path.exists(one):
            raise NotFoundError(f"no such file: registries.conf: {one!r}")
        return parse_registries_conf([(one, Path(one).read_bytes())])
    files = conf_files(_SYSTEM, _user(environ))
    return parse_registries_conf((str(path), path.read_bytes()) for path in files)


def conf_files(system: Path, user: Path) -> list[Path]:
    """Return the files that count, in the order in which they are read.

    A user's own registries.conf takes the place of the system's, its drop-ins included.
    """
    own = user / "registries.conf"
    if own.is_file():
        return [own, *_drop_ins(user)]
    main = system / "registries.conf"
    return [*([main] if main.is_file() else []), *_drop_ins(system), *_drop_ins(user)]


def _drop_ins(directory: Path) -> list[Path]:
    found = (directory / "registries.conf.d").glob("*.conf")
    return sorted(path for path in found if path.is_file())


# FOLDED from stacker.cli.registry_options
# """Where credentials for registries lie: options and environment in, a list of files out.
#
# What is in the files is not known here.
# Sources: containers-auth.json(5); Docker's documentation of DOCKER_CONFIG.
# """


def access(args: Namespace, environ: Mapping[str, str]) -> RegistryAccess:
    """Return how registries may be reached, by ``--insecure`` and ``--authfile``.

    :raises NotFoundError: the file that was named is not there.
    """
    from stacker.registry.settings import RegistryAccess

    if args.authfile is not None and not os.path.exists(args.authfile):
        raise NotFoundError(f"no such file: --authfile {args.authfile!r}")
    files = auth_files(args.authfile, environ, os.geteuid())
    return RegistryAccess(insecure=args.insecure, auth_files=tuple(map(os.path.abspath, files)))


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
