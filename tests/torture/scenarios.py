"""The commands that the sweeps disturb.

A `Scenario` names a command, what must run before it, and what must hold after it.  Faults and
checks are elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support.command import Result
from tests.support.indexes import index_snapshot
from tests.support.registries import PASSWORD, USER
from tests.support.runtimes import BUSYBOX
from tests.support.snapshot import Node, extracted
from tests.torture.checks import WRITTEN
from tests.torture.world import Arguments, World, shared_registry


@dataclass(frozen=True)
class Scenario:
    """One command to disturb.

    :param name: the name of the test.
    :param command: the arguments of the command.
    :param first: commands that succeed before it.
    :param arrange: changes the world after these commands.
    :param text: what the command reads from stdin.
    :param then: commands that succeed once the disturbed command was repeated.
    :param codes: exit codes of the repeated command: not only 0 where the first run may be done.
    :param writes: the source that the command writes; it must hold the image `app`.
    :param exports: returns the tree in the file that the command writes; it must be that of `app`.
    :param unpacks: the command writes the tree of `app` to `World.tree`.
    :param mounts: the command mounts `app` at `World.target`.
    :param commits: the command commits `app` with the file of `_write_upper`.
    :param queries: the command changes nothing, and its output depends on the world only.
    """

    name: str
    command: Callable[[World], Arguments]
    first: Callable[[World], list[Arguments]] = lambda _: []
    arrange: Callable[[World], object] = lambda _: None
    then: Callable[[World], list[Arguments]] = lambda _: []
    codes: tuple[int, ...] = (0,)
    writes: Callable[[World], str] | None = None
    exports: Callable[[World], dict[bytes, Node]] | None = None
    unpacks: bool = False
    mounts: bool = False
    queries: bool = False
    text: str = ""
    commits: bool = False

    def prepare(self, world: World) -> None:
        """Make a new world ready for the command."""
        world.prepare()
        for arguments in self.first(world):
            world.stacker(*arguments)
        self.arrange(world)

    def run(self, world: World, environ: dict[str, str] | None = None) -> Result:
        """Run the command with additional environment variables."""
        return world.stacker.run_with(environ or {}, *self.command(world), text=self.text)

    def repeat(self, world: World) -> Result:
        """Run the command again without a fault.

        :raises AssertionError: its exit code is not one of ``codes``.
        """
        result = self.run(world)
        assert "Traceback" not in result.err, result.err
        assert result.code in self.codes, (self.name, result.code, result.err)
        return result


def _pulled(world: World) -> list[Arguments]:
    return [("pull", "--sync", world.app.source)]


def _pulled_blobs(world: World) -> list[Arguments]:
    return [("pull", "--sync", "--keep-blobs", world.app.source)]


def _pulled_erofs(world: World) -> list[Arguments]:
    return [("pull", "--sync", "--form", "erofs", world.app.source)]


def _mounted_erofs(world: World) -> list[Arguments]:
    return [*_pulled_erofs(world), ("mount", "--rw", "app", world.target)]


def _mounted(*options: str | Path) -> Callable[[World], list[Arguments]]:
    return lambda world: [*_pulled(world), ("mount", *options, "app", world.target)]


def _bundled(world: World) -> list[Arguments]:
    return [*_pulled(world), ("bundle", "app", world.bundle, "/bin/sh")]


def _mounted_upper(world: World) -> list[Arguments]:
    return [*_pulled(world), ("mount", "--upper", world.upper, "app", world.target)]


def _written(world: World) -> list[Arguments]:
    return [*_mounted_upper(world), ("umount", world.target)]


def _write_upper(world: World) -> None:
    """Write a file to the upper directory, as a mount does, and flush it to disk."""
    with (world.upper / "written").open("xb") as file:
        file.write(WRITTEN)
        os.fsync(file.fileno())
    os.utime(world.upper, (0, 0))  # the time of the root of the image
    os.sync()


def _indexed(world: World) -> list[Arguments]:
    return [*_pulled(world), ("index", "create", "both", "app", "other")]


def _untagged(world: World) -> list[Arguments]:
    return [("pull", "--sync", world.old.source), *_pulled(world)]


def _named_twice(world: World) -> list[Arguments]:
    return [*_pulled(world), ("tag", "app", "two")]


def _damaged(world: World) -> None:
    """Change a file of a layer that only the image `app` has."""
    (file,) = world.stacker.store.glob("layers/sha256/*/diff/etc/new")
    file.write_bytes(b"bad\n")


def _new_layout(world: World) -> str:
    return f"oci:{world.out}/new:app"


def _new_archive(world: World) -> str:
    return f"oci-archive:{world.out}/new.tar:app"


def _log_in(world: World) -> None:
    """Save credentials, so that the command can remove them."""
    done = world.stacker.run_with({}, *_login(), text=f"{PASSWORD}\n")
    assert done.code == 0, done.err


def _login() -> Arguments:
    return "login", "--username", USER, "--password-stdin", shared_registry().host


def _clear_registry(_: World) -> None:
    """Remove what earlier worlds pushed, so that the command uploads every blob."""
    shared_registry().content.clear()


def _fill_registry(world: World) -> None:
    """Add the image `app` with the tag ``app:1.0``."""
    shared_registry().put("app", "1.0", world.app.path)


def _in_registry(_: World) -> str:
    return f"docker://{shared_registry().host}/app:1.0"


def _mount(
    name: str, *options: str, first: Callable[[World], list[Arguments]] = _pulled
) -> Scenario:
    command: Arguments = ("mount", *options, "app")
    return Scenario(name, lambda w: (*command, w.target), first, codes=(0, 9), mounts=True)


def _umount(name: str, *options: str) -> Scenario:
    return Scenario(name, lambda w: ("umount", w.target), _mounted(*options), codes=(0, 3))


def _query(*words: str) -> Scenario:
    # `info` prints the error of a feature that it tries out.
    return Scenario(words[0], lambda _: words, _pulled, queries=words[0] != "info")


def _index(*words: str) -> Scenario:
    return Scenario(
        f"index-{words[0]}", lambda _: ("index", *words), _indexed, queries=words[0] != "annotate"
    )


def _export(kind: str, tree_in: Callable[[Path], dict[bytes, Node]]) -> Scenario:
    options = ("--format", kind, "-o")
    return Scenario(
        f"export-{kind}",
        lambda w: ("export", *options, w.out / f"app.{kind}", "app"),
        _pulled,
        exports=lambda w: tree_in(w.out / f"app.{kind}"),
    )


_RUN = ("run", "--runtime", "chroot")
SCENARIOS: Final = (
    Scenario("pull", lambda w: ("pull", w.app.source)),
    Scenario("pull-sync", lambda w: ("pull", "--sync", w.app.source)),
    Scenario("pull-again", lambda w: ("pull", w.app.source), _pulled),
    _mount("mount"),
    _mount("mount-rw", "--rw"),
    Scenario(
        "mount-upper",
        lambda w: ("mount", "--upper", w.upper, "app", w.target),
        _pulled,
        codes=(0, 9),
        mounts=True,
    ),
    _mount("mount-fuse", "--driver", "fuse"),
    _mount("mount-copy", "--driver", "copy"),
    _umount("umount"),
    _umount("umount-rw", "--rw"),
    Scenario(
        "umount-upper",
        lambda w: ("umount", w.target),
        _mounted_upper,
        then=lambda w: [("mount", "--upper", w.upper, "app", w.target), ("umount", w.target)],
        codes=(0, 3),
    ),
    _umount("umount-fuse", "--driver", "fuse"),
    _umount("umount-copy", "--driver", "copy"),
    Scenario("bundle", lambda w: ("bundle", "app", w.bundle, "/bin/sh"), _pulled, codes=(0, 2)),
    Scenario("bundle-rm", lambda w: ("bundle", "rm", w.bundle), _bundled, codes=(0, 3)),
    Scenario(
        "run",
        lambda _: (*_RUN, "-v", f"{BUSYBOX}:/busybox", "app", "/busybox", "true"),
        _pulled,
    ),
    Scenario("unpack", lambda w: ("unpack", "app", w.tree), _pulled, codes=(0, 2), unpacks=True),
    Scenario("push-layout", lambda w: ("push", "app", _new_layout(w)), _pulled, writes=_new_layout),
    Scenario(
        "push-archive",
        lambda w: ("push", "app", _new_archive(w)),
        _pulled,
        codes=(0, 2),
        writes=_new_archive,
    ),
    Scenario("copy-layout", lambda w: ("copy", w.app.source, _new_layout(w)), writes=_new_layout),
    Scenario(
        "copy-archive",
        lambda w: ("copy", w.app.source, _new_archive(w)),
        codes=(0, 2),
        writes=_new_archive,
    ),
    Scenario(
        "commit", lambda w: ("commit", w.upper, "changed"), _written, _write_upper, commits=True
    ),
    Scenario("rm", lambda _: ("rm", "app"), _pulled, codes=(0, 3)),
    Scenario("rm-name", lambda _: ("rm", "two"), _named_twice, codes=(0, 3)),
    Scenario(
        "tag",
        lambda _: ("tag", "app", "two", "three"),
        _pulled,
        then=lambda w: [("unpack", "--pull", "never", "two", w.path / "tree-of-two")],
    ),
    Scenario("untag", lambda _: ("untag", "app", "two"), _named_twice, codes=(0, 3)),
    Scenario(
        "mount-source",
        lambda w: ("mount", w.app.source, w.target),
        codes=(0, 9),
        mounts=True,
    ),
    Scenario("rm-blobs", lambda _: ("rm", "app"), _pulled_blobs, codes=(0, 3)),
    Scenario(
        "index-create", lambda _: ("index", "create", "both", "app", "other"), _pulled, codes=(0, 2)
    ),
    _index("annotate", "both", "--annotation", "tested=yes"),
    _index("inspect", "both"),
    _index("list"),
    Scenario("index-rm", lambda _: ("index", "rm", "both"), _indexed, codes=(0, 3)),
    Scenario("gc", lambda _: ("gc", "--untagged"), _untagged),
    Scenario("pull-erofs", lambda w: ("pull", "--form", "erofs", w.app.source)),
    _mount("mount-erofs", first=_pulled_erofs),
    _mount("mount-rw-erofs", "--rw", first=_pulled_erofs),
    Scenario("umount-erofs", lambda w: ("umount", w.target), _mounted_erofs, codes=(0, 3)),
    Scenario("convert", lambda _: ("convert", "app", "--form", "erofs"), _pulled),
    Scenario("convert-tree", lambda _: ("convert", "app", "--form", "tree"), _pulled_erofs),
    _export("tar", extracted),
    _export("erofs", lambda path: index_snapshot(path.read_bytes())),
    *(_query(verb) for verb in ("images", "df", "mounts", "info")),
    *(_query(verb, "app") for verb in ("inspect", "layers", "history")),
    Scenario("pull-registry", lambda w: ("pull", _in_registry(w)), arrange=_fill_registry),
    Scenario(
        "push-registry",
        lambda w: ("push", "app", _in_registry(w)),
        _pulled,
        _clear_registry,
        writes=_in_registry,
    ),
    Scenario(
        "copy-registry",
        lambda w: ("copy", w.app.source, _in_registry(w)),
        arrange=_clear_registry,
        writes=_in_registry,
    ),
    Scenario("index-push", lambda w: ("index", "push", "both", _new_layout(w)), _indexed),
    Scenario("verify", lambda _: ("verify", "--all"), _pulled),
    Scenario("bench", lambda w: ("bench", "--runs", "1", w.app.source)),
    Scenario("tags", lambda _: ("tags", f"docker://{shared_registry().host}/app")),
    Scenario(
        "login",
        lambda _: _login(),
        then=lambda _: [("logout", shared_registry().host)],
        text=f"{PASSWORD}\n",
    ),
    Scenario("logout", lambda _: ("logout", shared_registry().host), arrange=_log_in, codes=(0, 3)),
    Scenario("repair", lambda _: ("repair", "app"), _pulled, _damaged, lambda _: [("gc",)]),
)
