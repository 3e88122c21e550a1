"""Which registries.conf counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from stacker.cli.options import parse
from stacker.errors import NotFoundError, UsageError
from stacker.registry.environment import conf_files, proxies, registries_conf


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    for place in ("system", "user"):
        (tmp_path / place / "registries.conf.d").mkdir(parents=True)
        for name in ("2.conf", "10.conf", "not-me"):
            (tmp_path / place / "registries.conf.d" / name).write_text("")
    return tmp_path / "system", tmp_path / "user"


def test_a_user_s_file_takes_the_place_of_the_system_s(places: tuple[Path, Path]) -> None:
    system, user = places

    def names() -> list[str]:
        return [str(path.relative_to(system.parent)) for path in conf_files(system, user)]

    user_drop_ins = ["user/registries.conf.d/10.conf", "user/registries.conf.d/2.conf"]
    drop_ins = ["system/registries.conf.d/10.conf", "system/registries.conf.d/2.conf"]
    assert names() == [*drop_ins, *user_drop_ins]
    (system / "registries.conf").write_text("")
    assert names() == ["system/registries.conf", *drop_ins, *user_drop_ins]
    (user / "registries.conf").write_text("")
    assert names() == ["user/registries.conf", *user_drop_ins]


def test_missing_directories_have_no_conf_files(tmp_path: Path) -> None:
    assert conf_files(tmp_path, tmp_path) == []


def test_named_registries_conf_replaces_all_other_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(f'unqualified-search-registries = ["{name}.example"]')
    environ = {"CONTAINERS_REGISTRIES_CONF": str(tmp_path / "a")}
    assert registries_conf(None, environ).search == ("a.example",)
    assert registries_conf(str(tmp_path / "b"), environ).search == ("b.example",)
    with pytest.raises(NotFoundError):
        registries_conf(str(tmp_path / "c"), environ)


def test_xdg_config_home_contains_the_registries_conf_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "containers").mkdir()
    (tmp_path / "containers" / "registries.conf").write_text('[aliases]\nx = "a.example/x"')
    conf = registries_conf(None, {"XDG_CONFIG_HOME": str(tmp_path)})
    assert conf.aliases == {"x": "a.example/x"}


def test_proxies_are_named_in_upper_or_lower_case() -> None:
    assert proxies({}).https == ""
    environ = {"https_proxy": "http://lower.example", "no_proxy": "a.example"}
    assert proxies(environ).https == "http://lower.example"
    found = proxies({**environ, "HTTPS_PROXY": "upper.example:1", "NO_PROXY": "*"})
    assert (found.https, found.no_proxy) == ("http://upper.example:1", ("*",))


@pytest.mark.parametrize(
    ("words", "insecure"),
    [
        ([], False),
        (["--tls-verify=false"], True),
        (["--tls-verify=true"], False),
        (["--tls-verify", "False"], True),
        (["--insecure"], True),
    ],
)
def test_tls_verify_is_another_word_for_insecure(words: list[str], insecure: bool) -> None:
    _, args = parse(["pull", "docker://registry.example/app", *words])
    assert args.insecure is insecure
    with pytest.raises(UsageError):
        parse(["pull", "x", "--tls-verify=maybe"])
