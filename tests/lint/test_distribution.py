"""The sdist and the wheel hold what a build or an installation needs, and nothing more."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email import message_from_bytes
from pathlib import Path, PurePosixPath

import pytest

from hatch_build import index_page

ROOT = Path(__file__).parents[2]
MODULES = {str(path.relative_to(ROOT)) for path in (ROOT / "stacker").rglob("*.py*")}
MODULES = {name for name in MODULES if not name.endswith(".pyc")} - {"stacker/py.typed"}
MODULES |= {"stacker/containerd/generated/LICENSE"}
MANUALS = {f"man/{path.name}" for path in (ROOT / "man").iterdir()}
COMPLETIONS = {f"completions/{name}" for name in ("stacker.bash", "_stacker", "stacker.fish")}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build both distributions."""
    directory = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-t", "wheel"]
    subprocess.run([*command, "-d", str(directory)], cwd=ROOT, check=True, capture_output=True)
    return directory


def test_the_sdist_has_what_a_build_needs(built: Path) -> None:
    [path] = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        paths = map(PurePosixPath, archive.getnames())
        names = {str(PurePosixPath(*path.parts[1:])) for path in paths}
    documents = {"README.md", "CHANGELOG.md", "LICENSE", "pyproject.toml", "PKG-INFO"}
    documents |= {"hatch_build.py"}
    ignored = {".gitignore"}  # hatchling adds it to every sdist
    assert names - ignored == documents | MODULES | MANUALS | COMPLETIONS | {"stacker/py.typed"}


def test_the_wheel_has_the_package_its_manuals_and_completions(built: Path) -> None:
    [path] = built.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    package = {name for name in names if ".dist-info/" not in name and ".data/" not in name}
    data = {name.partition(".data/data/")[2] for name in names if ".data/" in name}
    assert package == MODULES | {"stacker/py.typed"}
    assert data == {
        *(f"share/man/man1/{name.removeprefix('man/')}" for name in MANUALS),
        "share/bash-completion/completions/stacker",
        "share/zsh/site-functions/_stacker",
        "share/fish/vendor_completions.d/stacker.fish",
    }


def test_page_of_a_package_index_has_no_link_to_a_file_of_the_repository(built: Path) -> None:
    [path] = built.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        [name] = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = message_from_bytes(archive.read(name))
    assert metadata["Description-Content-Type"] == "text/markdown"
    page = metadata.get_payload()
    assert isinstance(page, str)
    assert page.startswith("# stacker\n")
    assert "`docs/rules.md`" in page
    assert re.findall(r"\]\((?!https://|#)[^)]*\)", page) == []


def test_page_of_a_package_index_links_to_the_public_address() -> None:
    readme = (
        "[rules](docs/rules.md#links) ![a plot](a.svg) [spec](https://spec.example) [top](#top)"
    )
    assert index_page(readme, "https://code.example/stacker") == (
        "[rules](https://code.example/stacker/blob/main/docs/rules.md#links)"
        " ![a plot](https://code.example/stacker/raw/main/a.svg)"
        " [spec](https://spec.example) [top](#top)"
    )
    assert index_page(readme, "") == (
        "rules (`docs/rules.md`) a plot (`a.svg`) [spec](https://spec.example) [top](#top)"
    )


def test_lowest_constraints_are_the_declared_minimums() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = [*project["dependencies"], *project["optional-dependencies"]["fuse"]]
    lines = (ROOT / "constraints" / "lowest.txt").read_text().splitlines()
    assert {requirement.replace(">=", "==") for requirement in declared} <= set(lines)


@pytest.mark.parametrize("name", ["ci.txt", "lowest.txt"])
def test_constraints_are_exact_and_cover_every_declared_requirement(name: str) -> None:
    content = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = content["dependency-groups"]
    declared = [*content["project"]["dependencies"], *groups["unit"], *groups["bench"]]
    declared += [item for item in groups["test"] if isinstance(item, str)]
    lines = (ROOT / "constraints" / name).read_text().splitlines()[1:]
    pinned = {line.partition("==")[0] for line in lines}
    assert {requirement.partition(">=")[0] for requirement in declared} <= pinned
    assert [line for line in lines if "==" not in line] == []
