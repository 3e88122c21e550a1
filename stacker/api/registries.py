"""The options of a program for registries.

Paths and strings come in; a `RegistryAccess` goes out, which workers use.  Only
`RegistryOptions.from_environment` reads the environment.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stacker.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from stacker.registry.settings import RegistryAccess


@dataclass(frozen=True, slots=True)
class RegistryOptions:
    """How to reach registries; the default is HTTPS without credentials, mirrors and proxies.

    :param insecure: allow plain HTTP and certificates of unknown CAs.  Plain HTTP to loopback
        addresses is always allowed.
    :param auth_files: credential files of podman, skopeo or docker; the first one with an entry
        for a registry counts.
    :param registries_conf: files of containers-registries.conf(5); a later one overrides an earlier
        one.
    :param cert_dir: a directory of additional certificates: ``*.crt`` of CAs, ``*.cert`` and
        ``*.key`` of clients.
    :param certs_d: directories with one such directory per ``HOST[:PORT]``.
    :param http_proxy: the URL of the proxy for plain HTTP.
    :param https_proxy: the URL of the proxy for HTTPS.
    :param no_proxy: hosts, domains, addresses and networks that are reached directly, separated
        by commas.
    :param allow_foreign: download foreign layers that the registry lacks from the URLs in the
        manifest, without credentials.
    :param ranges: parallel range requests for each layer, 4 MiB each.
    """

    insecure: bool = False
    auth_files: tuple[Path, ...] = ()
    registries_conf: tuple[Path, ...] = ()
    cert_dir: Path | None = None
    certs_d: tuple[Path, ...] = ()
    http_proxy: str = ""
    https_proxy: str = ""
    no_proxy: str = ""
    allow_foreign: bool = False
    ranges: int = 1

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> RegistryOptions:
        """Return the options that the command uses if it gets none.

        The variables are ``REGISTRY_AUTH_FILE``, ``DOCKER_CONFIG``, ``XDG_RUNTIME_DIR``,
        ``XDG_CONFIG_HOME``, ``CONTAINERS_REGISTRIES_CONF``, ``HTTP_PROXY``, ``HTTPS_PROXY`` and
        ``NO_PROXY``.

        :param environ: the variables; ``None`` for those of this process.
        """
        from stacker.registry import environment

        variables = os.environ if environ is None else environ
        http, https, no_proxy = environment.proxy_variables(variables)
        return cls(
            auth_files=_paths(environment.auth_files(None, variables, os.geteuid())),
            registries_conf=_paths(environment.registries_conf_files(variables)),
            certs_d=_paths(environment.certificate_directories(variables)),
            http_proxy=http,
            https_proxy=https,
            no_proxy=no_proxy,
        )

    def access(self) -> RegistryAccess:
        """Return the same as settings of `stacker.registry`; no part of the stable library.

        :raises NotFoundError: a file or directory does not exist.
        :raises UsageError: a file or a proxy is malformed.
        """
        from stacker.registry.environment import read_registries_conf
        from stacker.registry.http.certificates import CertificateDirectories
        from stacker.registry.http.proxies import Proxies
        from stacker.registry.settings import RegistryAccess

        if self.cert_dir is not None and not self.cert_dir.is_dir():
            raise NotFoundError(f"no such directory: cert_dir {str(self.cert_dir)!r}")
        directory = "" if self.cert_dir is None else os.path.abspath(self.cert_dir)
        return RegistryAccess(
            insecure=self.insecure,
            auth_files=tuple(map(os.path.abspath, self.auth_files)),
            registries=read_registries_conf(self.registries_conf),
            allow_foreign=self.allow_foreign,
            parallel_ranges=self.ranges,
            proxies=Proxies.parse(self.http_proxy, self.https_proxy, self.no_proxy),
            certificates=CertificateDirectories(directory, tuple(map(str, self.certs_d))),
        )


def _paths(names: Iterable[Path | str]) -> tuple[Path, ...]:
    return tuple(map(Path, names))
