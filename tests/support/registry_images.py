"""Images in registries: what they contain, and how tests open them."""

from __future__ import annotations

import json
import random
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from stacker.errors import (
    StackerError,
)
from stacker.image.descriptor import Descriptor
from stacker.image.digest import Digest
from stacker.registry.settings import RegistryAccess, Timeouts
from stacker.source.open import open_source
from stacker.source.protocol import Source
from tests.support.command import Stacker
from tests.support.registries import (
    PASSWORD,
    USER,
    FakeRegistry,
)
from tests.support.tars import file, tar

LARGE = random.Random(0).randbytes(1_500_000)


LAYERS = [tar(file("a", b"1"), file("large", LARGE)), tar(file("b", b"2"))]


CREDENTIALS = f"{USER}:{PASSWORD}"


def check_image(stacker: Stacker, image_id: str, tmp_path: Path) -> None:
    stacker("unpack", image_id, tmp_path / "root")
    assert (tmp_path / "root" / "large").read_bytes() == LARGE
    assert (tmp_path / "root" / "b").read_bytes() == b"2"


TIMEOUTS = Timeouts(connect=5, read=5, sleep=lambda _: None)


def announce(server: FakeRegistry, tag: str, kind: str, data: bytes) -> None:
    for name in (tag, str(Digest.of(data))):
        server.content[f"/v2/app/manifests/{name}"] = (kind, data)


def opened(
    server: FakeRegistry, rest: str = "app:1.0", *files: Path, insecure: bool = False
) -> AbstractContextManager[Source]:
    access = RegistryAccess(insecure=insecure, auth_files=tuple(map(str, files)), timeouts=TIMEOUTS)
    return open_source(f"docker://{server.host}/{rest}", spool=Path("/none"), access=access)


def refused(
    error: type[StackerError], server: FakeRegistry, *words: Any, insecure: bool = False
) -> StackerError:
    """Return the error of opening an image: one line with the registry and the repository."""
    with pytest.raises(error) as caught, opened(server, *words, insecure=insecure):
        pytest.fail("it was opened")
    assert type(caught.value) is error
    assert f"{server.host}/app" in caught.value.message
    assert caught.value.message.isprintable()
    assert PASSWORD not in caught.value.message + str(caught.value.hint)
    return caught.value


def read_everything(source: Source) -> None:
    manifest = json.loads(source.document(source.root()))
    config = Descriptor.from_json(manifest["config"], "config")
    assert source.document(config) == source.document(config)
    for layer in manifest["layers"]:
        descriptor = Descriptor.from_json(layer, "layer")
        with source.open_blob(descriptor) as blob:
            descriptor.verify(blob.read(), "layer")
