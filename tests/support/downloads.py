"""One blob in a registry, and downloads of it from a server that fails."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from stacker.image.descriptor import Descriptor
from stacker.image.digest import Digest
from stacker.image.mediatype import OCI_LAYER
from stacker.registry.client import Client
from stacker.registry.settings import RegistryAccess, Timeouts
from stacker.source.registry_image import RegistryImage
from tests.support.registries import FakeRegistry, Handler

CONTENT = random.Random(0).randbytes(400_000)


DESCRIPTOR = Descriptor(OCI_LAYER, Digest.of(CONTENT), len(CONTENT))


PATH = f"/v2/app/blobs/{DESCRIPTOR.digest}"


Quirk = Callable[[Handler], bool]


@contextmanager
def source_of(server: FakeRegistry, timeouts: Timeouts) -> Iterator[RegistryImage]:
    """Yield a source that has only a client."""
    client = Client(
        f"http://{server.host}", "app", access=RegistryAccess(timeouts=timeouts), credentials=None
    )
    try:
        yield RegistryImage(client, DESCRIPTOR, ())
    finally:
        client.close()


def fetch(server: FakeRegistry, timeouts: Timeouts, descriptor: Descriptor = DESCRIPTOR) -> bytes:
    with source_of(server, timeouts) as source, source.open_blob(descriptor) as blob:
        return b"".join(iter(lambda: blob.read(50_000), b""))


def times(count: int, quirk: Callable[[Handler], Any]) -> Quirk:
    """Return a quirk for the first `count` requests."""
    left = [count]

    def limited(request: Handler) -> bool:
        left[0] -= 1
        if left[0] < 0:
            return False
        quirk(request)
        return True

    return limited


def always(quirk: Callable[[Handler], Any]) -> Quirk:
    return times(1000, quirk)


def ranges(server: FakeRegistry) -> list[str]:
    return [asked.headers.get("range", "") for asked in server.asked]
