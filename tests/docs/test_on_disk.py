"""The tables of docs/reference/on-disk.md list every field of the records."""

from __future__ import annotations

import json
import re
from pathlib import Path

from stacker.layer.record import LayerRecord
from stacker.layer.whiteout_format import WhiteoutFormat
from tests.support.command import REPOSITORY
from tests.support.mounts import mount_record

PAGE = (REPOSITORY / "docs/reference/on-disk.md").read_text(encoding="utf-8")


def documented(heading: str) -> set[str]:
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}


def test_table_lists_the_fields_of_a_layer() -> None:
    record = LayerRecord(whiteout_format=WhiteoutFormat.TRUSTED)
    assert documented("layer.json") == set(json.loads(record.to_json()))


def test_table_lists_the_fields_of_a_mount() -> None:
    assert documented("mount.json") == set(json.loads(mount_record(Path("/mnt")).to_bytes()))
