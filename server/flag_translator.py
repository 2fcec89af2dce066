"""Translates a command line with vLLM's flags into one with flags of jaxserve only, flag by flag.

It does what argparse cannot: it knows how many words belong to a flag of vLLM, its short and dotted forms, which word
is the model, and what each flag becomes by the table in vllm_flags.py.

A flag that takes several words (`--api-key a b`) takes all up to the next flag, as in vLLM. Only if no model is named
anywhere, the last of them is the model if it looks like one (`--api-key secret org/model`): vLLM refuses that.
"""

import argparse
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn

from server.suggestions import suggest
from server.vllm_flags import (
    KERNELS_REASON,
    REFUSED_VALUE_REASONS,
    SHORT_FLAGS,
    VALUE_ALIASES,
    VLLM_FLAGS,
    Arity,
    VllmFlag,
)

BOOLEAN_WORDS = {"true": "true", "yes": "true", "on": "true", "1": "true"}
BOOLEAN_WORDS |= {"false": "false", "no": "false", "off": "false", "0": "false"}
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(/\S+\.gguf|:[\w.-]+)?")
KERNEL_NAME = re.compile(r"[A-Z][A-Z0-9_]+")
NUMBER = re.compile(r"-\d+(\.\d+)?[kKmMgG]?")


@dataclass(frozen=True, slots=True)
class ParsedFlag:
    """One flag and the words that belong to it.

    name    without dashes in front, underscores as dashes, short forms written out
    path    the keys of a dotted form: `--flag.a.b 1` has ("a", "b"); a last key with a plus appends to a list
    values  its words; () for a switch that stands alone
    """

    name: str
    path: tuple[str, ...] = ()
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ParsedCommand:
    """A command line split into flags, in their order, and positionals, the words that belong to no flag."""

    flags: tuple[ParsedFlag, ...]
    positionals: tuple[str, ...] = ()


