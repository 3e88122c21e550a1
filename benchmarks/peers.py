"""Define the measured command of each peer and of stacker.

In: an image in an OCI layout and an empty scratch directory.  Out: a :class:`Task` that makes the
image's root filesystem below the scratch directory.  Each peer works as its users run it: umoci
unpacks one flat tree, the others a directory for each layer.  stacker is there twice, once for each
form in which it stores layers.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from benchmarks.layout import TAG, Image

ROOT = Path(__file__).parent.parent
_STEP = 0.05


@dataclass(frozen=True, slots=True)
class Task:
    """A command to measure; ``daemons`` work for it; ``tree`` receives its files.

    ``removal`` removes what the command made; it is empty for peers whose removal is not measured.
    """

    command: tuple[str, ...]
    tree: Path
    daemons: tuple[int, ...] = ()
    removal: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Peer:
    """A tool under its ``name``.

    ``needs`` are its programs, each with the argument that prints its version; ``prepared`` yields
    the task for an image and an empty directory, and cleans up.  ``within`` is the prefix of
    commands that run in another root filesystem.
    """

    name: str
    needs: tuple[tuple[str, str], ...]
    prepared: Callable[[Image, Path], AbstractContextManager[Task]]
    can_sync: bool = False
    within: tuple[str, ...] = ()

    def is_installed(self) -> bool:
        """Return whether all of its programs are in PATH."""
        look = [*self.within, "sh", "-c", 'command -v "$0"']
        return all(
            subprocess.run([*look, program], check=False, capture_output=True).returncode == 0
            for program, _ in self.needs
        )

    def versions(self) -> dict[str, str]:
        """Return the version that each program prints."""
        return {program: _first_line([*self.within, program, flag]) for program, flag in self.needs}


def synced(peer: Peer, task: Task) -> tuple[str, ...]:
    """Return a task's command followed by a sync of its files."""
    if peer.can_sync:
        return (*task.command, "--sync")
    script = f"{shlex.join(task.command)} && sync -f {shlex.quote(str(task.tree))}"
    return ("sh", "-c", script)


def environment(scratch: Path) -> dict[str, str]:
    """Return an environment whose temporary files are on the measured medium."""
    variables = {key: value for key, value in os.environ.items() if not key.startswith("STACKER_")}
    variables.pop("PYTHONDONTWRITEBYTECODE", None)  # an installation has compiled modules
    temporary = scratch / "tmp"
    temporary.mkdir(exist_ok=True)
    return {**variables, "TMPDIR": str(temporary), "PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8"}


def stacker_command(store: Path, *arguments: str) -> tuple[str, ...]:
    """Return a stacker command line as users run it."""
    return (sys.executable, "-m", "stacker", "--store", str(store), *arguments)


@contextmanager
def _stacker(image: Image, scratch: Path, *, form: str) -> Iterator[Task]:
    store = scratch / "store"
    source = f"oci:{image.layout}:{TAG}"
    pull = ("pull", "--quiet", "--no-sync", "--form", form, source)
    removal = stacker_command(store, "rm", TAG)
    yield Task(stacker_command(store, *pull), scratch, removal=removal)


@contextmanager
def _tar(image: Image, scratch: Path) -> Iterator[Task]:
    """Unpack all layers at once, each into a directory: no digest, no whiteout, no merge."""
    lines = ["pids="]
    for index, layer in enumerate(image.layers):
        inflate = "zstd -dcq" if layer.media_type.endswith("zstd") else "igzip -dc"
        target = scratch / "layers" / str(index)
        target.mkdir(parents=True)
        blob = shlex.quote(str(image.blob(layer)))
        unpack = f"tar -xp --numeric-owner -C {shlex.quote(str(target))} -f -"
        lines.append(f'{inflate} <{blob} | {unpack} & pids="$pids $!"')
    lines.append("for pid in $pids; do wait $pid || exit 1; done")
    removal = ("rm", "-rf", str(scratch / "layers"))
    yield Task(("sh", "-c", "\n".join(lines)), scratch, removal=removal)


def _run_within(
    prefix: tuple[str, ...], prepared: Callable[[Image, Path], AbstractContextManager[Task]]
) -> Callable[[Image, Path], AbstractContextManager[Task]]:
    @contextmanager
    def prefixed(image: Image, scratch: Path) -> Iterator[Task]:
        with prepared(image, scratch) as task:
            yield replace(task, command=(*prefix, *task.command))

    return prefixed


@contextmanager
def _umoci(image: Image, scratch: Path) -> Iterator[Task]:
    bundle = scratch / "bundle"
    yield Task(("umoci", "unpack", "--image", f"{image.layout}:{TAG}", str(bundle)), scratch)


