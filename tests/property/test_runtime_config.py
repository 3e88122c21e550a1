"""Any image config becomes a valid config.json by the conversion rules of image-spec."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stacker.image.config import ImageConfig, parse_config
from stacker.runtime.process import Overrides, make_process
from stacker.runtime.root import Root
from stacker.runtime.spec import Settings, omitted_labels, runtime_config
from tests.support.schemas import RUNTIME_SPEC, validator

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
WORDS = st.lists(TEXT.filter(bool), max_size=3)
NUMBERS = st.integers(0, (1 << 31) - 1)
PREFIX = "org.opencontainers.image."
EXECUTIONS = st.fixed_dictionaries(
    {"Cmd": st.lists(TEXT.filter(bool), min_size=1, max_size=3)},
    optional={
        "Entrypoint": WORDS,
        "Env": st.lists(TEXT | st.builds("{}={}".format, TEXT, TEXT), max_size=5),
        "WorkingDir": st.builds("/{}".format, st.text("abc./", max_size=8)),
        "User": st.builds("{}".format, NUMBERS) | st.builds("{}:{}".format, NUMBERS, NUMBERS),
        "Labels": st.dictionaries(
            st.sampled_from([f"{PREFIX}os", "run.oci.x", "a"]) | TEXT.filter(bool), TEXT, max_size=3
        ),
        "ExposedPorts": st.dictionaries(TEXT, st.just({}), max_size=3),
        "Volumes": st.dictionaries(TEXT, st.just({}), max_size=3),
        "StopSignal": TEXT,
    },
)
PLATFORMS = st.fixed_dictionaries(
    {"os": st.just("linux"), "architecture": st.sampled_from(["amd64", "arm64"])},
    optional={"variant": TEXT, "os.version": TEXT, "author": TEXT, "created": TEXT},
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Root]:
    with Root.open(tmp_path_factory.mktemp("root")) as opened:
        yield opened


@pytest.fixture(scope="module")
def schema() -> Any:
    if not RUNTIME_SPEC.is_dir():
        pytest.skip(f"no runtime-spec schemas in {RUNTIME_SPEC}")
    return validator(RUNTIME_SPEC, "config-schema.json")


@settings(max_examples=100, deadline=None)
@given(PLATFORMS, EXECUTIONS)
def test_conversion_of_any_config(
    root: Root, schema: Any, platform: dict[str, str], execution: dict[str, Any]
) -> None:
    document = {**platform, "config": execution, "rootfs": {"type": "layers", "diff_ids": []}}
    config = parse_config(json.dumps(document).encode(), "config")
    process = make_process(config.execution, Overrides(), root)
    found = json.loads(runtime_config(config, process, Settings(), None))
    schema.validate(found)
    check_process(found["process"], execution)
    check_annotations(found["annotations"], platform, execution, config)


def check_process(found: dict[str, Any], execution: dict[str, Any]) -> None:
    """Check the verbatim fields, and the user by number (conversion.md)."""
    assert found["args"] == [*execution.get("Entrypoint", []), *execution["Cmd"]]
    assert found["cwd"] == execution.get("WorkingDir", "/")
    variables = dict(entry.split("=", 1) for entry in found["env"])
    assert len(variables) == len(found["env"])
    pairs = [entry.partition("=") for entry in execution.get("Env", [])]
    for name, value in {name: value for name, equals, value in pairs if name and equals}.items():
        assert variables.pop(name) == value
    assert set(variables) <= {"PATH", "HOME"}
    uid, _, gid = execution.get("User", "0").partition(":")
    assert found["user"] == {"uid": int(uid), "gid": int(gid or 0)}


def check_annotations(
    found: dict[str, str], platform: dict[str, str], execution: dict[str, Any], config: ImageConfig
) -> None:
    """Check that labels are unchanged, and that fields have the keys of the specification."""
    labels = execution.get("Labels", {})
    kept = {key: labels[key] for key in labels if key not in omitted_labels(config)}
    fields = {**platform, "stopSignal": execution.get("StopSignal")}
    fields["exposedPorts"] = ",".join(execution.get("ExposedPorts", {}))
    fields["volumes"] = ",".join(execution.get("Volumes", {}))
    implicit = {PREFIX + key: value for key, value in fields.items() if value}
    assert found == {**implicit, **kept}