@dataclass(slots=True)
class FlagTranslator:
    """The translation of flags from all sources: command line, environment and file.

    It collects the flags without effect, so that each is reported once, whatever its source.

    arities    how many words each flag of jaxserve takes
    choices    the values of those flags that take one of several
    error      ends the program with a message
    refusals   a sentence for each flag that is refused, so that all are reported at once
    """

    arities: Mapping[str, Arity]
    choices: Mapping[str, Sequence[str]]
    error: Callable[[str], NoReturn]
    refusals: list[str] = field(default_factory=list)
    _ignored_flags: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def from_parser(cls, parser: argparse.ArgumentParser) -> "FlagTranslator":
        """Make a translator whose target are the flags of this parser."""
        actions = {action.option_strings[0][2:]: action for action in parser._actions if action.option_strings}
        actions["help"] = actions.pop("", None) or actions["help"]
        return cls(
            {name: _action_arity(action) for name, action in actions.items()},
            {name: tuple(map(str, action.choices)) for name, action in actions.items() if action.choices},
            parser.error,
        )

    @property
    def notes(self) -> list[str]:
        """A line for each reason why flags have no effect, with these flags."""
        return [
            f"{_join_names(names)} {'has' if len(names) == 1 else 'have'} no effect: {reason}"
            for reason, names in self._ignored_flags.items()
        ]

    def parse(self, argv: Sequence[str]) -> ParsedCommand:
        """Split a command line into flags with their words, and words that belong to no flag."""
        words, flags, positionals = list(argv), [], []
        while words:
            word = words.pop(0)
            if word == "--":
                positionals += words
                break
            if (parsed := self._parse_flag(word)) is None:
                positionals.append(word)
                continue
            name, path, value = parsed
            values = (value,) if value is not None else self._take_values(name, bool(path), words)
            flags.append(ParsedFlag(name, path, values))
        return ParsedCommand(tuple(flags), tuple(positionals))

    def infer_model(self, command: ParsedCommand) -> ParsedCommand:
        """Return the command with a model, if none is named and a flag of several values has taken it as its last."""
        is_named = command.positionals or any(flag.name == "model" for flag in command.flags)
        candidates = [
            index
            for index, flag in enumerate(command.flags)
            if len(flag.values) >= self._min_values(flag) and looks_like_model(flag.values[-1])
        ]
        if is_named or not candidates:
            return command
        if len(candidates) > 1:
            flags = " or ".join("--" + command.flags[index].name for index in candidates)
            self.error(f"no model is named, and it could be the last word of {flags}; put MODEL first")
        flags = list(command.flags)
        flag = flags[candidates[0]]
        flags[candidates[0]] = replace(flag, values=flag.values[:-1])
        return ParsedCommand(tuple(flags), (flag.values[-1],))

    def translate(self, flag: ParsedFlag) -> ParsedFlag | None:
        """Translate a flag into one of jaxserve; None if it has no effect, is refused or unknown."""
        written = "--" + ".".join((flag.name, *flag.path))
        if flag.name in self.arities or self.arities.get(flag.name.removeprefix("no-")) == "nothing":
            return self._translate_value(flag)
        is_negated = flag.name not in VLLM_FLAGS and flag.name.startswith("no-")
        row = VLLM_FLAGS.get(flag.name.removeprefix("no-") if is_negated else flag.name)
        if row is None or (is_negated and row.arity != "nothing"):
            self.refusals.append(f"unknown flag {written}" + self._format_suggestion(flag.name))
            return None
        if row.arity == "nothing":
            flag = replace(flag, values=(self._parse_switch(written, flag.values, is_negated),))
        if row.alias_of is not None:
            return self._translate_alias(row, flag)
        if not flag.path and set(flag.values) & row.neutral:
            return None
        if row.is_refused:
            value = "" if row.arity == "nothing" or flag.path else "".join(f" {value}" for value in flag.values[:1])
            self.refusals.append(f"{written}{_abbreviate(value)} is not served: {row.reason}")
        else:
            self._note_ignored(written, row.reason)
        return None

    def _parse_flag(self, word: str) -> tuple[str, tuple[str, ...], str | None] | None:
        """Split a word into name, dotted path and the value behind an equals sign; None if it is not a flag."""
        if not word.startswith("-") or word == "-" or NUMBER.fullmatch(word):
            return None
        name, equals, value = word.partition("=")
        if not name.startswith("--"):
            return self._parse_short_flag(name[1:], value if equals else None)
        name, *path = name[2:].split(".")
        keys = tuple(key.replace("-", "_") for key in path)
        return name.replace("_", "-"), keys, value if equals else None

    def _parse_short_flag(self, name: str, value: str | None) -> tuple[str, tuple[str, ...], str | None]:
        name, *path = name.split(".")
        if name == "h":
            return "help", (), value
        if name not in SHORT_FLAGS and name[:1] == "O" and value is None:  # -O3
            name, value = "O", name[1:]
        if name not in SHORT_FLAGS:
            self.error(f"unknown flag -{name}" + self._format_suggestion(name))
        return SHORT_FLAGS[name], tuple(path), value

    def _take_values(self, name: str, is_dotted: bool, words: list[str]) -> tuple[str, ...]:
        """Remove a flag's values from the words that follow it, and return them."""
        arity = "value" if is_dotted else self._get_arity(name)
        if arity == "values":
            max_values = len(words)
        elif arity == "nothing":
            max_values = int(bool(words) and words[0].lower() in ("true", "false"))
        else:
            max_values = 1
        values = []
        while words and len(values) < max_values and not self._is_flag(words[0]):
            values.append(words.pop(0))
        return tuple(values)

    def _is_flag(self, word: str) -> bool:
        return word.startswith("-") and word != "-" and not NUMBER.fullmatch(word) and " " not in word

    def _get_arity(self, name: str) -> Arity:
        for candidate in (name, name.removeprefix("no-")):
            if candidate in self.arities:
                return self.arities[candidate]
            if candidate in VLLM_FLAGS:
                return VLLM_FLAGS[candidate].arity
        return "nothing"

    def _min_values(self, flag: ParsedFlag) -> int:
        """Return how many values a flag must have for its last one to be possibly the model."""
        arity = "value" if flag.path else self._get_arity(flag.name)
        return {"values": 2, "optional": 1}.get(arity, 1 << 30)

    def _translate_value(self, flag: ParsedFlag) -> ParsedFlag | None:
        """Translate the value of a flag that jaxserve has, too; None if the value has no effect or is refused."""
        if self._get_arity(flag.name) == "nothing":
            is_negated = flag.name not in self.arities
            name = flag.name.removeprefix("no-") if is_negated else flag.name
            is_on = self._parse_switch(f"--{flag.name}", flag.values, is_negated) == "true"
            return ParsedFlag(name if is_on else f"no-{name}")
        if len(flag.values) != 1:
            return flag
        name, value = flag.name, flag.values[0]
        if value in VALUE_ALIASES.get(name, {}):
            alias = VALUE_ALIASES[name][value]
            if alias is None:
                self._note_ignored(f"--{name} {value}", "it is found in the model's files")
                return None
            return replace(flag, values=(alias,))
        if name == "attention-backend" and KERNEL_NAME.fullmatch(value):
            self._note_ignored(f"--{name} {value}", KERNELS_REASON)
            return None
        if name in REFUSED_VALUE_REASONS and value not in self.choices[name]:
            choices = ", ".join(self.choices[name])
            self.refusals.append(
                f"--{name} {_abbreviate(value)} is not served, only {choices}: {REFUSED_VALUE_REASONS[name]}"
            )
            return None
        return flag

    def _translate_alias(self, row: VllmFlag, flag: ParsedFlag) -> ParsedFlag | None:
        assert row.alias_of is not None
        if row.arity != "nothing":
            return self._translate_value(replace(flag, name=row.alias_of))
        is_on = (flag.values[0] == "true") != row.alias_of.startswith("no-")
        name = row.alias_of.removeprefix("no-")
        return ParsedFlag(name if is_on else f"no-{name}")

    def _parse_switch(self, written: str, values: Sequence[str], is_negated: bool) -> str:
        """Return "true" or "false". written: the flag as the user has written it, for the error."""
        value = BOOLEAN_WORDS.get(values[0].lower()) if values else "true"
        if value is None:
            self.error(f"{written} is a switch: it takes true or false behind an equals sign, or nothing")
        return {"true": "false", "false": "true"}[value] if is_negated else value

    def _note_ignored(self, written: str, reason: str) -> None:
        if written not in self._ignored_flags[reason]:
            self._ignored_flags[reason].append(written)

    def _format_suggestion(self, name: str) -> str:
        guess = suggest(name, [*self.arities, *VLLM_FLAGS])
        return f"; did you mean --{guess}?" if guess else ""


def looks_like_model(word: str) -> bool:
    """Tell whether a word could only be a model: a directory or file that exists, a .gguf file, a hub id."""
    exists = "/" in word and Path(word).expanduser().exists()
    return exists or word.endswith(".gguf") or HUB_ID.fullmatch(word) is not None or Path(word).is_dir()


def _action_arity(action: argparse.Action) -> Arity:
    if action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction):
        return "nothing"
    return "values" if action.nargs == "+" else "optional" if action.nargs == "?" else "value"


def _join_names(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _abbreviate(value: str) -> str:
    return value if len(value) <= 60 else value[:59] + "…"
