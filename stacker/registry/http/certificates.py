"""Whom to believe that they are a registry, and who we are to it: certificates in directories.

In come a host and a port, out come files.  What is in them OpenSSL reads; no connection is made
here.
Source: containers-certs.d(5): ``*.crt`` vouch for a registry beside those of the system, a
``*.cert`` with the ``*.key`` of the same name is ours.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from stacker.errors import UsageError

_HTTPS = 443


@dataclass(frozen=True, slots=True)
class Certificates:
    """Files with certificates.

    :param authorities: who may vouch for a host.
    :param pairs: certificates of ours, each with its key.
    """

    authorities: tuple[str, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class CertificateDirectories:
    """Where certificates lie.

    :param directory: those in it count for everybody; ours are shown to the registry only.
    :param places: directories with a directory for each ``HOST[:PORT]``; the first with one counts.
    """

    directory: str = ""
    places: tuple[str, ...] = field(default=())

    def certificates_for(self, host: str, port: int, *, is_home: bool) -> Certificates:
        """Return what counts for a host.

        :param is_home: it is the registry itself, and not where it sends us.
        :raises UsageError: a certificate lacks its key, or a key its certificate.
        """
        general = read_directory(self.directory) if self.directory else Certificates()
        own = self._own(host, port)
        shown = general.pairs if is_home else ()
        return Certificates(general.authorities + own.authorities, shown + own.pairs)

    def _own(self, host: str, port: int) -> Certificates:
        name = f"[{host}]" if ":" in host else host
        names = [f"{name}:{port}", name] if port == _HTTPS else [f"{name}:{port}"]
        for place in self.places:
            for one in names:
                if os.path.isdir(directory := os.path.join(place, one)):
                    return read_directory(directory)
        return Certificates()


def read_directory(directory: str) -> Certificates:
    """Return what a directory has; one that may not be read has nothing.

    :raises UsageError: a certificate lacks its key, or a key its certificate.
    """
    try:
        names = sorted(os.listdir(directory))
    except (PermissionError, FileNotFoundError):
        return Certificates()
    for name, other in ((".cert", ".key"), (".key", ".cert")):
        for found in names:
            partner = found.removesuffix(name) + other
            if found.endswith(name) and partner not in names:
                path = os.path.join(directory, found)
                raise UsageError(f"half a certificate: {path!r}: got no {partner!r} beside it")
    paths = {name: os.path.join(directory, name) for name in names}
    return Certificates(
        tuple(path for name, path in paths.items() if name.endswith(".crt")),
        tuple(
            (path, paths[name.removesuffix(".cert") + ".key"])
            for name, path in paths.items()
            if name.endswith(".cert")
        ),
    )
