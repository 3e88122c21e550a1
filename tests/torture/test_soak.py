"""Run all verbs at random from 8 processes on one store."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from stacker.cli.verbs import FAILURES, SUMMARIES
from stacker.linux.removal import remove_tree
from tests.support import images, tars
from tests.support.command import Result, at_home
from tests.support.mounts import unmount_below
from tests.support.registries import PASSWORD, USER
from tests.support.runtimes import BUSYBOX
from tests.support.snapshot import Node, extracted, snapshot
from tests.torture.checks import ExposedTree, exposed
from tests.torture.forkserver import ForkedStacker, shared_server
from tests.torture.sweep import is_whole, write_counts
from tests.torture.world import BASE, CHANGES, OTHER, forked, shared_registry

PROCESSES = 8
SECONDS = 600 if is_whole() else 60
EXPECTED = {0, 2, 3, 8, 9}
"""Exit codes that another process's commands explain: used, missing, locked, mounted."""
ALWAYS = {"images", "df", "mounts", "info", "bench", "login", "tags", "gc", "help", "completion"}
"""Verbs that succeed whatever other processes do."""
SERVERS = {"snapshotter"}
"""Verbs that never end; tests/containerd has their crashes and neighbours."""
UNAVAILABLE = ("no such image", "no such layer", "image in use", "layer in use")
"""Parts of the messages of `run` that another process's commands explain; its code is the same."""
MORE = tars.tar(*(tars.file(f"opt/{n}", bytes([n]) * 3000) for n in range(40)))
IMAGES = {
    "app": [BASE, CHANGES],
    "other": [BASE, OTHER],
    "more": [BASE, OTHER, MORE],
    "single": [MORE],
}
EXTRA = ("extra0", "extra1")
"""More names, which move from image to image."""

pytestmark = [
    pytest.mark.usefixtures("alone_among_mounts"),
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts: needs root"),
]


@dataclass
class Soak:
    """The store that all workers use, and what they find."""

    stacker: ForkedStacker
    sources: dict[str, str]
    path: Path
    registry: str
    expected: dict[str, ExposedTree] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)
    ended: Counter[tuple[str, int]] = field(default_factory=Counter)

    def run(self, *arguments: str | Path, text: str = "") -> Result:
        """Run a command; note a finding if it ends in a way that no neighbour explains.

        :param text: what the command reads from stdin.
        """
        done = self.stacker.run_with({}, *arguments, text=text)
        verb = str(arguments[0])
        self.ended[verb, done.code] += 1
        expected = {0} if verb in ALWAYS else EXPECTED
        if verb == "run" and any(text in done.err for text in UNAVAILABLE):
            expected = {FAILURES["run"]}
        if done.code not in expected or "Traceback" in done.err or "internal error" in done.err:
            self.find(f"{arguments}: exit code {done.code}: {done.err}")
        return done

    def find(self, text: str) -> None:
        """Note a finding."""
        self.findings.append(text[:1000])


