"""A command line in vLLM's words or ours → the same in ours: one flag with its words at a time, names and values.

What argparse cannot do is done here: how many words belong to a flag of vLLM, its short and dotted forms, which word
is the model, and what becomes of each flag by the table in vllm_flags.py.

A flag that takes several words (`--api-key a b`) takes all up to the next flag, as in vLLM. Only where no model is
named anywhere, the last of them is the model if it looks like one (`--api-key secret org/model`): vLLM refuses that.
"""

import argparse
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn

from server.near_names import near
from server.vllm_flags import FLAGS, KERNELS, OTHER_VALUES, SHORT, VALUES, Takes, VllmFlag

TRUTHS = {"true": "true", "yes": "true", "on": "true", "1": "true"}
TRUTHS |= {"false": "false", "no": "false", "off": "false", "0": "false"}
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(/\S+\.gguf|:[\w.-]+)?")
KERNEL_NAME = re.compile(r"[A-Z][A-Z0-9_]+")
NUMBER = re.compile(r"-\d+(\.\d+)?[kKmMgG]?")


@dataclass(frozen=True, slots=True)
class FlagWords:
    """One flag and the words that belong to it.

    name    without dashes in front, underscores as dashes, short forms written out
    path    the keys of a dotted form: `--flag.a.b 1` has ("a", "b"); a last key with a plus appends to a list
    values  its words; () for a switch that stands alone
    """

    name: str
    path: tuple[str, ...] = ()
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CommandWords:
    """A command line, taken apart. flags in their order; models: the words that belong to no flag."""

    flags: tuple[FlagWords, ...]
    models: tuple[str, ...] = ()


