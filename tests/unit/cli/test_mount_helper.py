"""`mount.stacker`: the arguments of mount(8) as those of `stacker mount`."""

from __future__ import annotations

import pytest

from stacker.cli.mount_helper import mount_words
from stacker.errors import UsageError


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["app", "/mnt"], ["mount", "--quiet", "--", "app", "/mnt"]),
        (
            ["app:1.0", "/mnt", "-v", "-o", "rw,nosuid,driver=fuse"],
            ["mount", "--verbose", "--rw", "--nosuid", "--driver", "fuse", "--", "app:1.0", "/mnt"],
        ),
        (
            ["app", "/mnt", "-n", "-o", "ro,nofail,x-systemd.automount,store=/srv/store"],
            ["--store", "/srv/store", "mount", "--quiet", "--", "app", "/mnt"],
        ),
        (
            ["app", "/mnt", "-s", "-t", "stacker", "-o", "other,upper=/a=b"],
            ["mount", "--quiet", "--upper", "/a=b", "--", "app", "/mnt"],
        ),
        (["app", "/mnt", "-f"], None),
    ],
)
def test_words_of_the_mount(arguments: list[str], words: list[str] | None) -> None:
    assert mount_words(arguments) == words


@pytest.mark.parametrize(
    "arguments", [["app"], [], ["app", "/mnt", "more"], ["app", "/mnt", "-o", "ro,unknown"]]
)
def test_wrong_arguments_are_an_error(arguments: list[str]) -> None:
    with pytest.raises(UsageError):
        mount_words(arguments)
