"""Shapes → one grammar for llguidance, in its dialect of Lark.

llguidance reads an answer in two steps: a lexer finds the longest terminal that fits, a parser joins terminals. Free
text up to a marker is therefore one terminal that ends lazily with the marker itself, and what follows the text is
written down without it; sequels.py takes it away.
"""

import json
from collections.abc import Mapping

from llguidance import regex_to_lark

from jaxserve.errors import InvalidParameter
from jaxserve.structured.arguments import literal_arguments, tagged_arguments
from jaxserve.structured.lark_text import ANY, NOTHING, LarkText, times
from jaxserve.structured.patterns import checked_pattern
from jaxserve.structured.schema import json_grammar
from jaxserve.structured.sequels import after, begins_with_token, may_be_empty, openings, unfold
from jaxserve.structured.shapes import (
    Choice,
    Either,
    Lark,
    Literal,
    LiteralArguments,
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

# Otherwise, where only one text is possible, only one way to spell it in tokens would be allowed.
OPTIONS = '%llguidance {"no_forcing": true}'


def grammar_text(shape: Shape, special_tokens: Mapping[str, int]) -> str:
    """The grammar of a resolved shape, as LLMatcher takes it. special_tokens: text → id. Raises InvalidParameter."""
    return _Writer(special_tokens).write(shape)


class _Writer:
    """Collects the terminals, rules and grammars that one shape needs."""

    def __init__(self, special_tokens: Mapping[str, int]) -> None:
        self._lark = LarkText(special_tokens)

    def write(self, shape: Shape) -> str:
        if isinstance(shape, Lark):
            return _dumped([{"lark_grammar": f"{shape.grammar}\n{OPTIONS}"}])
        start = self._expression(shape)
        lines = [OPTIONS, f"start: {start}", *self._lark.lines()]
        return _dumped([{"lark_grammar": "\n".join(lines)}, *self._lark.grammars])

    def _expression(self, shape: Shape) -> str:
        assert not isinstance(shape, StructuredOutputs)  # it is resolved before
        match shape:
            case Literal(text):
                return self._lark.literal(text)
            case Token(token_id):
                return f"<[{token_id}]>"
            case Choice(texts):
                return self._lark.choice(texts)
            case Schema() | Parameters() | LiteralArguments():
                return self._schema(shape)
            case Regex(pattern):
                return self._regex(pattern)
            case Lark(grammar):
                return self._lark.nested(grammar)
            case Either(options):
                return self._lark.rule(" | ".join(map(self._expression, options)))
            case Optional(item):
                return f"{self._lark.rule(self._expression(item))}?"
            case Repeat():
                return self._repeat(shape)
            case Text():
                return self._text(shape, Sequence(()))
            case Sequence(items):
                return self._sequence(unfold(items))

    def _schema(self, shape: Schema | Parameters | LiteralArguments) -> str:
        """What a schema describes; what is wrong with it is said of the field that it came in."""
        schema = shape if isinstance(shape, Schema) else shape.schema
        try:
            match shape:
                case Parameters():
                    return tagged_arguments(shape, self._lark)
                case LiteralArguments():
                    return literal_arguments(shape, self._lark)
                case _:
                    return self._lark.json(json_grammar(schema))
        except InvalidParameter as error:
            raise InvalidParameter(str(error), schema.param or None) from None

    def _regex(self, pattern: str) -> str:
        translated = checked_pattern(pattern)
        return self._lark.terminal(f"/{regex_to_lark(translated)}/") if translated else NOTHING

    def _repeat(self, repeat: Repeat) -> str:
        least, most = repeat.min, repeat.max
        if most == 0:
            return NOTHING
        item = self._lark.rule(self._expression(repeat.item))
        if repeat.separator is None or most == 1:
            return item + times(least, most)
        more = self._lark.rule(f"{self._expression(repeat.separator)} {item}")
        others = times(max(least - 1, 0), None if most is None else most - 1)
        return self._lark.rule(f"{item} {more}{others}") + ("" if least else "?")

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
                branches.append(f"{self._lark.text_and_marker(marker, markers, any_text)} {self._expression(rest)}")
        if may_be_empty(sequel):
            branches.append(self._lark.terminal(any_text + self._lark.without(markers)))
        elif begins_with_token(sequel):
            branches.append(f"{self._lark.terminal(any_text + self._lark.without(markers))} {self._expression(sequel)}")
        elif not branches:
            raise InvalidParameter("free text must end in fixed text: there is nothing by which to know where it ends.")
        return self._lark.rule(" | ".join(branches))


def _dumped(grammars: list[dict[str, str]]) -> str:
    return json.dumps({"grammars": grammars}, ensure_ascii=False)
