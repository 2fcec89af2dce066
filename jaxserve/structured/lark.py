"""Shapes → one grammar for llguidance, in its dialect of Lark.

llguidance reads an answer in two steps: a lexer finds the longest terminal that fits, a parser joins terminals. Free
text up to a marker is therefore one terminal that ends lazily with the marker itself, and what follows the text is
written down without it; sequels.py takes it away.
"""

import json
import re
from collections.abc import Iterable, Mapping

from llguidance import regex_to_lark

from jaxserve.errors import InvalidParameter
from jaxserve.structured.parameters import Parameter, parameters_of
from jaxserve.structured.patterns import checked_pattern
from jaxserve.structured.schema import JsonGrammar, json_grammar
from jaxserve.structured.sequels import after, begins_with_token, may_be_empty, openings, unfold
from jaxserve.structured.shapes import (
    Choice,
    Either,
    Lark,
    Literal,
    Optional,
    Parameters,
    Regex,
    Repeat,
    Schema,
    Sequence,
    Shape,
    Text,
    Token,
)
from jaxserve.structured_outputs import StructuredOutputs

NOTHING = '""'
ANY = "/(?s:.*)/"
BLANKS = r"/[ \t\r\n]{0,8}/"
# Otherwise, where only one text is possible, only one way to spell it in tokens would be allowed.
OPTIONS = '%llguidance {"no_forcing": true}'


def grammar_text(shape: Shape, special_tokens: Mapping[str, int]) -> str:
    """The grammar of a resolved shape, as LLMatcher takes it. special_tokens: text → id. Raises InvalidParameter."""
    return _Writer(special_tokens).write(shape)