class Worker:
    """One process of the soak: it runs one random command after another."""

    def __init__(self, soak: Soak, number: int) -> None:
        self._soak = soak
        self._chance = random.Random(number)
        self._path = soak.path / f"worker{number}"
        self._path.mkdir()
        self._number = number
        self._steps: list[tuple[int, Callable[[], object]]] = [
            (4, self._pull),
            (4, self._mount),
            (3, self._unpack),
            (3, self._remove),
            (2, self._tag),
            (2, self._read),
            (2, self._write),
            (1, self._commit),
            (1, self._bundle),
            (1, self._run),
            (1, self._convert),
            (1, self._export),
            (1, self._index),
            (1, self._use_registry),
            (1, self._bench),
            (2, self._verify),
            (1, self._repair),
            (1, self._collect_garbage),
        ]

    def work(self, until: float) -> None:
        """Run each step once, then random ones until an instant of the monotonic clock."""
        weights = [weight for weight, _ in self._steps]
        try:
            for _, step in self._chance.sample(self._steps, len(self._steps)):
                step()
            while time.monotonic() < until:
                _, step = self._chance.choices(self._steps, weights)[0]
                step()
        except Exception as error:  # noqa: BLE001 - a thread has no other way to report it
            self._soak.find(f"worker {self._number}: {error!r}")

    def _image(self) -> str:
        return self._chance.choice(list(IMAGES))

    def _pull(self) -> None:
        options = self._chance.choice(([], ["--sync"], ["--jobs", "1"]))
        self._soak.run("pull", *options, self._soak.sources[self._image()])

    def _mount(self) -> None:
        """Mount an image in one of five ways, compare the tree, and unmount it."""
        name, target = self._image(), self._path / "target"
        target.mkdir(exist_ok=True)
        choices: tuple[list[str | Path], ...] = (
            [],
            ["--rw"],
            ["--upper", self._path / "upper"],
            ["--driver", "fuse"],
            ["--driver", "copy"],
        )
        options = [*self._chance.choice(choices), "--pull", "never"]
        if self._soak.run("mount", *options, name, target).code == 0:
            self._compare(name, target, "mount", *options)
            if self._chance.random() < 0.3:
                self._chance.choice((self._collect_garbage, self._repair, self._remove))()
                self._compare(name, target, "mount", *options)
            if "--rw" in options:
                (target / "written").write_bytes(b"by a worker\n")
            self._soak.run("umount", target)
            if "--upper" in options:
                remove_tree(self._path / "upper")

    def _commit(self) -> None:
        """Mount an image, and commit a write to it under a name that all workers share."""
        target = self._path / "committed"
        target.mkdir(exist_ok=True)
        name = self._image()
        if self._soak.run("mount", "--rw", "--pull", "never", name, target).code == 0:
            (target / "written").write_bytes(b"by a worker\n")
            self._soak.run("commit", target, self._chance.choice(EXTRA))
            self._soak.run("umount", target)

    def _bundle(self) -> None:
        """Write a bundle, compare its root filesystem, and remove it."""
        name, bundle = self._image(), self._path / "bundle"
        if self._soak.run("bundle", "--pull", "never", name, bundle, "/bin/sh").code == 0:
            self._compare(name, bundle / "rootfs", "bundle")
            self._soak.run("bundle", "rm", bundle)

    def _run(self) -> None:
        """Run a program of the host in an image."""
        words = ("--runtime", "chroot", "-v", f"{BUSYBOX}:/busybox", "--pull", "never")
        self._soak.run("run", *words, self._image(), "/busybox", "true")

    def _unpack(self) -> None:
        """Unpack an image of the store, or pull it first."""
        name, tree = self._image(), self._path / "tree"
        words = self._chance.choice((["--pull", "never", name], [self._soak.sources[name]]))
        if self._soak.run("unpack", *words, tree).code == 0:
            self._compare(name, tree, "unpack")
        if tree.exists():
            remove_tree(tree)

    def _compare(self, name: str, path: Path, *command: str | Path) -> None:
        self._compare_nodes(name, snapshot(path), *command)

    def _compare_nodes(self, name: str, nodes: dict[bytes, Node], *command: str | Path) -> None:
        found, expected = exposed(nodes), self._soak.expected[name]
        if found != expected:
            wrong = sorted(p for p in {*found, *expected} if found.get(p) != expected.get(p))
            self._soak.find(f"{command} {name}: wrong: {wrong[:5]}")

    def _remove(self) -> None:
        self._soak.run("rm", *self._chance.choice(([self._image()], ["--force", *EXTRA])))

    def _tag(self) -> None:
        """Move a name that all workers share to an image, or remove the name."""
        name = self._chance.choice(EXTRA)
        if self._chance.random() < 0.6:
            self._soak.run("tag", self._image(), name)
        else:
            self._soak.run("untag", name)

    def _read(self) -> None:
        name = self._image()
        for words in (
            ("images",),
            ("df",),
            ("mounts",),
            ("info",),
            ("help", "mount"),
            ("completion", "bash"),
            ("index", "list"),
            ("inspect", name),
            ("layers", name),
            ("history", name),
        ):
            self._soak.run(*words)

    def _write(self) -> None:
        """Push or copy to a layout that all workers share, or to an archive."""
        name = self._image()
        to = self._chance.choice(
            (f"oci:{self._soak.path}/shared:{name}", f"oci-archive:{self._path}/a.tar:{name}")
        )
        for words in (("push", name, to), ("copy", self._soak.sources[name], to)):
            self._soak.run(*words)
            (self._path / "a.tar").unlink(missing_ok=True)

    def _convert(self) -> None:
        form = self._chance.choice(("tree", "erofs"))
        self._soak.run("convert", self._image(), "--form", form)

    def _export(self) -> None:
        """Export an image as a tar, and compare the tree in it."""
        name, file = self._image(), self._path / "export.tar"
        if self._soak.run("export", name, "-o", file).code == 0:
            self._compare_nodes(name, extracted(file), "export")

    def _use_registry(self) -> None:
        """Log in and out, with one file of credentials for all workers, and list tags."""
        registry = self._soak.registry
        words = ("login", "--username", USER, "--password-stdin", registry)
        self._soak.run(*words, text=f"{PASSWORD}\n")
        tags = self._soak.run("tags", f"docker://{registry}/app").out.split()
        if tags != ["1.0"]:
            self._soak.find(f"tags: got {tags}, want 1.0")
        self._soak.run("logout", registry)

    def _bench(self) -> None:
        self._soak.run("bench", "--runs", "1", self._soak.sources[self._image()])

    def _verify(self) -> None:
        """Verify one image or all; no layer may be damaged."""
        options = self._chance.choice(([], ["--fast"]))
        self._soak.run("verify", *options, self._chance.choice((self._image(), "--all")))

    def _repair(self) -> None:
        """Repair one image or all; there is nothing to replace."""
        done = self._soak.run("repair", self._chance.choice((self._image(), "--all")))
        if done.out:
            self._soak.find(f"repair replaced layers: {done.out}{done.err}")

    def _collect_garbage(self) -> None:
        self._soak.run("gc", *self._chance.choice(([], ["--dry-run"], ["--untagged"])))

    def _index(self) -> None:
        name = f"index{self._chance.randrange(2)}"
        members = self._chance.sample(list(IMAGES), 2)
        self._soak.run("index", "create", name, *members)
        if self._chance.random() < 0.5:
            self._soak.run("index", "annotate", name, "--annotation", f"by={self._number}")
            self._soak.run("index", "inspect", name)
            self._soak.run("index", "push", name, f"oci:{self._soak.path}/shared:{name}")
        self._soak.run("index", "rm", name)


