"""TLS trust: CA certificates for registries, and our client certificates.

A host and a port come in; paths of certificate files go out.  OpenSSL reads those files later.
This module does not parse certificates or open connections.
Source: containers-certs.d(5): ``*.crt`` are CA certificates besides those of the system, a
``*.cert`` with the ``*.key`` of the same name is a client certificate.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from stacker.errors import UsageError

_HTTPS = 443


@dataclass(frozen=True, slots=True)
class Certificates:
    """Paths of certificate files for one host.

    :param authorities: CA certificates.
    :param pairs: client certificates, each with its key.
    """

    authorities: tuple[str, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class CertificateDirectories:
    """Directories with certificate files.

    :param directory: its CA certificates count for every host, its client certificates for the
        registry only.
    :param per_host: directories that have a subdirectory per ``HOST[:PORT]``; the first one with
        a subdirectory for the host counts.
    """

    directory: str = ""
    per_host: tuple[str, ...] = field(default=())

    def certificates_for(self, host: str, port: int, *, is_registry: bool) -> Certificates:
        """Return the certificates for a host.

        :param is_registry: the host is the registry, not a host that it redirects to.
        :raises UsageError: a certificate without its key, or a key without its certificate.
        """
        general = read_directory(self.directory) if self.directory else Certificates()
        own = self._host_certificates(host, port)
        pairs = general.pairs if is_registry else ()
        return Certificates(general.authorities + own.authorities, pairs + own.pairs)

    def _host_certificates(self, host: str, port: int) -> Certificates:
        name = f"[{host}]" if ":" in host else host
        names = [f"{name}:{port}", name] if port == _HTTPS else [f"{name}:{port}"]
        for parent in self.per_host:
            for subdirectory in names:
                if os.path.isdir(path := os.path.join(parent, subdirectory)):
                    return read_directory(path)
        return Certificates()


def read_directory(directory: str) -> Certificates:
    """Return the certificate files in a directory, none if it is missing or not readable.

    :raises UsageError: a certificate without its key, or a key without its certificate.
    """
    try:
        names = sorted(os.listdir(directory))
    except (PermissionError, FileNotFoundError):
        return Certificates()
    _check_pairs(names, directory)
    paths = {name: os.path.join(directory, name) for name in names}
    return Certificates(
        tuple(path for name, path in paths.items() if name.endswith(".crt")),
        tuple(
            (path, paths[name.removesuffix(".cert") + ".key"])
            for name, path in paths.items()
            if name.endswith(".cert")
        ),
    )


def _check_pairs(names: list[str], directory: str) -> None:
    for suffix, other in ((".cert", ".key"), (".key", ".cert")):
        for name in names:
            partner = name.removesuffix(suffix) + other
            if name.endswith(suffix) and partner not in names:
                path = os.path.join(directory, name)
                raise UsageError(
                    f"incomplete client certificate: {path!r}: got no {partner!r}, want both"
                )
