"""Changes of an image's config, written as instructions of a Containerfile.

Text such as ``ENV PATH=/bin`` comes in; an `Instruction` goes out, which changes the JSON object of
a config.  This module must not build images.
Sources: Containerfile(5); image-spec config.md, "config".
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from stacker.errors import UsageError
from stacker.image.document import quoted

if TYPE_CHECKING:
    from collections.abc import Callable

    Members = dict[str, object]

_SHELL: Final = ("/bin/sh", "-c")


@dataclass(frozen=True, slots=True)
class Instruction:
    """One change of a config.

    :param name: the instruction, in upper case.
    :param value: its arguments, as they were written.
    """

    name: str
    value: str

    @classmethod
    def parse(cls, text: str) -> Instruction:
        """Return an instruction.

        :param text: ``NAME ARGUMENTS`` or ``NAME=ARGUMENTS``, as podman and docker accept it.
        :raises UsageError: the instruction is unknown, or its arguments are malformed.
        """
        name = text.lstrip().replace("=", " ", 1).split(" ")[0]
        found = cls(name.upper(), text.lstrip()[len(name) + 1 :].strip())
        if found.name not in _EFFECTS:
            raise UsageError(
                f"unknown instruction: got {quoted(text)}, want one of {', '.join(_EFFECTS)}",
                hint="for example -c 'ENV LANG=C'",
            )
        found.apply({})
        return found

    def apply(self, config: Members) -> None:
        """Change the member ``config`` of a config.

        :raises UsageError: the arguments are malformed.
        """
        _EFFECTS[self.name](config, self)

    def words(self) -> list[str]:
        """Return the arguments as a shell splits them.

        :raises UsageError: a quotation mark is missing, or there are no arguments.
        """
        try:
            words = shlex.split(self.value)
        except ValueError:
            words = []
        if not words:
            raise self.malformed("one or more words")
        return words

    def pairs(self) -> dict[str, str]:
        """Return the arguments ``KEY=VALUE``; a single pair can be ``KEY VALUE``.

        :raises UsageError: a word is not a pair.
        """
        words = self.words()
        if "=" not in words[0] and len(words) > 1:
            return {words[0]: self.value.split(None, 1)[1]}
        if any(word.partition("=")[1:] == ("", "") or word[:1] == "=" for word in words):
            raise self.malformed("KEY=VALUE")
        return {word.partition("=")[0]: word.partition("=")[2] for word in words}

    def command(self) -> list[str]:
        """Return a command: a JSON list of strings, or text for a shell.

        :raises UsageError: the list is malformed.
        """
        if not self.value.startswith("["):
            return [*_SHELL, self.value] if self.value else []
        try:
            words = json.loads(self.value)
        except ValueError:
            words = None
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise self.malformed('a list such as ["sh", "-c", "date"]')
        return words

    def malformed(self, want: str) -> UsageError:
        """Return the error about these arguments."""
        return UsageError(
            f"malformed instruction: {self.name}: got {quoted(self.value)}, want {want}"
        )


def _set(member: str) -> Callable[[Members, Instruction], None]:
    def effect(config: Members, instruction: Instruction) -> None:
        config[member] = " ".join(instruction.words())

    return effect


def _set_env(config: Members, instruction: Instruction) -> None:
    before = config.get("Env")
    variables = dict(str(each).partition("=")[::2] for each in before or () if each)  # type: ignore[attr-defined]
    config["Env"] = [f"{k}={v}" for k, v in {**variables, **instruction.pairs()}.items()]


def _set_labels(config: Members, instruction: Instruction) -> None:
    before = config.get("Labels")
    config["Labels"] = {**(before if isinstance(before, dict) else {}), **instruction.pairs()}


def _add_to(member: str) -> Callable[[Members, Instruction], None]:
    def effect(config: Members, instruction: Instruction) -> None:
        before = config.get(member)
        words = instruction.words()
        if instruction.name == "VOLUME" and instruction.value.startswith("["):
            words = instruction.command()
        if instruction.name == "EXPOSE":
            words = [word if "/" in word else f"{word}/tcp" for word in words]
        added: Members = {word: {} for word in words}
        config[member] = {**(before if isinstance(before, dict) else {}), **added}

    return effect


def _set_command(member: str) -> Callable[[Members, Instruction], None]:
    def effect(config: Members, instruction: Instruction) -> None:
        config[member] = instruction.command()

    return effect


_EFFECTS: Final[dict[str, Callable[[Members, Instruction], None]]] = {
    "CMD": _set_command("Cmd"),
    "ENTRYPOINT": _set_command("Entrypoint"),
    "ENV": _set_env,
    "EXPOSE": _add_to("ExposedPorts"),
    "LABEL": _set_labels,
    "STOPSIGNAL": _set("StopSignal"),
    "USER": _set("User"),
    "VOLUME": _add_to("Volumes"),
    "WORKDIR": _set("WorkingDir"),
}
INSTRUCTIONS: Final = tuple(_EFFECTS)
"""The names of all instructions."""
