"""Modules that commands import: those of stacker for a mount, and no heavy ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stacker.cli.verbs import SUMMARIES
from tests.support import images
from tests.support.command import Stacker
from tests.support.runtimes import BUSYBOX
from tests.support.tars import file, tar

pytestmark = pytest.mark.unmeasured

# Modules of stacker that `mount` imports.  Each costs start-up time, so extend this with care.
OURS = """
stacker stacker.cli stacker.cli.exit stacker.cli.help stacker.cli.options
stacker.cli.output stacker.cli.pulling stacker.cli.session stacker.cli.verbs
stacker.cli.verbs.mount stacker.errors stacker.image stacker.image.config stacker.image.descriptor
stacker.image.digest stacker.image.document stacker.image.manifest stacker.image.mediatype
stacker.image.platform stacker.layer stacker.layer.paths stacker.layer.whiteout_format
stacker.linux stacker.linux.filesystem stacker.linux.lock stacker.linux.mountapi
stacker.linux.mountinfo stacker.linux.process stacker.linux.removal stacker.linux.safe_path
stacker.linux.syscall stacker.linux.xattr stacker.mount stacker.mount.attach stacker.mount.drivers
stacker.mount.drivers.choose stacker.mount.drivers.copy stacker.mount.drivers.fuse
stacker.mount.drivers.overlay stacker.mount.drivers.protocol stacker.mount.plan
stacker.mount.record stacker.mount.state stacker.mount.table stacker.mount.target
stacker.mount.unmount stacker.mount.upper_directory stacker.operations
stacker.operations.durability stacker.operations.mount stacker.operations.stack stacker.store
stacker.store.blobs stacker.store.chains stacker.store.disk_mark stacker.store.images
stacker.store.layers stacker.store.location stacker.store.metadata stacker.store.staging
stacker.store.store
"""

# Modules of the standard library that `mount` imports, on any Python from 3.11 on.  Most of them
# come with dataclasses and argparse.  Names with an underscore are their implementation.
STANDARD = """
argparse ast collections contextlib copy copyreg ctypes dataclasses dis encodings enum errno fcntl
fnmatch functools gc genericpath gettext glob grp hashlib importlib inspect ipaddress itertools json
keyword linecache locale math ntpath opcode operator os pathlib posixpath pwd re reprlib signal
stat struct time token tokenize types typing urllib warnings weakref
"""

REPORT = """
import sys
before = set(sys.modules)
from stacker.cli import main
code = main(sys.argv[1:])
import json
print(json.dumps([code, sorted(set(sys.modules) - before)]), file=sys.stderr)
"""


def loaded(stacker: Stacker, *words: str | Path) -> set[str]:
    """Run a command, and return the modules that it imported."""
    command = [sys.executable, "-c", REPORT, "--store", str(stacker.store), *map(str, words)]
    done = subprocess.run(
        command, check=True, capture_output=True, env=stacker.environment, text=True
    )
    code, modules = json.loads(done.stderr.splitlines()[-1])
    assert code == 0, done.stderr
    return set(modules)


@pytest.fixture
def stacker(tmp_path: Path) -> Stacker:
    stacker = Stacker(tmp_path / "store")
    layers = [tar(file("a", b"1")), tar(file("b", b"2"))]
    stacker("pull", images.layout(tmp_path / "app", layers).source)
    (tmp_path / "target").mkdir()
    return stacker


def test_mount_imports_only_its_modules(stacker: Stacker, tmp_path: Path) -> None:
    modules = loaded(stacker, "mount", "app:1.0", tmp_path / "target", "--driver", "auto")
    stacker("umount", tmp_path / "target")
    ours = {name for name in modules if name.partition(".")[0] == "stacker"}
    # Without privileges, `auto` mounts by a copy, which imports the code to write a tree.
    copying = {name for name in ours if name.startswith("stacker.stack.")}
    assert ours - copying <= set(OURS.split())
    others = {name.partition(".")[0] for name in modules if not name.startswith("_")}
    assert others - {"stacker"} <= set(STANDARD.split())


def test_print_plan_imports_the_modules_of_a_mount(stacker: Stacker, tmp_path: Path) -> None:
    modules = loaded(stacker, "mount", "app:1.0", tmp_path / "target", "--print-plan")
    assert {name for name in modules if name.partition(".")[0] == "stacker"} == set(OURS.split())


HEAVY = {
    *("rich", "urllib3", "trio", "pyfuse3", "zstandard", "isal", "xattr", "cffi"),
    *("asyncio", "concurrent", "multiprocessing", "subprocess", "threading", "tempfile", "shutil"),
    *("logging", "socket", "ssl", "http", "email"),
}


@pytest.mark.parametrize(
    "words",
    [["--help"], ["images"], ["mounts"], ["df"], ["inspect", "app:1.0"], ["history", "app:1.0"]],
    ids=lambda words: words[0],
)
def test_query_imports_no_heavy_module(stacker: Stacker, words: list[str]) -> None:
    assert not {name.partition(".")[0] for name in loaded(stacker, *words)} & HEAVY


@pytest.mark.skipif(os.geteuid() != 0 or not BUSYBOX.exists(), reason="needs root and busybox")
def test_run_imports_no_heavy_module(stacker: Stacker) -> None:
    options = ("--runtime", "chroot", "-v", f"{BUSYBOX}:/busybox")
    modules = loaded(stacker, "run", *options, "app:1.0", "/busybox", "true")
    assert not {name.partition(".")[0] for name in modules} & HEAVY
    assert not {name for name in modules if name.startswith(("stacker.tree", "stacker.stack."))}


def test_verb_imports_no_other_verb(stacker: Stacker) -> None:
    for verb in ("images", "df", "mounts"):
        found = {name for name in loaded(stacker, verb) if name.startswith("stacker.cli.verbs.")}
        assert found == {f"stacker.cli.verbs.{verb}"}
    assert not {f"stacker.cli.verbs.{verb}" for verb in SUMMARIES} & loaded(stacker, "--help")


def test_unmount_imports_no_part_of_the_store(stacker: Stacker, tmp_path: Path) -> None:
    stacker("mount", "app:1.0", tmp_path / "target")
    modules = loaded(stacker, "umount", tmp_path / "target")
    assert {name for name in modules if name.startswith("stacker.store.")} == {
        "stacker.store.location",
        "stacker.store.metadata",
        "stacker.store.store",
    }


@pytest.mark.parametrize("verb", ["pull", "mount"])
def test_command_forks_its_workers_and_servers(stacker: Stacker, tmp_path: Path, verb: str) -> None:
    """A new interpreter starts slower; only a process with threads needs one."""
    layers = [tar(file("c", b"3")), tar(file("d", b"4"))]
    other = images.layout(tmp_path / "other", layers, name="other:1")
    if verb == "mount":
        if os.geteuid() != 0:
            pytest.skip("mounts: needs root")
        modules = loaded(stacker, "mount", "app:1.0", tmp_path / "target", "--driver", "fuse")
        stacker("umount", tmp_path / "target")
    else:
        modules = loaded(stacker, "pull", other.source)
    assert "subprocess" not in modules  # it starts interpreters


def test_pull_of_a_complete_image_does_not_import_the_unpacker(
    stacker: Stacker, tmp_path: Path
) -> None:
    modules = loaded(stacker, "pull", "--quiet", f"oci:{tmp_path / 'app'}")
    assert not modules & {
        "stacker.jobs.unpack_layer",
        "stacker.jobs.fetch_blob",
        "stacker.jobs.pool",
    }
    assert not {name for name in modules if name.startswith("stacker.stream.")}
    assert not {name.partition(".")[0] for name in modules} & HEAVY
