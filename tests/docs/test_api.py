"""The page about the library: its examples run, and it lists every stable name once."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

import stacker
from stacker import Store
from tests.support import images, runtimes
from tests.support.command import REPOSITORY
from tests.support.mounts import unmount_below
from tests.support.registries import debian_registry
from tests.support.sample import BASE, MIDDLE, TOP

PAGE = (REPOSITORY / "docs/reference/api.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts: needs root")
@pytest.mark.usefixtures("alone_among_mounts")
def test_examples_of_the_library_run_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not shutil.which("docker-registry"):
        pytest.skip("no docker-registry: scripts/test installs it")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mnt").mkdir()
    layout = images.layout(tmp_path / "app", [BASE, MIDDLE, TOP, runtimes.busybox()])
    names: dict[str, Any] = {}
    output = io.StringIO()
    with debian_registry(tmp_path / "registry") as host, contextlib.redirect_stdout(output):
        stacker.copy_image(layout.source, f"docker://{host}/app:1.0")
        for example in EXAMPLES:
            here = example.replace("registry.example", host).replace('"/mnt', f'"{tmp_path}/mnt')
            here = here.replace("/srv/store", f"{tmp_path}/store")
            exec(compile(here, "api.md", "exec"), names)
    unmount_below(tmp_path)
    image_id = layout.image.config
    assert output.getvalue().splitlines()[0] == f"overlay {image_id} ('/bin/sh',)"
    assert "NotFoundError 3 no such image: 'nothing'" in output.getvalue()
    assert str([image_id]) in output.getvalue()
    assert [image.config.env for image in Store.open(tmp_path / "store").images()] == [
        ("PATH=/bin",),
        ("PATH=/bin", "LANG=C"),
    ]
    assert (tmp_path / "app.tar").exists()
    assert (tmp_path / "layout/index.json").exists()


def test_the_page_lists_every_stable_name_once() -> None:
    headings = re.findall(r"^### (\w+)$", PAGE, re.MULTILINE)
    assert sorted(headings) == sorted(stacker.__all__)


def test_the_page_lists_every_public_method() -> None:
    for kind in (stacker.Store, stacker.Mount, stacker.Image):
        public = {name for name in dir(kind) if not name.startswith("_")}
        fields = set(getattr(kind, "__dataclass_fields__", {}))
        for name in public - fields:
            assert f"\n#### {kind.__name__}.{name}\n" in PAGE
