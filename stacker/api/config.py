"""Read the configuration files, which replace the defaults of options.

The paths of existing TOML files come in; a `Config` goes out.  A later file overrides the keys of
an earlier one.  The command imports this module only when a file exists.  It does not read the
environment.  docs/reference/config.md describes the keys.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from stacker.errors import UsageError
from stacker.mount.plan import DRIVERS
from stacker.operations import forms
from stacker.tar.limits import Limits

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Value = bool | int | str | Path | tuple[Path, ...]
    Check = Callable[[object], Value]

_LIMITS = "limits"
_SIZE = 'a number of bytes, such as 512 or "10M"'
_HINT = "stacker(1) and docs/reference/config.md describe the keys"
_VERBS = {"driver": {"mount"}, "form": {"pull"}, "sync": {"pull"}}
"""Keys that replace the default of an option only for these verbs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The values of all configuration files; ``None`` if no file sets a key.

    Each field replaces the default of the option with its name.

    :param files: the files that were read, in the order in which they were read.
    :param sources: the file that each value comes from, by field.
    :param store: an absolute path; so is each one in `additional_stores`.
    :param max_bytes: this limit and the others are those of `Limits`.
    """

    files: tuple[Path, ...] = ()
    sources: Mapping[str, Path] = field(default_factory=dict)
    store: Path | None = None
    additional_stores: tuple[Path, ...] | None = None
    jobs: int | None = None
    driver: str | None = None
    form: str | None = None
    sync: bool | None = None
    max_bytes: int | None = None
    max_pax_bytes: int | None = None
    max_names: int | None = None
    max_window: int | None = None
    max_entries: int | None = None
    max_depth: int | None = None
    max_ratio: int | None = None
    max_archive_ratio: int | None = None

    def limits(self) -> Limits:
        """Return the limits that the files set; the others have their defaults."""
        set_here = (key for key in _LIMITS_OF if key in self.sources)
        return Limits(**{_LIMITS_OF[key]: getattr(self, key) for key in set_here})

    def defaults(self, verb: str) -> dict[str, object]:
        """Return the defaults that the options of a verb get, by the names of the options."""
        names = [name for name in self.sources if name not in {"store", "additional_stores"}]
        return {name: getattr(self, name) for name in names if verb in _VERBS.get(name, {verb})}


def read_config(files: Sequence[Path]) -> Config:
    """Return the values of configuration files.

    :param files: a later file overrides the values of an earlier one.
    :raises UsageError: a file is malformed, or has an unknown key or a value of another type.
    :raises OSError: a file cannot be read.
    """
    values: dict[str, Value] = {}
    sources: dict[str, Path] = {}
    for path in files:
        found = _read(path)
        values |= found
        sources |= dict.fromkeys(found, path)
    return Config(files=tuple(files), sources=sources, **values)  # type: ignore[arg-type]


def parse_size(text: str) -> int:
    """Return the bytes that ``512``, ``64K``, ``10M``, ``2G`` or ``1T`` means; K is 1024.

    :raises ValueError: the text is not a size.
    """
    found = re.fullmatch(r"(\d+)([KMGT]?)(?:i?B)?", text, re.IGNORECASE | re.ASCII)
    if found is None:
        raise ValueError(f"got {text!r}, want a number of bytes such as 512, 64K, 10M, 2G or 1T")
    power = "KMGT".index(found[2].upper()) + 1 if found[2] else 0
    return int(found[1]) << 10 * power


def key_of(name: str) -> str:
    """Return the key that sets a field of `Config`, such as ``limits.max-bytes``."""
    key = name.replace("_", "-")
    return f"{_LIMITS}.{key}" if name.startswith("max_") else key


def _read(path: Path) -> dict[str, Value]:
    try:
        members = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"malformed TOML: {path}: {error}", hint=_HINT) from None
    limits = members.pop(_LIMITS, {})
    if not isinstance(limits, dict):
        raise _invalid(path, _LIMITS, f"got {limits!r}, want a table")
    keys = {**members, **{f"{_LIMITS}.{key}": value for key, value in limits.items()}}
    return {_FIELDS.get(key, ""): _checked(path, key, value) for key, value in keys.items()}


def _checked(path: Path, key: str, value: object) -> Value:
    if key not in _FIELDS:
        wanted = ", ".join(sorted(_FIELDS, key=lambda each: ("." in each, each)))
        raise _invalid(path, key, f"got an unknown key, want one of {wanted}")
    try:
        return _SETTINGS[_FIELDS[key]][0](value)
    except ValueError as error:
        raise _invalid(path, key, str(error)) from None


def _invalid(path: Path, key: str, fault: str) -> UsageError:
    return UsageError(f"invalid configuration: {path}: {key}: {fault}", hint=_HINT)


def _directory(value: object) -> Path:
    if isinstance(value, str):
        try:
            path = Path(value).expanduser()
        except RuntimeError:
            path = Path(value)
        if path.is_absolute():
            return path
    raise ValueError(f"got {value!r}, want an absolute path, or one that begins with ~/")


def _directories(value: object) -> tuple[Path, ...]:
    if isinstance(value, list):
        return tuple(map(_directory, value))
    raise ValueError(f"got {value!r}, want a list of directories")


def _count(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    raise ValueError(f"got {value!r}, want a whole number, one or more")


def _size(value: object) -> int:
    if isinstance(value, str | int) and not isinstance(value, bool):
        return parse_size(str(value))
    raise ValueError(f"got {value!r}, want {_SIZE}")


def _switch(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError(f"got {value!r}, want true or false")


def _one_of(choices: Sequence[str]) -> Check:
    def check(value: object) -> str:
        if isinstance(value, str) and value in choices:
            return value
        raise ValueError(f"got {value!r}, want one of {', '.join(choices)}")

    return check


_SETTINGS: dict[str, tuple[Check, str, str]] = {
    "store": (_directory, "an absolute path, or one that begins with `~/`", "--store"),
    "additional_stores": (
        _directories,
        "a list of paths like that of `store`",
        "--additional-store",
    ),
    "jobs": (_count, "a whole number", "--jobs of every verb"),
    "driver": (_one_of(DRIVERS), ", ".join(DRIVERS), "--driver of `mount`"),
    "form": (_one_of(forms.OPTIONS), ", ".join(forms.OPTIONS), "--form of `pull`"),
    "sync": (_switch, "true or false", "--sync or --no-sync of `pull`"),
    "max_bytes": (_size, _SIZE, "--max-bytes"),
    "max_pax_bytes": (_size, _SIZE, "--max-pax-bytes"),
    "max_names": (_size, _SIZE, "--max-names"),
    "max_window": (_size, _SIZE, "--max-window"),
    "max_entries": (_count, "a whole number", "--max-entries"),
    "max_depth": (_count, "a whole number", "--max-depth"),
    "max_ratio": (_count, "a whole number", "--max-ratio"),
    "max_archive_ratio": (_count, "a whole number", "--max-archive-ratio"),
}
"""The check of each value, its description, and the option; in the order of the documentation."""
KEYS = tuple((key_of(name), want, sets) for name, (_, want, sets) in _SETTINGS.items())
"""Each key, its values, and the option whose default it replaces."""
_LIMITS_OF = {
    "max_bytes": "unpacked_bytes",
    "max_archive_ratio": "archive_ratio",
    "max_pax_bytes": "pax_bytes",
    "max_names": "names",
    "max_window": "window",
    "max_entries": "entries",
    "max_depth": "depth",
    "max_ratio": "ratio",
}
"""The field of `Limits` for each field of `Config` that is a limit."""
_FIELDS = {key_of(name): name for name in _SETTINGS}
