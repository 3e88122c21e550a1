"""How registries may be reached, and how long to wait for them: choices, all with defaults.

Plain values that a caller makes and that travel to worker processes.  Nothing is reached here.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stacker.registry.http.certificates import Trust
from stacker.registry.http.proxies import Proxies
from stacker.registry.registries_conf import RegistriesConf

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Patience:
    """When a registry is too slow, and how often to try again.

    :param connect: seconds for a connection, and for TLS on it.
    :param read: seconds without a byte.
    :param commit: seconds without a byte while a registry checks what it was sent.
    :param window: seconds of waiting after which `slowest` bytes a second must have come.
    :param attempts: of each request; and of a transfer, since it last went well.
    :param backoff: seconds before the second attempt, doubled for each one after it.
    :param longest: seconds a registry may ask us to wait (``Retry-After``).
    :param wait: sleeps for so many seconds.
    """

    connect: float = 15
    read: float = 30
    commit: float = 300
    window: float = 30
    slowest: int = 1024
    attempts: int = 5
    backoff: float = 0.5
    longest: float = 120
    wait: Callable[[float], None] = time.sleep

    def pause(self, attempt: int) -> float:
        """Return the seconds to wait after attempt number `attempt`, from 1."""
        return min(self.backoff * (1 << attempt - 1), self.longest)


@dataclass(frozen=True, slots=True)
class Access:
    """How registries may be reached.

    :param insecure: plain http, and certificates nobody vouches for, are good enough.
    :param auth_files: absolute paths of files with credentials, the first that knows some counts.
    :param conf: mirrors, other locations and short names.
    :param foreign: layers that a registry lacks may be fetched from where it says.
    :param ranges: of one layer that are fetched at once; `part` are the bytes of each.
    :param proxies: who is asked to ask in our place; nobody when left out.
    :param trust: certificates beside those of the system.
    """

    insecure: bool = False
    auth_files: tuple[str, ...] = ()
    patience: Patience = field(default_factory=Patience)
    conf: RegistriesConf = field(default_factory=RegistriesConf)
    foreign: bool = False
    ranges: int = 1
    part: int = 4 << 20
    proxies: Proxies = field(default_factory=Proxies)
    trust: Trust = field(default_factory=Trust)
