"""Login and logout: credentials are checked, saved for podman and skopeo, and never printed."""

from __future__ import annotations

import base64
import json
import os
import pty
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import images
from tests.support.certificates import Authority, needs_openssl
from tests.support.command import Result, Stacker, conforming
from tests.support.proxies import fake_proxy
from tests.support.registries import (
    PASSWORD,
    USER,
    FakeRegistry,
    Handler,
    debian_registry,
    fake_registry,
    log_in,
    needs_registry,
    with_passwords,
)
from tests.support.tars import file, tar


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield a registry with a password."""
    root = tmp_path_factory.mktemp("locked")
    with debian_registry(root / "registry", auth=with_passwords(root)) as host:
        yield host


@pytest.fixture
def stacker(tmp_path: Path) -> Stacker:
    """Return the command with an empty home directory and a helper in its PATH."""
    (tmp_path / "home").mkdir()
    (tmp_path / "bin").mkdir()
    helper = tmp_path / "bin" / "docker-credential-tests"
    helper.write_text(HELPER.format(secret=tmp_path / "secret"))
    helper.chmod(0o755)
    return Stacker(
        tmp_path / "store",
        environ={
            "HOME": str(tmp_path / "home"),
            "REGISTRY_AUTH_FILE": "",
            "DOCKER_CONFIG": "",
            "XDG_RUNTIME_DIR": str(tmp_path / "run"),
            "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
        },
    )


HELPER = """#!/bin/sh
case $1 in
store) cat > {secret};;
erase) rm {secret};;
get) [ -e {secret} ] && cat {secret} || {{ echo "credentials not found in native keychain"; exit 1; }};;
esac
"""  # noqa: E501


def default(tmp_path: Path) -> Path:
    return tmp_path / "run" / "containers" / "auth.json"


def auths(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_bytes())["auths"]
    assert isinstance(found, dict)
    return found


@needs_registry
def test_login_is_used_by_push_and_by_skopeo(stacker: Stacker, locked: str, tmp_path: Path) -> None:
    layout = images.layout(tmp_path / "app", [tar(file("a", b"1"))])
    stacker("pull", layout.source)
    place = f"docker://{locked}/app:1.0"
    stacker.refused(4, "push", "app:1.0", place)
    done = log_in(stacker, locked, "--json")
    assert done.code == 0, done.err
    conforming(done.document)
    assert done.item == {"host": locked, "place": str(default(tmp_path))}
    assert stat.S_IMODE(default(tmp_path).stat().st_mode) == 0o600
    assert stat.S_IMODE(default(tmp_path).parent.stat().st_mode) == 0o700
    digest = stacker("push", "app:1.0", place).last
    words = ["skopeo", "inspect", "--tls-verify=false", "--authfile", str(default(tmp_path)), place]
    said = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    assert json.loads(said)["Digest"] == digest
    out = stacker("logout", locked, "--json")
    conforming(out.document)
    stacker.refused(4, "push", "app:1.0", place)
    stacker.refused(3, "logout", locked)


@needs_registry
def test_skopeo_reads_the_saved_login(stacker: Stacker, locked: str, tmp_path: Path) -> None:
    assert log_in(stacker, locked, "--authfile", tmp_path / "mine.json").code == 0
    words = ["skopeo", "login", "--get-login", "--authfile", str(tmp_path / "mine.json"), locked]
    said = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    assert said.strip() == USER


@needs_registry
def test_wrong_password_is_not_saved(stacker: Stacker, locked: str, tmp_path: Path) -> None:
    done = log_in(stacker, locked, password="not-the-word")
    assert done.code == 4
    assert "credentials refused" in done.err
    assert not default(tmp_path).exists()


@needs_registry
def test_login_keeps_other_entries(stacker: Stacker, locked: str, tmp_path: Path) -> None:
    before: dict[str, dict[str, Any]] = {
        "auths": {"registry.example": {"auth": "YTpi"}, locked: {"auth": "YTpi"}},
        "credHelpers": {"other.example": "other"},
        "HttpHeaders": {"X": "1"},
    }
    place = tmp_path / "real.json"
    place.write_text(json.dumps(before))
    link = tmp_path / "mine.json"
    link.symlink_to("real.json")
    assert log_in(stacker, locked, "--authfile", link).code == 0
    assert link.is_symlink()
    after = json.loads(place.read_bytes())
    entry = after["auths"].pop(locked)
    assert entry.keys() == {"auth"}
    assert entry["auth"] != "YTpi"
    del before["auths"][locked]
    assert after == before
    stacker("logout", locked, "--authfile", link)
    assert json.loads(place.read_bytes()) == before


@needs_registry
@pytest.mark.parametrize("kind", ["credHelpers", "credsStore"])
def test_helper_gets_the_secret_instead_of_the_file(
    stacker: Stacker, locked: str, tmp_path: Path, kind: str
) -> None:
    config = tmp_path / "home" / ".docker" / "config.json"
    config.parent.mkdir()
    named: object = {locked: "tests"} if kind == "credHelpers" else "tests"
    config.write_text(json.dumps({kind: named, "auths": {locked: {"auth": "YTpi"}}}))
    done = log_in(stacker, locked, "--json")
    assert done.item["place"] == "docker-credential-tests"
    secret = json.loads((tmp_path / "secret").read_bytes())
    assert secret == {"ServerURL": locked, "Username": USER, "Secret": PASSWORD}
    assert auths(config) == {locked: {}}
    assert not default(tmp_path).exists()
    stacker.refused(3, "tags", f"docker://{locked}/none")  # 3, not 4: the credentials are accepted
    stacker("logout", locked)
    assert not (tmp_path / "secret").exists()
    stacker.refused(4, "tags", f"docker://{locked}/none")


def test_login_to_an_open_registry_warns(
    stacker: Stacker, server: FakeRegistry, tmp_path: Path
) -> None:
    done = log_in(stacker, server.host)
    assert (done.code, done.out) == (0, "")
    assert "requires no credentials" in done.err
    assert server.host in auths(default(tmp_path))


@pytest.mark.parametrize("status", [403, 404, 500])
def test_server_that_is_no_registry_gets_no_entry(
    stacker: Stacker, server: FakeRegistry, tmp_path: Path, status: int
) -> None:
    server.quirk = lambda request: request.answer(status)
    assert log_in(stacker, server.host).code in (3, 4, 10)
    assert not default(tmp_path).exists()


@pytest.mark.parametrize(
    "words",
    [
        ("registry.example",),
        ("registry.example", "-u", USER),
        ("registry.example", "--password-stdin"),
        ("registry.example", "-u", USER, "--password-stdin"),
        ("https://registry.example", "-u", USER),
        ("registry.example/team", "-u", USER),
        ("registry", "-u", USER),
    ],
)
def test_missing_user_name_or_password_is_an_error(
    stacker: Stacker, words: tuple[str, ...]
) -> None:
    stacker.refused(2, "login", *words)


def test_no_option_takes_a_password(stacker: Stacker) -> None:
    assert "--password" in stacker.refused(2, "login", "--password", "x", "registry.example")


@needs_registry
def test_terminal_prompt_does_not_echo_the_password(
    stacker: Stacker, locked: str, tmp_path: Path
) -> None:
    person, terminal = pty.openpty()
    started = subprocess.Popen(
        ["setsid", "--ctty", *stacker.words("login", locked)],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env=stacker.environment,
    )
    os.close(terminal)
    seen = _until(person, b"User name: ")
    os.write(person, USER.encode() + b"\n")
    seen += _until(person, b"Password: ")
    os.write(person, PASSWORD.encode() + b"\n")
    seen += _until(person, b"logged in")
    assert started.wait() == 0
    os.close(person)
    assert PASSWORD.encode() not in seen
    assert locked in auths(default(tmp_path))


def _until(person: int, words: bytes) -> bytes:
    seen = b""
    while words not in seen:
        seen += os.read(person, 1000)
    return seen


DOCKER_KEY = "https://index.docker.io/v1/"
BASIC = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()


@pytest.fixture
def hub(stacker: Stacker, tmp_path: Path) -> Iterator[FakeRegistry]:
    """Let a registry on loopback, which requires the password, answer for docker.io."""

    def refuse(request: Handler) -> bool:
        challenge = {"WWW-Authenticate": 'Basic realm="hub"'}
        is_known = request.headers.get("Authorization") == BASIC
        return not is_known and request.answer(401, headers=challenge)

    authority = Authority(tmp_path / "authority")
    context = authority.context("DNS:registry-1.docker.io")
    layout = images.layout(tmp_path / "alpine", [tar(file("a", b"1"))])
    with fake_registry(tls=context) as server, fake_proxy() as proxy:
        server.quirk = refuse
        server.put("library/alpine", "latest", layout.path)
        proxy.routes = {"registry-1.docker.io:443": server.host}
        stacker.environ["HTTPS_PROXY"] = proxy.host
        stacker.environ["SSL_CERT_FILE"] = str(authority.certificate)
        stacker.environ["CONTAINERS_REGISTRIES_CONF"] = os.devnull
        yield server


def docker_config(tmp_path: Path) -> Path:
    config = tmp_path / "home" / ".docker" / "config.json"
    config.parent.mkdir(exist_ok=True)
    return config


def log_in_to_the_default_registry(stacker: Stacker, *options: str) -> Result:
    process = stacker.start(
        "login", "--username", USER, "--password-stdin", *options, text=f"{PASSWORD}\n"
    )
    out, err = process.communicate()
    return Result(process.returncode, out, err)


@needs_openssl
def test_login_without_a_registry_is_to_docker_io(
    stacker: Stacker, hub: FakeRegistry, tmp_path: Path
) -> None:
    text = stacker.refused(4, "pull", "alpine")
    assert "docker.io/library/alpine" in text
    assert "registry-1" not in text
    done = log_in_to_the_default_registry(stacker, "--json")
    assert conforming(done.document)["item"] == {
        "host": "docker.io",
        "place": str(default(tmp_path)),
    }
    assert auths(default(tmp_path)).keys() == {"docker.io"}
    stacker("pull", "alpine")
    assert stacker("images", "--format", "{names[0]}").last == "docker.io/library/alpine:latest"
    assert conforming(stacker("logout", "--json").document)["item"]["host"] == "docker.io"
    assert auths(default(tmp_path)) == {}
    stacker.refused(4, "pull", "alpine")
    assert "docker.io" in stacker.refused(3, "logout")


@needs_openssl
@pytest.mark.parametrize(
    "key",
    [DOCKER_KEY, "docker.io", "index.docker.io", "docker.io/library", "https://index.docker.io"],
)
def test_login_of_docker_is_used_for_docker_io(
    stacker: Stacker, hub: FakeRegistry, tmp_path: Path, key: str
) -> None:
    entry = {"auth": BASIC.removeprefix("Basic ")}
    others = {"https://index.docker.io/v1/access-token": {"auth": "YTpi"}}
    if not key.endswith("index.docker.io"):
        docker_config(tmp_path).write_text(json.dumps({"auths": {**others, key: entry}}))
    else:
        docker_config(tmp_path).write_text(json.dumps({"auths": {key: entry}}))
    stacker("pull", "alpine")


@needs_openssl
@pytest.mark.parametrize("kind", ["credsStore", "credHelpers"])
@pytest.mark.parametrize("server", [DOCKER_KEY, "docker.io"])
def test_helper_is_asked_for_docker_io_by_its_names(
    stacker: Stacker, hub: FakeRegistry, tmp_path: Path, kind: str, server: str
) -> None:
    helper = tmp_path / "bin" / "docker-credential-strict"
    secret = json.dumps({"ServerURL": server, "Username": USER, "Secret": PASSWORD})
    helper.write_text(
        "#!/bin/sh\nread -r server\n"
        f'if [ "$1 $server" = "get {server}" ]; then echo \'{secret}\'\n'
        "else echo credentials not found in native keychain; exit 1; fi\n"
    )
    helper.chmod(0o755)
    named: object = {server: "strict"} if kind == "credHelpers" else "strict"
    docker_config(tmp_path).write_text(json.dumps({kind: named}))
    stacker("pull", "alpine")


@needs_openssl
def test_login_updates_the_file_of_docker_under_its_key(
    stacker: Stacker, hub: FakeRegistry, tmp_path: Path
) -> None:
    config = docker_config(tmp_path)
    config.write_text(json.dumps({"auths": {DOCKER_KEY: {"auth": "YTpi"}}}))
    assert log_in_to_the_default_registry(stacker).code == 0
    assert auths(config) == {DOCKER_KEY: {"auth": BASIC.removeprefix("Basic ")}}
    config.write_text("{}")
    assert log_in_to_the_default_registry(stacker, "--authfile", str(config)).code == 0
    assert auths(config).keys() == {DOCKER_KEY}
    stacker("logout")
    assert auths(config) == {}


@needs_openssl
def test_helper_of_docker_stores_the_password_for_docker_io(
    stacker: Stacker, hub: FakeRegistry, tmp_path: Path
) -> None:
    config = docker_config(tmp_path)
    config.write_text(json.dumps({"credsStore": "tests"}))
    assert log_in_to_the_default_registry(stacker).code == 0
    secret = json.loads((tmp_path / "secret").read_bytes())
    assert secret == {"ServerURL": DOCKER_KEY, "Username": USER, "Secret": PASSWORD}
    assert auths(config) == {DOCKER_KEY: {}}
    stacker("pull", "alpine")
    stacker("logout")
    assert not (tmp_path / "secret").exists()


@needs_registry
@pytest.mark.parametrize("name", ["auth.json", "config.json"])
def test_skopeo_reads_the_login_to_docker_io(
    stacker: Stacker, hub: FakeRegistry, tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    path.write_text("{}")
    assert log_in_to_the_default_registry(stacker, "--authfile", str(path)).code == 0
    words = ["skopeo", "login", "--get-login", "--authfile", str(path), "docker.io"]
    said = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    assert said.strip() == USER
