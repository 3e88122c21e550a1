"""What stacker-fuse is asked for, in the words of others."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stacker.cli.stacker_fuse_options import Arguments, parse, ranges, unescaped
from stacker.errors import UsageError
from stacker.layer.whiteout_format import WhiteoutFormat
from stacker.linux.process import IdRange
from stacker.mount.plan import Plan

PATHS = st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20
).map(lambda text: "/" + text)
PODMAN = (
    "nodev,fsync=0,lowerdir=/s/l/ONE:/s/l/TWO,upperdir=/s/x/diff,workdir=/s/x/work,,volatile",
    "/s/x/merged",
)


def test_podmans_words_are_understood() -> None:
    options, target = PODMAN
    assert parse(["-o", options, target]) == Arguments(
        target=target,
        lowers=["/s/l/ONE", "/s/l/TWO"],
        upper="/s/x/diff",
        work="/s/x/work",
        options={"nodev"},
        volatile=True,
    )


@pytest.mark.parametrize(
    "words",
    [
        ["overlay", "/mnt", "-o", "rw,lowerdir=/a:/b,dev,suid"],
        ["-o", "rw,lowerdir=/a:/b,dev,suid", "overlay", "/mnt"],
        ["overlay", "-orw,lowerdir=/a:/b", "/mnt", "-o", "suid,dev"],
        ["-o", "lowerdir+=/a,lowerdir+=/b", "--", "overlay", "/mnt"],
        ["/mnt", "-o", "fsname=overlay,lowerdir=/a:/b"],
    ],
)
def test_order_and_form_of_the_words_do_not_matter(words: list[str]) -> None:
    assert parse(words) == Arguments(source="overlay", target="/mnt", lowers=["/a", "/b"])


def test_without_a_source_it_is_the_programs_name() -> None:
    assert parse(["/mnt", "-o", "lowerdir=/a"]).source == "stacker-fuse"


def options(text: str) -> Arguments:
    return parse(["-o", f"lowerdir=/a,{text}", "/mnt"])


PLAIN = Arguments(target="/mnt", lowers=["/a"])


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ("ro", {"read_only": True}),
        ("ro,rw", {}),
        ("nosuid,noexec,exec", {"options": {"nosuid"}}),
        ("allow_other", {"allow_other": True}),
        ("allow_root", {"allow_other": False}),
        ("default_permissions,static_nlink,redirect_dir=off,metacopy=off", {}),
        ("timeout=5,max_write=4096,x-systemd.automount,nofail,_netdev,fast_ino=1", {}),
        ("userxattr", {"userxattr": True}),
        ("noacl", {"acls": False}),
        ("fsync=0", {"volatile": True}),
        ("squash_to_root", {"squashed_user": 0, "squashed_group": 0}),
        ("squash_to_uid=7,squash_to_root", {"squashed_user": 7, "squashed_group": 0}),
        ("squash_to_root,squash_to_gid=8", {"squashed_user": 0, "squashed_group": 8}),
        (
            "uidmapping=0:1000:1:1:110000:65536,gidmapping=:0:5:6",
            {
                "users": (IdRange(0, 1000, 1), IdRange(1, 110000, 65536)),
                "groups": (IdRange(0, 5, 6),),
            },
        ),
        ("debug", {"foreground": True, "debug": True}),
    ],
)
def test_options_of_fuse_overlayfs_mean_the_same(text: str, changes: dict[str, object]) -> None:
    assert options(text) == replace(PLAIN, **changes)  # type: ignore[arg-type]


def test_unknown_words_are_named_and_passed_over() -> None:
    wanted = parse(["--what", "-o", "lowerdir=/a,one,two=2,redirect_dir=on,plugins=x", "/mnt"])
    assert wanted.unknown == ["--what", "one", "two=2", "redirect_dir=on", "plugins=x"]


def test_a_comma_in_an_selinux_context_does_not_end_it() -> None:
    wanted = options('context="system_u:object_r:t:s0:c1,c2",ro')
    assert wanted.unknown == ['context="system_u:object_r:t:s0:c1,c2"']
    assert wanted.read_only


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "number of names"),
        (["-o", "lowerdir=/a"], "number of names"),
        (["a", "b", "c", "-o", "lowerdir=/a"], "number of names"),
        (["overlay", "", "-o", "lowerdir=/a"], "number of names"),
        (["/mnt", "-o", "remount,ro,lowerdir=/a"], "cannot remount"),
        (["/mnt", "-o", "lowerdir=/a,upperdir=,workdir=/w"], "option upperdir: got nothing"),
        (["/mnt"], "lowerdir"),
        (["/mnt", "-o", "lowerdir="], "lowerdir"),
        (["/mnt", "-o"], "-o"),
        (["/mnt", "-o", "lowerdir=/a,upperdir=/u"], "workdir"),
        (["/mnt", "-o", "lowerdir=/a,squash_to_uid=me"], "'me'"),
        (["/mnt", "-o", "lowerdir=/a,squash_to_uid=4294967295"], "'4294967295'"),
        (["/mnt", "-o", "lowerdir=/a,uidmapping=1:2"], "1:2"),
        (["/mnt", "-o", "lowerdir=/a,gidmapping=1:2:x"], "'x'"),
    ],
)
def test_invalid_options_are_usage_errors(words: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse(words)


@pytest.mark.parametrize(("word", "shown"), [("-h", "help"), ("--help", "help"), ("-V", "version")])
def test_help_and_version_need_no_other_argument(word: str, shown: str) -> None:
    assert parse([word]).show == shown


@given(st.lists(PATHS, min_size=1, max_size=4), PATHS, PATHS)
def test_options_of_a_printed_plan_are_parsed(lowers: list[str], upper: str, work: str) -> None:
    layers = tuple(map(Path, lowers))
    plan = Plan("id", Path("/mnt"), layers, WhiteoutFormat.USER, False, Path(upper), Path(work))
    mounts: Any = plan.to_json("fuse")["mounts"]
    wanted = parse(["-o", ",".join(mounts[0]["options"]), "/mnt"])
    assert (wanted.lowers, wanted.unknown) == ([str(layer) for layer in layers], [])
    assert (wanted.upper, wanted.work) == (str(Path(upper)), str(Path(work)))


@given(st.lists(st.text(max_size=30), max_size=4))
def test_any_words_are_read_or_refused(words: list[str]) -> None:
    with suppress(UsageError):
        wanted = parse(words)
        assert wanted.show or (wanted.target and wanted.lowers)


@given(st.text())
def test_text_without_backslashes_is_unescaped_unchanged(text: str) -> None:
    plain = text.replace("\\", "")
    assert unescaped(plain) == plain


@given(st.lists(st.tuples(*[st.integers(0, 2**32 - 2)] * 3), max_size=4))
def test_a_mapping_is_read_as_written(triples: list[tuple[int, int, int]]) -> None:
    text = ":".join(f"{kept}:{shown}:{count}" for kept, shown, count in triples)
    assert ranges(text) == tuple(IdRange(*each) for each in triples)