@pytest.fixture
def soak(tmp_path: Path) -> Soak:
    sources = {
        name: images.layout(tmp_path / f"source-{name}", layers, name=name).source
        for name, layers in IMAGES.items()
    }
    soak = Soak(
        forked(at_home(tmp_path), shared_server()), sources, tmp_path, shared_registry().host
    )
    reference = forked(at_home(tmp_path, "reference"), shared_server())
    for name, source in sources.items():
        reference("pull", source)
        reference("unpack", name, tmp_path / f"tree-{name}")
        soak.expected[name] = exposed(snapshot(tmp_path / f"tree-{name}"))
    return soak


def remove_everything(soak: Soak) -> None:
    """Unmount and remove everything; nothing may be left in the store."""
    stacker = soak.stacker
    for mount in stacker("mounts", "--json").items:
        stacker("umount", mount["target"])
    for name in ("index0", "index1"):
        stacker.run("index", "rm", name)
    for image in stacker("images", "--json").items:
        stacker("rm", "--force", image["image_id"])
    stacker("gc")
    stacker.assert_clean(images=0, layers=0)


@pytest.mark.timeout(SECONDS + 200)
def test_eight_processes_on_one_store_end_with_right_trees_and_an_empty_store(
    soak: Soak, tmp_path: Path
) -> None:
    until = time.monotonic() + SECONDS
    workers = [Worker(soak, number) for number in range(PROCESSES)]
    threads = [threading.Thread(target=worker.work, args=(until,)) for worker in workers]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        commands = sum(soak.ended.values())
        write_counts("soak", "all-verbs", commands, len(soak.findings), SECONDS)
        assert not soak.findings, "\n\n".join(soak.findings)
        remove_everything(soak)
        assert {verb for verb, _ in soak.ended} == set(SUMMARIES) - SERVERS
        succeeded = {verb for verb, code in soak.ended if code == 0}
        assert succeeded >= {"pull", "mount", "unpack", "verify", *ALWAYS}
    finally:
        unmount_below(tmp_path)