@dataclass(slots=True)
class Translator:
    """Turns vLLM's flags into ours. Remembers what has no effect, so that it is said once, whatever the source.

    kinds     every flag of ours → how many words it takes
    choices   those of ours that take one of some values → these
    error     ends the program with a message
    refusals  what is refused and why, a sentence for each flag: gathered, so that a user hears of all at once
    """

    kinds: Mapping[str, Takes]
    choices: Mapping[str, Sequence[str]]
    error: Callable[[str], NoReturn]
    refusals: list[str] = field(default_factory=list)
    _without_effect: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def for_parser(cls, parser: argparse.ArgumentParser) -> "Translator":
        actions = {action.option_strings[0][2:]: action for action in parser._actions if action.option_strings}
        actions["help"] = actions.pop("", None) or actions["help"]
        return cls(
            {name: _takes(action) for name, action in actions.items()},
            {name: tuple(map(str, action.choices)) for name, action in actions.items() if action.choices},
            parser.error,
        )

    @property
    def notes(self) -> list[str]:
        """What has no effect and why, a line for each reason."""
        return [
            f"{_listed(names)} {'has' if len(names) == 1 else 'have'} no effect: {reason}"
            for reason, names in self._without_effect.items()
        ]

    def take_apart(self, argv: Sequence[str]) -> CommandWords:
        """argv as flags with their words, and the words that belong to none."""
        words, flags, models = list(argv), [], []
        while words:
            word = words.pop(0)
            if word == "--":
                models += words
                break
            if (read := self._flag(word)) is None:
                models.append(word)
                continue
            name, path, value = read
            taken = (value,) if value is not None else self._values(name, bool(path), words)
            flags.append(FlagWords(name, path, taken))
        return CommandWords(tuple(flags), tuple(models))

    def find_model(self, command: CommandWords) -> CommandWords:
        """The same, where no model is named, with the one that a flag of several words has taken for its own."""
        named = command.models or any(flag.name == "model" for flag in command.flags)
        places = [
            place
            for place, flag in enumerate(command.flags)
            if len(flag.values) >= self._least_left(flag) and looks_like_model(flag.values[-1])
        ]
        if named or not places:
            return command
        if len(places) > 1:
            flags = " or ".join("--" + command.flags[place].name for place in places)
            self.error(f"no model is named, and it could be the last word of {flags}; put MODEL first")
        flags = list(command.flags)
        flag = flags[places[0]]
        flags[places[0]] = replace(flag, values=flag.values[:-1])
        return CommandWords(tuple(flags), (flag.values[-1],))

    def in_ours(self, flag: FlagWords) -> FlagWords | None:
        """The flag as ours, or None where it has no effect, is refused or unknown."""
        shown = "--" + ".".join((flag.name, *flag.path))
        if flag.name in self.kinds or self.kinds.get(flag.name.removeprefix("no-")) == "nothing":
            return self._with_our_value(flag)
        is_negated = flag.name not in FLAGS and flag.name.startswith("no-")
        row = FLAGS.get(flag.name.removeprefix("no-") if is_negated else flag.name)
        if row is None or (is_negated and row.takes != "nothing"):
            self.refusals.append(f"unknown flag {shown}" + self._suggestion(flag.name))
            return None
        if row.takes == "nothing":
            flag = replace(flag, values=(self._truth(shown, flag.values, is_negated),))
        if row.same_as is not None:
            return self._as_alias(row, flag)
        if not flag.path and set(flag.values) & row.neutral:
            return None
        if row.is_refused:
            value = "" if row.takes == "nothing" or flag.path else "".join(f" {value}" for value in flag.values[:1])
            self.refusals.append(f"{shown}{_short(value)} is not served: {row.reason}")
        else:
            self._say(shown, row.reason)
        return None

    def _flag(self, word: str) -> tuple[str, tuple[str, ...], str | None] | None:
        """Name, dotted path and the value behind an equals sign; None: it is not a flag."""
        if not word.startswith("-") or word == "-" or NUMBER.fullmatch(word):
            return None
        name, equals, value = word.partition("=")
        if not name.startswith("--"):
            return self._short_flag(name[1:], value if equals else None)
        name, *path = name[2:].split(".")
        keys = tuple(key.replace("-", "_") for key in path)
        return name.replace("_", "-"), keys, value if equals else None

    def _short_flag(self, name: str, value: str | None) -> tuple[str, tuple[str, ...], str | None]:
        name, *path = name.split(".")
        if name == "h":
            return "help", (), value
        if name not in SHORT and name[:1] == "O" and value is None:  # -O3
            name, value = "O", name[1:]
        if name not in SHORT:
            self.error(f"unknown flag -{name}" + self._suggestion(name))
        return SHORT[name], tuple(path), value

    def _values(self, name: str, is_dotted: bool, words: list[str]) -> tuple[str, ...]:
        """Takes a flag's words from those that follow it."""
        takes = "value" if is_dotted else self._takes(name)
        if takes == "values":
            most = len(words)
        elif takes == "nothing":
            most = int(bool(words) and words[0].lower() in ("true", "false"))
        else:
            most = 1
        taken = []
        while words and len(taken) < most and self._flag_like(words[0]) is False:
            taken.append(words.pop(0))
        return tuple(taken)

    def _flag_like(self, word: str) -> bool:
        return word.startswith("-") and word != "-" and not NUMBER.fullmatch(word) and " " not in word

    def _takes(self, name: str) -> Takes:
        for known in (name, name.removeprefix("no-")):
            if known in self.kinds:
                return self.kinds[known]
            if known in FLAGS:
                row = FLAGS[known]
                return row.takes
        return "nothing"

    def _least_left(self, flag: FlagWords) -> int:
        """Words that a flag must have for its last to be free for the model."""
        takes = "value" if flag.path else self._takes(flag.name)
        return {"values": 2, "optional": 1}.get(takes, 1 << 30)

    def _with_our_value(self, flag: FlagWords) -> FlagWords | None:
        """A flag of ours, with vLLM's values for it made ours."""
        if self._takes(flag.name) == "nothing":
            is_negated = flag.name not in self.kinds
            name = flag.name.removeprefix("no-") if is_negated else flag.name
            is_on = self._truth(f"--{flag.name}", flag.values, is_negated) == "true"
            return FlagWords(name if is_on else f"no-{name}")
        if len(flag.values) != 1:
            return flag
        name, value = flag.name, flag.values[0]
        if value in VALUES.get(name, {}):
            ours = VALUES[name][value]
            if ours is None:
                self._say(f"--{name} {value}", "it is found in the model's files")
                return None
            return replace(flag, values=(ours,))
        if name == "attention-backend" and KERNEL_NAME.fullmatch(value):
            self._say(f"--{name} {value}", KERNELS)
            return None
        if name in OTHER_VALUES and value not in self.choices[name]:
            known = ", ".join(self.choices[name])
            self.refusals.append(f"--{name} {_short(value)} is not served, only {known}: {OTHER_VALUES[name]}")
            return None
        return flag

    def _as_alias(self, row: VllmFlag, flag: FlagWords) -> FlagWords | None:
        assert row.same_as is not None
        if row.takes != "nothing":
            return self._with_our_value(replace(flag, name=row.same_as))
        is_on = (flag.values[0] == "true") != row.same_as.startswith("no-")
        name = row.same_as.removeprefix("no-")
        return FlagWords(name if is_on else f"no-{name}")

    def _truth(self, shown: str, values: Sequence[str], is_negated: bool) -> str:
        """Whether a switch is on: "true" or "false"."""
        said = TRUTHS.get(values[0].lower()) if values else "true"
        if said is None:
            self.error(f"{shown} is a switch: it takes true or false behind an equals sign, or nothing")
        return {"true": "false", "false": "true"}[said] if is_negated else said

    def _say(self, shown: str, reason: str) -> None:
        if shown not in self._without_effect[reason]:
            self._without_effect[reason].append(shown)

    def _suggestion(self, name: str) -> str:
        guess = near(name, [*self.kinds, *FLAGS])
        return f"; did you mean --{guess}?" if guess else ""


def looks_like_model(word: str) -> bool:
    """Whether a word could only be a model: a directory or file that is there, a .gguf file, a hub id."""
    is_there = "/" in word and Path(word).expanduser().exists()
    return is_there or word.endswith(".gguf") or HUB_ID.fullmatch(word) is not None or Path(word).is_dir()


def _takes(action: argparse.Action) -> Takes:
    if action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction):
        return "nothing"
    return "values" if action.nargs == "+" else "optional" if action.nargs == "?" else "value"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _short(value: str) -> str:
    return value if len(value) <= 60 else value[:59] + "…"
