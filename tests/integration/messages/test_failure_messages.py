"""The whole message of failures: of the store, of a layer, of the disk and of a registry."""

from __future__ import annotations

import json
import os
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from stacker.linux import mountapi
from tests.support import images
from tests.support.certificates import Authority, needs_openssl
from tests.support.command import Stacker, at_home, said
from tests.support.registries import FakeRegistry, Handler, fake_registry
from tests.support.tars import file, hardlink, tar

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")


@pytest.fixture
def server(app: images.Layout) -> Iterator[FakeRegistry]:
    with fake_registry() as server:
        server.put("app", "1.0", app.path)
        yield server


def test_store_of_a_newer_version_asks_for_an_update(pulled: Stacker) -> None:
    (pulled.store / "stacker.json").write_text('{"version": 99}')
    assert said(pulled, 7, "images") == (
        "unknown store: ~/store: got version 99, want version 1",
        "update stacker: a newer version created the store",
    )


def test_directory_that_is_no_store_names_the_store_option(pulled: Stacker, tmp_path: Path) -> None:
    assert said(pulled, 2, "--store", tmp_path / "app", "images") == (
        "not a store: ~/app: got a directory with other files, want an empty one",
        "name an empty or a missing directory with --store",
    )
    assert said(pulled, 1, "--store", tmp_path / "file", "images") == (
        "cannot open the store: ~/file: Not a directory",
        "name a writable directory with --store or STACKER_STORE",
    )


def test_store_without_permission_names_the_store_option(
    pulled: Stacker, tmp_path: Path, unprivileged_python: str
) -> None:
    (tmp_path / "locked").mkdir(mode=0o700)
    wrap = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    other = Stacker(
        tmp_path / "locked/store", wrap=wrap, python=unprivileged_python, environ=pulled.environ
    )
    text = other.refused(1, "images").replace(str(tmp_path), "~").splitlines()
    assert text[0].endswith("/locked/store: Permission denied")
    assert text[1] == "hint: name a writable directory with --store or STACKER_STORE"


def test_damaged_layer_names_the_repair_of_the_chosen_images(
    pulled: Stacker, app: images.Layout
) -> None:
    digest = app.image.diff_ids[0]
    (pulled.store / "layers/sha256" / digest[7:] / "diff/a").write_bytes(b"2")
    done = pulled.run("verify", "app:1.0")
    repair = f"stacker --store {pulled.store} repair app:1.0"
    assert (done.code, done.err) == (
        5,
        (
            f"stacker: error: damaged: layer {digest}: got changed content, "
            "want the content that was pulled\n"
            f"hint: `{repair}` replaces damaged layers and chains\n"
        ),
    )


def test_link_without_a_target_names_link_and_target(pulled: Stacker, tmp_path: Path) -> None:
    bad = images.layout(tmp_path / "bad", [tar(hardlink("b", "gone"))], name="bad")
    (diff_id,) = bad.image.diff_ids
    assert said(pulled, 6, "pull", bad.source) == (
        (
            f"malformed hard link: layer {diff_id}: b: got the target gone, which does not exist, "
            "want a file of this layer or one below"
        ),
        "",
    )


@needs_root
def test_full_disk_names_the_file_and_the_store_option(app: images.Layout, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mountapi.mount("tmpfs", small, "tmpfs", 0, b"size=1048576")
    large = images.layout(tmp_path / "large", [tar(file("a", os.urandom(2 << 20)))])
    stacker = at_home(tmp_path, "small/store")
    text = stacker.refused(1, "pull", "--sync", large.source).splitlines()
    assert text == [
        (
            f"stacker: error: cannot unpack: layer {large.image.diff_ids[0]}: a: "
            "No space left on device"
        ),
        "hint: free some space, or name a store on another filesystem with --store",
    ]


def test_registry_that_is_down_gives_the_reason_of_the_kernel(pulled: Stacker) -> None:
    assert said(pulled, 10, "pull", "docker://localhost:1/app:1.0") == (
        "cannot reach the registry: localhost:1/app: Connection refused",
        "check the host and the port of the registry",
    )


@needs_openssl
def test_certificate_of_an_unknown_ca_names_the_cert_dir_option(
    pulled: Stacker, tmp_path: Path
) -> None:
    context = Authority(tmp_path / "authority").context("IP:127.0.0.1")
    with fake_registry(tls=context) as server:
        message, hint = said(pulled, 10, "pull", f"docker://{server.host}/app:1.0")
        assert message == (
            f"cannot reach the registry: {server.host}/app: "
            "its certificate is not signed by a trusted CA"
        )
        assert (
            hint == "install the registry's CA certificate, or name its directory with --cert-dir"
        )


@pytest.mark.parametrize("verb", ["pull", "inspect"])
def test_missing_tag_names_the_command_that_lists_the_tags(
    pulled: Stacker, server: FakeRegistry, verb: str
) -> None:
    place = f"{server.host}/app"
    assert said(pulled, 3, verb, f"docker://{place}:nope") == (
        f"no such tag: {place}: 'nope'",
        f"`stacker tags docker://{place}` lists the tags, if the repository exists",
    )


def test_missing_digest_is_named(pulled: Stacker, server: FakeRegistry) -> None:
    digest = f"sha256:{'0' * 64}"
    assert said(pulled, 3, "pull", f"docker://{server.host}/app@{digest}") == (
        f"no such manifest: {server.host}/app: {digest}",
        "",
    )


def test_registry_that_requires_credentials_names_the_login_command(
    pulled: Stacker, server: FakeRegistry
) -> None:
    def challenge(request: Handler) -> bool:
        return request.answer(401, headers={"WWW-Authenticate": 'Basic realm="tests"'})

    server.quirk = challenge
    place = f"{server.host}/app"
    assert said(pulled, 4, "pull", f"docker://{place}:1.0") == (
        f"authentication required: {place}: got no credentials, want a login",
        "log in with `stacker login`, or name a credential file with --authfile",
    )


def test_malformed_helper_name_is_not_printed(
    pulled: Stacker, tmp_path: Path, server: FakeRegistry
) -> None:
    (tmp_path / "auth.json").write_text(json.dumps({"credHelpers": {server.host: "a/b"}}))
    server.quirk = lambda request: request.answer(
        401, headers={"WWW-Authenticate": 'Basic realm="tests"'}
    )
    words = ("pull", "--authfile", tmp_path / "auth.json", f"docker://{server.host}/app:1.0")
    assert said(pulled, 5, *words) == (
        (
            f"malformed name of a credential helper: for {server.host}: got other characters, want "
            "only letters, digits, '_', '.' and '-'"
        ),
        "correct credHelpers and credsStore in the credential file",
    )


def test_option_of_stacker_fuse_without_a_value_names_the_option() -> None:
    command = ["-m", "stacker.cli.stacker_fuse", "-o", "lowerdir=/,upperdir=", "/mnt"]
    done = subprocess.run(
        [Stacker(Path()).python, *command], check=False, capture_output=True, text=True
    )
    assert done.stderr == textwrap.dedent(
        """\
        stacker-fuse: error: invalid value: option upperdir: got nothing, want a path or a name
        stacker-fuse: hint: see `stacker-fuse --help`
        """
    )
