"""Measure what a registry adds to unpacking: pulls from a registry and from a local layout.

In: an image, and a directory for a registry's files.  Out: peers for :mod:`benchmarks.run`, which
pull that image from Debian's ``docker-registry`` on loopback.  No figure includes the registry's
own processor time, but the registry uses the same cores while a peer works.

The bare download runs one ``curl`` for each blob, all at once, to ``/dev/null``.  It is the cost of
the network and the registry alone.  It does not use urllib3, because stacker reads through urllib3
and that cost would count as the network's.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks.layout import TAG, Image
from benchmarks.peers import EROFS, ROOT, STACKER, Peer, Task, environment, stacker_command

LAYOUT, PULL, ONCE = "stacker, layout", "stacker", "stacker --no-resume"
EROFS_LAYOUT, EROFS_PULL = "stacker (erofs), layout", "stacker (erofs)"
DOWNLOAD, SKOPEO = "download", "skopeo"
_REPOSITORY = "bench"
_LISTENING = re.compile(r"listening on (127\.0\.0\.1:\d+)")
_STEP, _PATIENCE = 0.05, 20


@contextmanager
def serving(image: Image, root: Path) -> Iterator[str]:
    """Run a registry that serves ``image`` from files below ``root``; yield its ``HOST:PORT``."""
    config, log = root / "config.yml", root / "log"
    document = {
        "version": "0.1",
        "log": {"accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(root / "data")}},
        "http": {"addr": "127.0.0.1:0", "secret": "of no use"},
    }
    config.write_text(json.dumps(document))  # JSON is YAML
    command = ["docker-registry", "serve", str(config)]
    with (
        log.open("wb") as output,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output) as server,
    ):
        try:
            host = _listening(log)
            _fill(host, image, root)
            yield host
        finally:
            server.kill()


def _listening(log: Path) -> str:
    for _ in range(round(_PATIENCE / _STEP)):
        if found := _LISTENING.search(log.read_text()):
            return found[1]
        time.sleep(_STEP)
    raise TimeoutError(f"docker-registry does not listen after {_PATIENCE} s: {log.read_text()}")


def _fill(host: str, image: Image, root: Path) -> None:
    """Push the image with its blobs unchanged."""
    command = stacker_command(
        root / "store", "copy", "--quiet", f"oci:{image.layout}:{TAG}", _name(host)
    )
    subprocess.run(command, check=True, env=environment(root), cwd=ROOT, stdout=subprocess.DEVNULL)


def _name(host: str) -> str:
    return f"docker://{host}/{_REPOSITORY}:{TAG}"


def peers(host: str) -> tuple[Peer, ...]:
    """Return the peers: two unpack from the layout, all others pull from the registry."""
    return (
        replace(STACKER, name=LAYOUT),
        replace(EROFS, name=EROFS_LAYOUT),
        Peer(PULL, (), _at(host, _pull)),
        Peer(EROFS_PULL, (), _at(host, partial(_pull, options=("--form", "erofs")))),
        # Without the file that a resumed pull needs; the difference is the cost of that file.
        Peer(ONCE, (), _at(host, partial(_pull, options=("--no-resume",)))),
        Peer(DOWNLOAD, (("curl", "--version"),), _at(host, _download)),
        Peer(SKOPEO, (("skopeo", "--version"),), _at(host, _skopeo)),
    )


def versions() -> dict[str, str]:
    """Return the versions of the registry and of each peer."""
    registry = Peer("registry", (("docker-registry", "--version"),), STACKER.prepared)
    return {name: text for peer in (registry, *peers("")) for name, text in peer.versions().items()}


def _at(
    host: str, task: Callable[[str, Image, Path], Task]
) -> Callable[[Image, Path], AbstractContextManager[Task]]:
    @contextmanager
    def prepared(image: Image, scratch: Path) -> Iterator[Task]:
        yield task(host, image, scratch)

    return prepared


def _pull(host: str, _: Image, scratch: Path, *, options: tuple[str, ...] = ()) -> Task:
    pull = ("pull", "--quiet", "--no-sync", *options, _name(host))
    return Task(stacker_command(scratch / "store", *pull), scratch)


def _download(host: str, image: Image, scratch: Path) -> Task:
    lines = ["pids="]
    for digest in dict.fromkeys(layer.digest for layer in image.layers):
        url = shlex.quote(f"http://{host}/v2/{_REPOSITORY}/blobs/{digest}")
        lines.append(f'curl -sSf --noproxy "*" -o /dev/null {url} & pids="$pids $!"')
    lines.append("for pid in $pids; do wait $pid || exit 1; done")
    return Task(("sh", "-c", "\n".join(lines)), scratch)


def _skopeo(host: str, _: Image, scratch: Path) -> Task:
    storage = f"containers-storage:[overlay@{scratch / 'root'}+{scratch / 'run'}]bench:{TAG}"
    command = ("skopeo", "--insecure-policy", "copy", "--quiet", "--src-tls-verify=false")
    return Task((*command, _name(host), storage), scratch)
