"""Options for registries: credentials, registries.conf, certificates and proxies.

Parsed options and the environment come in; `RegistryOptions` go out, and `Limits`.
`RegistryOptions.from_environment` finds the files that no option names.
"""

from __future__ import annotations

import os
from argparse import SUPPRESS, ArgumentTypeError, Namespace
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from stacker.api.registries import RegistryOptions, access_for
from stacker.cli.help import parse_time
from stacker.cli.options import limits_of
from stacker.errors import NotFoundError
from stacker.tar.limits import Limits

if TYPE_CHECKING:
    from argparse import ArgumentParser, _ArgumentGroup
    from collections.abc import Mapping

    from stacker.api.config import Config
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


def side_options(args: Namespace, environ: Mapping[str, str], side: str) -> RegistryOptions:
    """Return the options for one side of a copy; see `add_sides`.

    :param side: ``src`` or ``dest``.
    :raises NotFoundError: a file that an option names is missing.
    """
    own = Namespace(**vars(args))
    for name in ("authfile", "cert_dir", "insecure"):
        value = getattr(args, f"{side}_{name}")
        setattr(own, name, getattr(args, name) if value is None else value)
    options = replace(registry_options(own, environ), credentials=getattr(args, f"{side}_creds"))
    return replace(options, auth_files=()) if getattr(args, f"{side}_no_creds") else options


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


def registry_options(args: Namespace | None, environ: Mapping[str, str]) -> RegistryOptions:
    """Return the options for registries.

    :param args: those that `add_registries` adds, if the verb has them.
    :raises NotFoundError: a file or directory that an option names is missing.
    """
    options = RegistryOptions.from_environment(environ)
    if args is None or not hasattr(args, "authfile"):
        return options
    if args.cert_dir is not None:
        _check_certificates(args.cert_dir)
    auth_file = _named_file("--authfile", args.authfile)
    conf = _named_file("--registries-conf", args.registries_conf)
    return replace(
        options,
        insecure=args.insecure,
        auth_files=auth_file or options.auth_files,
        registries_conf=conf or options.registries_conf,
        cert_dir=None if args.cert_dir is None else Path(args.cert_dir),
        allow_foreign=getattr(args, "allow_foreign", False),
        ranges=getattr(args, "ranges", 1),
    )


def _named_file(option: str, path: str | None) -> tuple[Path, ...]:
    if path is None:
        return ()
    if not os.path.exists(path):
        raise NotFoundError(f"no such file: {option} {path!r}")
    return (Path(path),)


def registry_access(
    args: Namespace, environ: Mapping[str, str], location: str = ""
) -> RegistryAccess:
    """Return the same as `registry_options`, for verbs that use no `Store`.

    :param location: what the verb opens, if it opens one thing only.
    :raises NotFoundError: a file that an option names is missing.
    :raises UsageError: a file is malformed.
    """
    options = registry_options(args, environ)
    return access_for(options, location) if location else options.access()


def anonymous_access(args: Namespace, environ: Mapping[str, str]) -> RegistryAccess:
    """Return the settings for registries, without credentials.

    :raises NotFoundError: a file or directory that an option names is missing.
    :raises UsageError: a file or a variable is malformed.
    """
    own = Namespace(**{**vars(args), "authfile": None})
    return replace(registry_options(own, environ), auth_files=()).access()


def limits_or_configured(args: Namespace | None, config: Config | None) -> Limits:
    """Return the limits of a verb; without options for limits, those of the configuration files."""
    if args is not None and hasattr(args, "max_bytes"):
        return limits_of(args)
    return Limits() if config is None else config.limits()


def _check_certificates(directory: str) -> None:
    """Refuse a directory without a file that `read_directory` would use."""
    if not os.path.isdir(directory):
        raise NotFoundError(f"no such directory: --cert-dir {directory!r}")
    names = os.listdir(directory)
    if not any(name.endswith((".crt", ".cert", ".key")) for name in names):
        got = ", ".join(map(repr, sorted(names)[:3])) or "an empty directory"
        raise NotFoundError(
            f"no certificate: --cert-dir {directory!r}: got {got}, want *.crt, or *.cert and *.key",
            hint="rename the CA certificate to NAME.crt, as containers-certs.d(5) requires",
        )
