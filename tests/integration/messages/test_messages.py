"""The whole message of typical mistakes: what failed, what stacker got and wants, the next step."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.support import images
from tests.support.command import Stacker, said
from tests.support.tars import file, tar

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
TRANSPORTS = (
    "write oci:DIR[:TAG] as in oci:./layout:1.0, oci-archive:FILE[:TAG] as in "
    "oci-archive:image.tar:1.0, docker-archive:FILE[:NAME] as in "
    "docker-archive:saved.tar.gz:app:1.0, docker://HOST/REPO[:TAG] as in "
    "docker://registry.example/app:1.0"
)
STACKER = "stacker --store ~/store"
IMAGES = f"`{STACKER} images` lists the images in the store"
PULL = f"`{STACKER} pull nothing` pulls an image; `{STACKER} images` lists those pulled"


# The words, the exit code, the message and the hint; `~` is the directory of the test.
MISTAKES = [
    ("frobnicate", 2, "unknown verb: frobnicate", "`stacker --help` lists the verbs"),
    ("pul", 2, "unknown verb: pul", "did you mean `pull`?"),
    ("mount app:1.0", 2, "missing argument: TARGET", "mount"),
    ("pull a b c", 2, "too many arguments: b c", "pull"),
    ("pull --nope oci:~/app", 2, "unknown option: --nope", "pull"),
    (
        "pull --jobs 0 oci:~/app",
        2,
        "invalid value: --jobs: got '0', want a whole number, one or more",
        "pull",
    ),
    (
        "pull --max-bytes 5X oci:~/app",
        2,
        (
            "invalid value: --max-bytes: got '5X', "
            "want a number of bytes such as 512, 64K, 10M, 2G or 1T"
        ),
        "pull",
    ),
    (
        "pull --tls-verify=maybe oci:~/app",
        2,
        "invalid value: --tls-verify: got 'maybe', want true or false",
        "pull",
    ),
    (
        "gc --older-than 3w",
        2,
        "invalid value: --older-than: got '3w', want a number and s, m, h or d",
        "gc",
    ),
    (
        "pull --platform linux oci:~/app",
        2,
        "malformed platform: got 'linux', want [OS/]ARCH[/VARIANT][:OSVERSION]",
        "for example linux/amd64, linux/arm/v7 or windows/amd64:10.0.17763",
    ),
    ("pull ocy:./app", 2, "unknown transport: 'ocy:./app'", TRANSPORTS),
    (
        "pull ~/app",
        2,
        "no transport: '~/app': got a path, want TRANSPORT:PATH",
        "write oci:~/app",
    ),
    (
        "pull docker://App",
        2,
        "malformed reference: 'App': repository: got 'App', want lowercase words and slashes",
        "names of images are lowercase: 'app'",
    ),
    ("pull oci:", 2, "no path: 'oci:'", TRANSPORTS),
    ("pull oci:~/none", 3, "no such directory: oci:~/none", ""),
    ("pull oci:~/app:app:2.0", 3, "no such image: oci:~/app: got 'app:1.0', want 'app:2.0'", ""),
    (
        "pull oci:~/target",
        5,
        "not an OCI image layout: oci:~/target: got no file 'oci-layout', want one",
        "",
    ),
    ("pull docker-archive:~/none", 3, "no such file: docker-archive:~/none", ""),
    ("inspect nothing", 3, "no such image: 'nothing'", PULL),
    ("mount --pull never nothing ~/target", 3, "no such image: 'nothing'", PULL),
    ("inspect abc", 3, "no such image: 'abc'", IMAGES),
    ("untag nothing", 3, "no such image: 'nothing'", IMAGES),
    ("pull --arch arm64 oci:~/app", 2, "unknown option: --arch", "did you mean `--platform`?"),
    (
        "login -u me -p secret registry.example",
        2,
        "unknown option: -p",
        "did you mean `--password-stdin`?",
    ),
    ("images --fliter x", 2, "unknown option: --fliter", "did you mean `--filter`?"),
    (
        "pull --cert-dir ~/app docker://localhost:1/app",
        3,
        (
            "no certificate: --cert-dir '~/app': got 'blobs', 'index.json', 'oci-layout', want "
            "*.crt, or *.cert and *.key"
        ),
        "rename the CA certificate to NAME.crt, as containers-certs.d(5) requires",
    ),
    (
        "pull registry.invalid/app",
        10,
        "cannot reach the registry: registry.invalid/app: the host's name has no address",
        "check the spelling of the host, the network, and /etc/resolv.conf",
    ),
    (
        "pull oci-archive:~/app",
        2,
        (
            "wrong transport: oci-archive:~/app: got a directory with an OCI image layout, want "
            "an archive of an OCI image layout"
        ),
        "write oci:~/app",
    ),
    (
        "pull docker-archive:~/app:app:1.0",
        2,
        (
            "wrong transport: docker-archive:~/app: got a directory with an OCI image layout, want "
            "a docker archive"
        ),
        "write oci:~/app:app:1.0",
    ),
    (
        "pull oci-archive:~/saved.tar:app",
        2,
        (
            "wrong transport: oci-archive:~/saved.tar: got a docker archive, want "
            "an archive of an OCI image layout"
        ),
        "write docker-archive:~/saved.tar:app",
    ),
    (
        "pull oci:~/saved.tar",
        2,
        (
            "wrong transport: oci:~/saved.tar: got a docker archive, want a directory with an OCI "
            "image layout"
        ),
        "write docker-archive:~/saved.tar",
    ),
    (
        "copy docker-archive:~/layout.tar oci:~/out",
        2,
        (
            "wrong transport: docker-archive:~/layout.tar: got an archive of an OCI image "
            "layout, want a docker archive"
        ),
        "write oci-archive:~/layout.tar",
    ),
    ("rm app:1.0 nothing", 3, "no such image: 'nothing'", IMAGES),
    ("mount app:1.0 ~/none", 9, "mount target does not exist: ~/none", "mkdir ~/none"),
    (
        "mount app:1.0 ~/file",
        9,
        "mount target is not a directory: ~/file",
        "choose an empty directory",
    ),
    (
        "mount app:1.0 ~/store",
        9,
        "mount target is inside the store: ~/store: the store is ~/store",
        "choose a directory elsewhere",
    ),
    (
        "umount ~/target",
        3,
        "nothing to unmount: ~/target: got no mount of stacker, want one",
        f"`{STACKER} mounts` lists the mounts",
    ),
    (
        "mount --upper ~/file app:1.0 ~/target",
        9,
        "upper directory is not a directory: ~/file",
        "choose a missing or empty directory",
    ),
    (
        "mount --driver none app:1.0 ~/target",
        2,
        (
            "invalid value: --driver: got 'none', "
            "want one of auto, overlay, fuse, copy, fuse-overlayfs"
        ),
        "mount",
    ),
    (
        "unpack app:1.0 ~/file",
        2,
        "not a directory: ~/file",
        "choose a missing or empty directory",
    ),
    (
        "unpack app:1.0 ~/app",
        2,
        "directory is not empty: ~/app: got 'blobs', want nothing",
        "choose a missing or empty directory",
    ),
    ("verify", 2, "no choice of images: got neither IMAGE nor --all, want one of them", IMAGES),
    (
        "verify --all app:1.0",
        2,
        "no choice of images: got both IMAGE and --all, want one of them",
        IMAGES,
    ),
    (
        "index inspect none",
        3,
        "no such index: 'none'",
        f"`{STACKER} index list` lists the indexes in the store",
    ),
    (
        "tags oci:app",
        2,
        "malformed repository: got 'oci:app', want [docker://HOST[:PORT]/]REPO",
        "for example docker://registry.example/team/app",
    ),
    (
        "login registry.example/app",
        2,
        "malformed registry: got 'registry.example/app', want HOST[:PORT]",
        "for example registry.example or localhost:5000",
    ),
    (
        "logout registry.example",
        3,
        (
            "not logged in: registry.example: got no credentials in ~/containers/auth.json, "
            "~/home/.config/containers/auth.json, ~/home/.docker/config.json"
        ),
        "name the credential file with --authfile",
    ),
    (
        "pull --authfile ~/none docker://localhost:1/app",
        3,
        "no such file: --authfile '~/none'",
        "",
    ),
    (
        "pull --cert-dir ~/none docker://localhost:1/app",
        3,
        "no such directory: --cert-dir '~/none'",
        "",
    ),
    (
        "pull --registries-conf ~/none docker://localhost:1/app",
        3,
        "no such file: --registries-conf '~/none'",
        "",
    ),
    (
        "push app:1.0 oci-archive:~/file",
        2,
        "file exists: oci-archive:~/file",
        "remove it, or name another file",
    ),
    (
        "push app:1.0 oci:~/home/..",
        2,
        (
            "not an OCI image layout: oci:~/home/..: got a directory with other files, "
            "want an empty directory or a layout"
        ),
        "",
    ),
    (
        "push --compression zstd --level 99 app:1.0 oci:~/new",
        2,
        "invalid level: zstd: got 99, want 1 to 22",
        "",
    ),
]


def test_mistake_on_the_command_line_has_its_message(
    pulled: Stacker, app: images.Layout, tmp_path: Path
) -> None:
    saved = tar(file(f"{'0' * 64}.json", b"{}"), file("manifest.json", b"[]"))
    (tmp_path / "saved.tar").write_bytes(saved)
    with tarfile.open(tmp_path / "layout.tar", "w") as archive:
        archive.add(app.path, ".")
    got, want = [], []
    for line, code, message, hint in MISTAKES:
        if hint in ("pull", "mount", "gc"):
            hint = f"`stacker {hint} --help` lists its arguments and options"  # noqa: PLW2901
        words = line.replace("~", str(tmp_path)).split()
        got.append((line, *said(pulled, code, *words)))
        want.append((line, message, hint))
    assert got == want


def test_missing_platform_names_the_platform_of_the_image(
    pulled: Stacker, app: images.Layout
) -> None:
    words = ("pull", "--platform", "linux/s390x", app.source)
    assert said(pulled, 3, *words) == (
        f"no matching platform: image {app.image.config}: got linux/amd64, want linux/s390x",
        "",
    )


def test_prefix_of_two_images_lists_both(
    pulled: Stacker, tmp_path: Path, app: images.Layout
) -> None:
    digit, number = app.image.config[7], 0
    while True:
        layers = [tar(file("a", b"1"))] * (number + 1)
        other = images.layout(tmp_path / f"{number}", layers, name=f"{number}")
        if other.image.config[7] == digit:
            break
        number += 1
    pulled("pull", other.source)
    both = ", ".join(sorted(image.image.config[7:19] for image in (app, other)))
    assert said(pulled, 2, "inspect", digit) == (
        f"ambiguous image: '{digit}': got {both}, want one image",
        f"give more digits of the image ID; `{STACKER} images` lists the IDs",
    )


@needs_root
@pytest.mark.parametrize("driver", ["overlay", "copy"])
def test_busy_target_and_mounted_image_name_the_umount_command(
    pulled: Stacker, app: images.Layout, tmp_path: Path, alone_among_mounts: None, driver: str
) -> None:
    target = tmp_path / "target"
    pulled("mount", "--driver", driver, "app:1.0", target)
    assert said(pulled, 9, "mount", "app:1.0", target) == (
        f"mount target is busy: ~/target: image {app.image.config[7:19]} is mounted there",
        f"{STACKER} umount ~/target",
    )
    assert said(pulled, 8, "rm", "app:1.0") == (
        f"image in use: {app.image.config}: it is mounted at ~/target",
        f"{STACKER} umount ~/target",
    )


@needs_root
def test_hint_unmounts_when_it_is_pasted_from_a_command_with_a_store_option(
    pulled: Stacker, tmp_path: Path, alone_among_mounts: None
) -> None:
    target = tmp_path / "target"
    pulled("mount", "--driver", "overlay", "app:1.0", target)
    hint = pulled.refused(9, "mount", "app:1.0", target).partition("hint: ")[2]
    assert shlex.split(hint)[0] == "stacker"
    command = [sys.executable, "-m", *shlex.split(hint)]
    subprocess.run(command, check=True, env=pulled.environment)
    assert pulled("mounts", "--json").items == []


def test_existing_index_names_the_command_that_removes_it(pulled: Stacker) -> None:
    pulled("index", "create", "both", "app:1.0")
    assert said(pulled, 2, "index", "create", "both", "app:1.0") == (
        "index exists: 'both': got the name of an index in the store, want a new name",
        f"use another name, or remove the index: `{STACKER} index rm both`",
    )
