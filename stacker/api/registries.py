"""The options of a program for registries, and the functions that use them without `api.store`.

Paths and strings come in; a `RegistryAccess` goes out, which workers use; or a location comes in,
and an open source goes out.  Only `RegistryOptions.from_environment` reads the environment.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from stacker.api.options import host_platform, ignore, jobs_or_all, platform_of, umask_or_own
from stacker.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import BinaryIO

    from stacker.events import Emit
    from stacker.image.platform import Platform
    from stacker.operations.copy import Copied
    from stacker.registry.settings import RegistryAccess
    from stacker.source.protocol import Source
    from stacker.store.store import Store
    from stacker.tar.limits import Limits


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
    :param credentials: a user name and a password for the registry of a source or a destination;
        `auth_files` do not count then.
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
    credentials: tuple[str, str] | None = field(default=None, repr=False)

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

    def access(self, location: str = "") -> RegistryAccess:
        """Return these options as settings of `stacker.registry`; programs must not call this.

        :param location: what the settings are for; `credentials` belong to its registry.
        :raises NotFoundError: a file or directory does not exist.
        :raises UsageError: a file or a proxy is malformed.
        """
        from stacker.image.location import is_in_registry
        from stacker.registry.credentials import Credentials
        from stacker.registry.environment import read_registries_conf
        from stacker.registry.http.certificates import CertificateDirectories
        from stacker.registry.http.proxies import Proxies
        from stacker.registry.settings import RegistryAccess

        if self.cert_dir is not None and not self.cert_dir.is_dir():
            raise NotFoundError(f"no such directory: cert_dir {str(self.cert_dir)!r}")
        directory = "" if self.cert_dir is None else os.path.abspath(self.cert_dir)
        access = RegistryAccess(
            insecure=self.insecure,
            auth_files=tuple(map(os.path.abspath, self.auth_files)),
            registries=read_registries_conf(self.registries_conf),
            allow_foreign=self.allow_foreign,
            parallel_ranges=self.ranges,
            proxies=Proxies.parse(self.http_proxy, self.https_proxy, self.no_proxy),
            certificates=CertificateDirectories(directory, tuple(map(str, self.certs_d))),
        )
        if self.credentials is None or not is_in_registry(location):
            return access
        login = _host_of(location, access), Credentials(*self.credentials)
        return replace(access, auth_files=(), login=login)


def access_for(registries: RegistryOptions, location: str) -> RegistryAccess:
    """Return the settings for a location; those for a file load no code for registries."""
    from stacker.image.location import is_in_registry
    from stacker.registry.settings import RegistryAccess

    return registries.access(location) if is_in_registry(location) else RegistryAccess()


def _host_of(location: str, access: RegistryAccess) -> str:
    """Return the host that serves a repository, which mirrors do not change."""
    from stacker.image.location import REGISTRY_TRANSPORT
    from stacker.image.reference import Reference

    text = access.registries.expand_short_name(location.removeprefix(REGISTRY_TRANSPORT))
    return access.registries.primary(Reference.parse(text)).reference.host


def copy_image(
    source: str,
    destination: str,
    *,
    platform: Platform | str | None = None,
    whole_index: bool = False,
    registries: RegistryOptions | None = None,
    destination_registries: RegistryOptions | None = None,
    limits: Limits | None = None,
    temporary: Path | str | None = None,
    umask: int | None = None,
    stdout: BinaryIO | None = None,
    jobs: int | None = None,
    on_event: Emit = ignore,
) -> Copied:
    """Copy an image byte for byte, without a store.

    :param source: as for `Store.pull`.
    :param destination: as for `Store.push`.
    :param platform: which image of an index; ``None`` for the best match for this machine.
    :param whole_index: copy the index with all its images.
    :param registries: how to reach registries; ``None`` for `RegistryOptions()`.
    :param destination_registries: how to reach the destination; ``None`` for `registries`.
    :param limits: only `archive_ratio` counts; ``None`` for `Limits()`.
    :param temporary: the directory for a decompressed archive; ``None`` for that of `tempfile`.
    :param umask: the permissions that new files do not get; ``None`` for the umask of the process.
    :param stdout: receives an archive with the path ``-``.
    :param jobs: blobs to send at the same time; ``None`` for one for each processor.
    :raises NotFoundError: the source has no such image.
    :raises IntegrityError: a document or a blob differs from its digest.
    :raises NetworkError: a registry cannot be reached.
    """
    import tempfile

    from stacker.operations.copy import copy_between
    from stacker.source.identify import complete_destination, complete_source
    from stacker.tar.limits import Limits

    source, destination = complete_source(source), complete_destination(destination)
    wanted, registries = platform_of(platform), registries or RegistryOptions()
    return copy_between(
        source,
        destination,
        platform=None if whole_index else wanted or host_platform(),
        must_match=wanted is not None,
        access=access_for(registries, source),
        destination_access=access_for(destination_registries or registries, destination),
        spool=Path(temporary or tempfile.gettempdir()),
        umask=umask_or_own(umask),
        jobs=jobs_or_all(jobs),
        emit=on_event,
        archive_ratio=(limits or Limits()).archive_ratio,
        stdout=stdout,
    )


def list_tags(repository: str, *, registries: RegistryOptions | None = None) -> list[str]:
    """Return all tags of a repository, in the order of the registry.

    :param repository: ``[docker://][HOST[:PORT]/]REPO``.
    :param registries: how to reach registries; ``None`` for `RegistryOptions()`.
    :raises UsageError: the name is not that of a repository in a registry.
    :raises NotFoundError: the registry has no such repository.
    :raises NetworkError: the registry cannot be reached.
    """
    from stacker.registry.tags import tags_of
    from stacker.source.identify import complete_source

    return tags_of(complete_source(repository), (registries or RegistryOptions()).access())[1]


@contextmanager
def open_for(
    store: Store, registries: RegistryOptions, limits: Limits, location: str
) -> Iterator[Source]:
    """Open a source, with a directory of the store for what it decompresses."""
    from stacker.image.location import is_in_registry
    from stacker.source.open import open_source

    access = registries.access(location) if is_in_registry(location) else None
    ratio = limits.archive_ratio
    with (
        store.staging.directory("spool") as spool,
        open_source(location, spool=spool, access=access, archive_ratio=ratio) as source,
    ):
        yield source


def _paths(names: Iterable[Path | str]) -> tuple[Path, ...]:
    return tuple(map(Path, names))