@contextmanager
def _skopeo(image: Image, scratch: Path) -> Iterator[Task]:
    storage = f"containers-storage:[overlay@{scratch / 'root'}+{scratch / 'run'}]bench:{TAG}"
    command = ("skopeo", "--insecure-policy", "copy", "--quiet")
    yield Task((*command, f"oci:{image.layout}:{TAG}", storage), scratch)


def _own_storage(scratch: Path) -> tuple[str, ...]:
    return (
        "--root",
        str(scratch / "root"),
        "--runroot",
        str(scratch / "run"),
        "--storage-driver",
        "overlay",
    )


def _beside(image: Image) -> tuple[str, ...]:
    """Return a command prefix that runs podman or buildah in the layout's parent directory.

    Both derive an image's name from the layout's path, and refuse a path that is no valid
    repository name (capitals, two separators in a row).
    """
    return ("env", "-C", str(image.layout.parent))


@contextmanager
def _podman(image: Image, scratch: Path) -> Iterator[Task]:
    arguments = ("pull", "--quiet", f"oci:{image.layout.name}:{TAG}")
    yield Task((*_beside(image), "podman", *_own_storage(scratch), *arguments), scratch)


@contextmanager
def _buildah(image: Image, scratch: Path) -> Iterator[Task]:
    policy = scratch / "policy.json"
    policy.write_text('{"default":[{"type":"insecureAcceptAnything"}]}')
    arguments = ("pull", "--quiet", "--signature-policy", str(policy))
    source = f"oci:{image.layout.name}:{TAG}"
    yield Task((*_beside(image), "buildah", *_own_storage(scratch), *arguments, source), scratch)


@contextmanager
def _containerd(image: Image, scratch: Path, *, within: tuple[str, ...]) -> Iterator[Task]:
    """Start a private containerd, after writing the archive that ``ctr`` imports."""
    archive, socket = scratch / "image.tar", scratch / "c.sock"
    subprocess.run(["tar", "-C", str(image.layout), "-cf", str(archive), "."], check=True)
    config = scratch / "config.toml"
    config.write_text(
        f'version = 2\nroot = "{scratch / "root"}"\nstate = "{scratch / "state"}"\n'
        'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
        f'[grpc]\n  address = "{socket}"\n'
    )
    client = (*within, "ctr", "--address", str(socket))
    server = [*within, "containerd", "--config", str(config)]
    with (
        (scratch / "log").open("wb") as log,
        subprocess.Popen(server, stdout=log, stderr=log) as daemon,
    ):
        try:
            _await([*client, "version"])
            command = ("image", "import", "--base-name", "bench", "--snapshotter", "overlayfs")
            yield Task((*client, *command, str(archive)), scratch, (daemon.pid,))
        finally:
            daemon.terminate()


def _await(command: list[str]) -> None:
    for _ in range(round(20 / _STEP)):
        if subprocess.run(command, check=False, capture_output=True).returncode == 0:
            return
        time.sleep(_STEP)
    raise TimeoutError(f"no answer in 20 s: {shlex.join(command)}")


def _first_line(command: list[str]) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    return ((done.stdout + done.stderr).strip().splitlines() or ["unknown"])[0]


FLOOR = "igzip | tar"
STACKER = Peer("stacker", (), partial(_stacker, form="tree"), can_sync=True)
EROFS = Peer("stacker (erofs)", (), partial(_stacker, form="erofs"), can_sync=True)


def peers(within: tuple[str, ...] = ()) -> tuple[Peer, ...]:
    """Return all peers; ``within`` is the prefix of all but stacker and the baseline."""

    def other(
        name: str,
        prepared: Callable[[Image, Path], AbstractContextManager[Task]],
        *programs: str,
    ) -> Peer:
        needs = tuple((program, "--version") for program in programs or (name,))
        return Peer(name, needs, prepared, within=within)

    return (
        STACKER,
        EROFS,
        Peer(FLOOR, (("igzip", "--version"), ("tar", "--version"), ("zstd", "--version")), _tar),
        other("umoci", _run_within(within, _umoci)),
        other("skopeo", _run_within(within, _skopeo)),
        other("containerd", partial(_containerd, within=within), "containerd", "ctr"),
        other("podman", _run_within(within, _podman)),
        other("buildah", _run_within(within, _buildah)),
    )


PEERS = peers()


def stacker_versions() -> dict[str, str]:
    """Return the versions of stacker and its dependencies."""
    from importlib.metadata import version

    shown = _first_line([sys.executable, "-m", "stacker", "--version"])
    return {"stacker": shown, **{name: version(name) for name in ("isal", "zstandard", "xattr")}}