class _Writer:
    """Collects the terminals, rules and grammars that one shape needs."""

    def __init__(self, special_tokens: Mapping[str, int]) -> None:
        self._special_tokens = special_tokens
        longest_first = sorted(filter(None, special_tokens), key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None
        self._terminals: dict[str, str] = {}  # definition → name
        self._rules: dict[str, str] = {}
        self._lazy_terminals: dict[str, None] = {}
        self._grammars: list[dict[str, str]] = []

    def write(self, shape: Shape) -> str:
        if isinstance(shape, Lark):
            return _dumped([{"lark_grammar": f"{shape.grammar}\n{OPTIONS}"}])
        start = self._expression(shape)
        lines = [OPTIONS, f"start: {start}"]
        lines += [f"{name}: {definition}" for definition, name in [*self._rules.items(), *self._terminals.items()]]
        lines += [f"lazy_{terminal.lower()}[lazy]: {terminal}" for terminal in self._lazy_terminals]
        return _dumped([{"lark_grammar": "\n".join(lines)}, *self._grammars])

    def _expression(self, shape: Shape) -> str:
        assert not isinstance(shape, StructuredOutputs)  # it is resolved before
        match shape:
            case Literal(text):
                return self._literal(text)
            case Token(token_id):
                return f"<[{token_id}]>"
            case Choice(texts):
                return self._choice(texts)
            case Schema():
                return self._json(json_grammar(shape))
            case Parameters():
                return self._parameters(shape)
            case Regex(pattern):
                return self._regex(pattern)
            case Lark(grammar):
                return self._nested(grammar)
            case Either(options):
                return self._rule(" | ".join(map(self._expression, options)))
            case Optional(item):
                return f"{self._rule(self._expression(item))}?"
            case Repeat():
                return self._repeat(shape)
            case Text():
                return self._text(shape, Sequence(()))
            case Sequence(items):
                return self._sequence(unfold(items))

    def _nested(self, grammar: str) -> str:
        self._grammars.append({"name": f"grammar_{len(self._grammars)}", "lark_grammar": grammar})
        return "@" + self._grammars[-1]["name"]

    def _json(self, grammar: JsonGrammar) -> str:
        return "%json " + json.dumps(grammar.schema) if grammar.lark is None else self._nested(grammar.lark)

    def _literal(self, text: str) -> str:
        parts, end = [], 0
        for found in self._special.finditer(text) if self._special else ():
            parts += [_quoted(text[end : found.start()]), f"<[{self._special_tokens[found.group()]}]>"]
            end = found.end()
        return " ".join(filter(None, [*parts, _quoted(text[end:])])) or NOTHING

    def _choice(self, texts: tuple[str, ...]) -> str:
        filled = [text for text in dict.fromkeys(texts) if text]
        if not filled:
            return NOTHING
        name = self._terminal(" | ".join(map(_quoted, filled)))
        return name if "" not in texts else f"{name}?"

    def _regex(self, pattern: str) -> str:
        translated = checked_pattern(pattern)
        return self._terminal(f"/{regex_to_lark(translated)}/") if translated else NOTHING

    def _parameters(self, shape: Parameters) -> str:
        blanks = self._terminal(BLANKS) if shape.has_blanks else ""
        written = []
        for parameter in parameters_of(shape.schema):
            if parameter.json is not None:
                after_name = shape.after_name if shape.after_name_json is None else shape.after_name_json
                value = f"{blanks} {self._json(parameter.json)} {blanks} {self._literal(shape.after_value)}"
            else:
                after_name, value = shape.after_name, self._string(parameter, shape.after_value)
            item = f"{self._literal(shape.before_name + parameter.name + after_name)} {value} {blanks}"
            written.append(item if parameter.is_required else f"{self._rule(item)}?")
        return " ".join(written) or NOTHING

    def _string(self, parameter: Parameter, end: str) -> str:
        """A parameter's value without quotes, and its end."""
        if parameter.texts:
            return f"{self._choice(parameter.texts)} {self._literal(end)}"
        conditions = "".join(f" & /{regex_to_lark(condition)}/" for condition in parameter.conditions)
        return self._text_and_marker(end, (end,), f"{ANY}{conditions}")

    def _repeat(self, repeat: Repeat) -> str:
        least, most = repeat.min, repeat.max
        if most == 0:
            return NOTHING
        item = self._rule(self._expression(repeat.item))
        if repeat.separator is None or most == 1:
            return item + _times(least, most)
        more = self._rule(f"{self._expression(repeat.separator)} {item}")
        times = _times(max(least - 1, 0), None if most is None else most - 1)
        return self._rule(f"{item} {more}{times}") + ("" if least else "?")

    def _sequence(self, items: tuple[Shape, ...]) -> str:
        written: list[str] = []
        for index, item in enumerate(items):
            if isinstance(item, Text):
                written.append(self._text(item, Sequence(items[index + 1 :])))
                break
            written.append(self._expression(item))
        return " ".join(written) or NOTHING

    def _text(self, text: Text, sequel: Shape) -> str:
        """Free text and all that comes after it."""
        markers = [*text.until]
        markers += [opening for opening in openings(sequel) if not opening.startswith(text.until)]
        any_text = ANY if text.pattern is None else f"/{regex_to_lark(checked_pattern(text.pattern))}/"
        branches = []
        for marker in dict.fromkeys(markers):
            rest = after(sequel, marker)
            if rest is not None:
                branches.append(f"{self._text_and_marker(marker, markers, any_text)} {self._expression(rest)}")
        if may_be_empty(sequel):
            branches.append(self._terminal(any_text + self._without(markers)))
        elif begins_with_token(sequel):
            branches.append(f"{self._terminal(any_text + self._without(markers))} {self._expression(sequel)}")
        elif not branches:
            raise InvalidParameter("free text must end in fixed text: there is nothing by which to know where it ends.")
        return self._rule(" | ".join(branches))

    def _text_and_marker(self, marker: str, markers: Iterable[str], text: str = ANY) -> str:
        """Text up to this one of the markers, and the marker."""
        others = [other for other in markers if not other.startswith(marker)]
        text += self._without(other for other in others if other in marker)
        others = self._without(other for other in others if other not in marker)
        special = self._special.search(marker) if self._special else None
        if special is None:
            return self._lazy(f"(({text}) {_quoted(marker)}){others}")
        before = _quoted(marker[: special.start()])
        return f"{self._terminal(f'(({text}) {before}){others}')} {self._literal(marker[special.start() :])}"

    def _without(self, markers: Iterable[str]) -> str:
        """The condition that none of these is in the text; special tokens never are."""
        plain = [marker for marker in markers if not (self._special and self._special.search(marker))]
        return f" & ~({ANY} ({' | '.join(map(_quoted, plain))}) {ANY})" if plain else ""

    def _terminal(self, definition: str) -> str:
        return self._terminals.setdefault(definition, f"T{len(self._terminals)}")

    def _rule(self, definition: str) -> str:
        """A rule of its own, since llguidance reads only so many parentheses inside each other."""
        return self._rules.setdefault(definition, f"r{len(self._rules)}")

    def _lazy(self, definition: str) -> str:
        """A rule whose terminal ends as soon as it can."""
        terminal = self._terminal(definition)
        self._lazy_terminals[terminal] = None
        return f"lazy_{terminal.lower()}"


def _dumped(grammars: list[dict[str, str]]) -> str:
    return json.dumps({"grammars": grammars}, ensure_ascii=False)


def _quoted(text: str) -> str:
    """As Lark's strings are JSON's, but for the control character that JSON allows."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f") if text else ""


def _times(least: int, most: int | None) -> str:
    return {(0, None): "*", (1, None): "+", (0, 1): "?", (1, 1): ""}.get(
        (least, most), f"{{{least},{'' if most is None else most}}}"
    )
