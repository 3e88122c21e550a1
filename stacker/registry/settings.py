"""Settings for requests to registries: credentials, mirrors, proxies, certificates and timeouts.

The caller makes these values, and they travel to worker processes by pickle.  Every setting has a
default.  This module does not read files or open connections.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stacker.registry.http.certificates import CertificateDirectories
from stacker.registry.http.proxies import Proxies
from stacker.registry.registries_conf import RegistriesConf

if TYPE_CHECKING:
    from collections.abc import Callable

    from stacker.registry.credentials import Credentials


@dataclass(frozen=True, slots=True)
class Timeouts:
    """When a request counts as failed, and how often it is repeated.

    :param connect: seconds for a TCP connection and its TLS handshake.
    :param read: seconds without a byte.
    :param commit: seconds without a byte while a registry verifies an upload.
    :param rate_window: seconds over which the transfer rate is measured.
    :param min_rate: bytes per second that a transfer must reach.
    :param attempts: attempts per request; in a transfer, attempts since the last progress.
    :param backoff: seconds before the second attempt; doubled before each further one.
    :param max_wait: the longest ``Retry-After`` in seconds that is obeyed.
    :param sleep: sleeps for a number of seconds.
    """

    connect: float = 15
    read: float = 30
    commit: float = 300
    rate_window: float = 30
    min_rate: int = 1024
    attempts: int = 5
    backoff: float = 0.5
    max_wait: float = 120
    sleep: Callable[[float], None] = time.sleep

    def pause(self, attempt: int) -> float:
        """Return the seconds to wait after attempt number `attempt`, counted from 1."""
        return min(self.backoff * (1 << attempt - 1), self.max_wait)


@dataclass(frozen=True, slots=True)
class RegistryAccess:
    """The settings for requests to registries.

    :param insecure: accept plain HTTP and certificates of unknown CAs.
    :param login: credentials and the only host that gets them; it needs no credential file.
    :param auth_files: absolute paths of credential files; the first one with an entry counts.
    :param registries: mirrors, other locations, blocked registries and short names.
    :param allow_foreign: fetch layers that the registry lacks from the URLs in their descriptors.
    :param parallel_ranges: concurrent range requests per layer.
    :param range_bytes: bytes of each range request.
    :param proxies: proxies by URL scheme.
    :param certificates: directories with certificates, besides those of the system.
    """

    insecure: bool = False
    auth_files: tuple[str, ...] = ()
    login: tuple[str, Credentials] | None = None
    timeouts: Timeouts = field(default_factory=Timeouts)
    registries: RegistriesConf = field(default_factory=RegistriesConf)
    allow_foreign: bool = False
    parallel_ranges: int = 1
    range_bytes: int = 4 << 20
    proxies: Proxies = field(default_factory=Proxies)
    certificates: CertificateDirectories = field(default_factory=CertificateDirectories)
