"""Grammar expressions → one grammar for llguidance, in its dialect of Lark.

llguidance reads an output in two steps: a lexer finds the longest terminal that fits, a parser joins terminals. Free
text up to a marker is therefore one terminal that ends lazily with the marker itself, and what follows the text is
written without that marker: as its derivative (derivatives.py).
"""

import json
from collections.abc import Mapping

from llguidance import regex_to_lark

from jaxserve.errors import InvalidParameter
from jaxserve.structured.argument_writers import write_keyword_arguments, write_tagged_arguments
from jaxserve.structured.derivatives import derivative, first_set, flatten, matches_empty, starts_with_token
from jaxserve.structured.grammar_expr import (
    FreeText,
    GrammarExpr,
    JsonSchema,
    KeywordArguments,
    LarkGrammar,
    OptionalExpr,
    OrExpr,
    Regex,
    RepeatExpr,
    SequenceExpr,
    TaggedArguments,
    TextChoice,
    TextLiteral,
    TokenLiteral,
)
from jaxserve.structured.lark_builder import ANY_TEXT, EMPTY, LarkBuilder, quantifier
from jaxserve.structured.patterns import translate_pattern
from jaxserve.structured.schema_merge import to_json_grammar
from jaxserve.structured_outputs import StructuredOutputs

# Otherwise, where only one text is possible, only its canonical tokenization would be allowed.
OPTIONS = '%llguidance {"no_forcing": true}'


def write_grammar(expr: GrammarExpr, special_tokens: Mapping[str, int]) -> str:
    """Write an expression that `resolve` returned as a grammar for LLMatcher.

    special_tokens   text → id

    Raises InvalidParameter if a schema or regex in it cannot be enforced, or free text has no end.
    """
    return _LarkWriter(special_tokens).write(expr)


class _LarkWriter:
    """Writes one expression."""

    def __init__(self, special_tokens: Mapping[str, int]) -> None:
        self._lark = LarkBuilder(special_tokens)

    def write(self, expr: GrammarExpr) -> str:
        """Return the grammar as JSON text."""
        if isinstance(expr, LarkGrammar):
            return _dump_grammars([{"lark_grammar": f"{expr.grammar}\n{OPTIONS}"}])
        start = self._expression(expr)
        lines = [OPTIONS, f"start: {start}", *self._lark.definitions()]
        return _dump_grammars([{"lark_grammar": "\n".join(lines)}, *self._lark.grammars])

    def _expression(self, expr: GrammarExpr) -> str:
        assert not isinstance(expr, StructuredOutputs)  # `resolve` has replaced it
        match expr:
            case TextLiteral(text):
                return self._lark.literal(text)
            case TokenLiteral(token_id):
                return f"<[{token_id}]>"
            case TextChoice(texts):
                return self._lark.choice(texts)
            case JsonSchema() | TaggedArguments() | KeywordArguments():
                return self._schema(expr)
            case Regex(pattern):
                return self._regex(pattern)
            case LarkGrammar(grammar):
                return self._lark.nested(grammar)
            case OrExpr(options):
                return self._lark.rule(" | ".join(map(self._expression, options)))
            case OptionalExpr(item):
                return f"{self._lark.rule(self._expression(item))}?"
            case RepeatExpr():
                return self._repeat(expr)
            case FreeText():
                return self._text(expr, SequenceExpr(()))
            case SequenceExpr(items):
                return self._sequence(flatten(items))

    def _schema(self, expr: JsonSchema | TaggedArguments | KeywordArguments) -> str:
        """Write what a schema describes. Errors name the field of the request that the schema came in."""
        schema = expr if isinstance(expr, JsonSchema) else expr.schema
        try:
            match expr:
                case TaggedArguments():
                    return write_tagged_arguments(expr, self._lark)
                case KeywordArguments():
                    return write_keyword_arguments(expr, self._lark)
                case _:
                    return self._lark.json(to_json_grammar(schema))
        except InvalidParameter as error:
            raise InvalidParameter(str(error), schema.param or None) from None

    def _regex(self, pattern: str) -> str:
        translated = translate_pattern(pattern)
        return self._lark.terminal(f"/{regex_to_lark(translated)}/") if translated else EMPTY

    def _repeat(self, repeat: RepeatExpr) -> str:
        least, most = repeat.min, repeat.max
        if most == 0:
            return EMPTY
        item = self._lark.rule(self._expression(repeat.item))
        if repeat.separator is None or most == 1:
            return item + quantifier(least, most)
        more = self._lark.rule(f"{self._expression(repeat.separator)} {item}")
        others = quantifier(max(least - 1, 0), None if most is None else most - 1)
        return self._lark.rule(f"{item} {more}{others}") + ("" if least else "?")

    def _sequence(self, items: tuple[GrammarExpr, ...]) -> str:
        written: list[str] = []
        for index, item in enumerate(items):
            if isinstance(item, FreeText):
                written.append(self._text(item, SequenceExpr(items[index + 1 :])))
                break
            written.append(self._expression(item))
        return " ".join(written) or EMPTY

    def _text(self, text: FreeText, following: GrammarExpr) -> str:
        """Write free text and all that follows it."""
        markers = [*text.until]
        markers += [opening for opening in first_set(following) if not opening.startswith(text.until)]
        any_text = ANY_TEXT if text.pattern is None else f"/{regex_to_lark(translate_pattern(text.pattern))}/"
        branches = []
        for marker in dict.fromkeys(markers):
            rest = derivative(following, marker)
            if rest is not None:
                branches.append(f"{self._lark.text_until(marker, markers, any_text)} {self._expression(rest)}")
        if matches_empty(following):
            branches.append(self._lark.terminal(any_text + self._lark.excluding(markers)))
        elif starts_with_token(following):
            branches.append(
                f"{self._lark.terminal(any_text + self._lark.excluding(markers))} {self._expression(following)}"
            )
        elif not branches:
            raise InvalidParameter("free text must end in fixed text: there is nothing by which to know where it ends.")
        return self._lark.rule(" | ".join(branches))


def _dump_grammars(grammars: list[dict[str, str]]) -> str:
    return json.dumps({"grammars": grammars}, ensure_ascii=False)
