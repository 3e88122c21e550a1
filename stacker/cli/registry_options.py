"""Options for registries: credentials, registries.conf, certificates and proxies.

Parsed options and the environment come in; a `RegistryAccess` goes out.
`stacker.registry.environment` finds the files that no option names.
"""

from __future__ import annotations

import os
from argparse import SUPPRESS, ArgumentTypeError
from typing import TYPE_CHECKING

from stacker.cli.help import parse_time
from stacker.errors import NotFoundError
from stacker.image.location import REGISTRY_TRANSPORT, is_in_registry

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace, _ArgumentGroup
    from collections.abc import Mapping

    from stacker.registry.credentials import Credentials
    from stacker.registry.settings import RegistryAccess


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


def add_sides(parser: ArgumentParser) -> None:
    """Add the options of ``copy`` that hold for one side only, as skopeo spells them."""
    for side, what in (("src", "SOURCE"), ("dest", "DEST")):
        group = parser.add_argument_group(f"registry of {what}")
        add = group.add_argument
        add(f"--{side}-authfile", metavar="FILE", help=f"as --authfile, for {what} only")
        login = group.add_mutually_exclusive_group()
        login.add_argument(
            f"--{side}-creds",
            metavar="USER[:PASSWORD]",
            type=_parse_credentials,
            help=f"credentials for {what}; other users of this machine can see them in ps(1)",
        )
        login.add_argument(
            f"--{side}-no-creds", action="store_true", help=f"send no credentials to {what}"
        )
        add(f"--{side}-cert-dir", metavar="DIR", help=f"as --cert-dir, for {what} only")
        add(
            f"--{side}-tls-verify",
            metavar="true|false",
            dest=f"{side}_insecure",
            type=_parse_tls_verify,
            help=f"as --tls-verify, for {what} only",
        )


def _parse_credentials(text: str) -> tuple[str, str]:
    user, _, password = text.partition(":")
    if not user:
        raise ArgumentTypeError("got no user, want USER[:PASSWORD]")
    return user, password


def side_access(
    args: Namespace, environ: Mapping[str, str], side: str, location: str
) -> RegistryAccess:
    """Return the settings for one side of a copy; see `add_sides`.

    :param side: ``src`` or ``dest``.
    :raises NotFoundError: a file that an option names is missing.
    :raises UsageError: a file or the location is malformed.
    """
    from argparse import Namespace as Options
    from dataclasses import replace

    own = Options(**vars(args))
    for name in ("authfile", "cert_dir", "insecure"):
        value = getattr(args, f"{side}_{name}")
        setattr(own, name, getattr(args, name) if value is None else value)
    access = registry_access(own, environ, location)
    credentials = getattr(args, f"{side}_creds")
    if credentials is not None and is_in_registry(location):
        return replace(access, auth_files=(), login=_login(access, location, credentials))
    return replace(access, auth_files=()) if getattr(args, f"{side}_no_creds") else access


def _login(
    access: RegistryAccess, location: str, credentials: tuple[str, str]
) -> tuple[str, Credentials]:
    from stacker.image.reference import Reference
    from stacker.registry.credentials import Credentials

    text = access.registries.expand_short_name(location.removeprefix(REGISTRY_TRANSPORT))
    address = access.registries.primary(Reference.parse(text))
    return address.reference.host, Credentials(*credentials)


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

    with_credentials = _credential_access(args, environ)
    if locations and not any(map(is_in_registry, locations)):
        return with_credentials
    return replace(anonymous_access(args, environ), auth_files=with_credentials.auth_files)


def anonymous_access(args: Namespace, environ: Mapping[str, str]) -> RegistryAccess:
    """Return the settings for registries, without credentials.

    :raises NotFoundError: a file or directory that an option names is missing.
    :raises UsageError: a file or a variable is malformed.
    """
    from stacker.registry.environment import certificate_directories, proxies, registries_conf
    from stacker.registry.http.certificates import CertificateDirectories
    from stacker.registry.settings import RegistryAccess

    if args.cert_dir is not None and not os.path.isdir(args.cert_dir):
        raise NotFoundError(f"no such directory: --cert-dir {args.cert_dir!r}")
    if args.cert_dir is not None:
        _check_certificates(args.cert_dir)
    directory = os.path.abspath(args.cert_dir) if args.cert_dir else ""
    return RegistryAccess(
        insecure=args.insecure,
        registries=registries_conf(args.registries_conf, environ),
        proxies=proxies(environ),
        certificates=CertificateDirectories(directory, certificate_directories(environ)),
    )


def _check_certificates(directory: str) -> None:
    """Refuse a directory without a file that `read_directory` would use."""
    names = os.listdir(directory)
    if not any(name.endswith((".crt", ".cert", ".key")) for name in names):
        got = ", ".join(map(repr, sorted(names)[:3])) or "an empty directory"
        raise NotFoundError(
            f"no certificate: --cert-dir {directory!r}: got {got}, want *.crt, or *.cert and *.key",
            hint="rename the CA certificate to NAME.crt, as containers-certs.d(5) requires",
        )


def _credential_access(args: Namespace, environ: Mapping[str, str]) -> RegistryAccess:
    """Return the settings for registries, from --insecure and --authfile only.

    :raises NotFoundError: the file that --authfile names is missing.
    """
    from stacker.registry.environment import auth_files
    from stacker.registry.settings import RegistryAccess

    if args.authfile is not None and not os.path.exists(args.authfile):
        raise NotFoundError(f"no such file: --authfile {args.authfile!r}")
    files = auth_files(args.authfile, environ, os.geteuid())
    return RegistryAccess(insecure=args.insecure, auth_files=tuple(map(os.path.abspath, files)))
