"""What a caller asked for → the shape of the answer."""

import re
from collections.abc import Mapping
from functools import partial

from jaxserve.errors import InvalidParameter
from jaxserve.structured.derivatives import flatten
from jaxserve.structured.gbnf import ROOT, is_gbnf, parse_gbnf
from jaxserve.structured.grammar_expr import (
    GrammarExpr,
    JsonSchema,
    JsonWhitespace,
    LarkGrammar,
    OptionalExpr,
    OrExpr,
    Regex,
    RepeatExpr,
    SequenceExpr,
    TextChoice,
)
from jaxserve.structured.lexemes import find_continuation_bytes
from jaxserve.structured.productions_lark import productions_to_lark
from jaxserve.structured.regions import bound_regions
from jaxserve.structured.structural_tags import parse_structural_tag
from jaxserve.structured_outputs import StructuredOutputs

ANY_OBJECT = '{"type": "object"}'
MAX_GRAMMAR_BYTES = 1 << 20
MAX_CHOICES, MAX_CHOICE_CHARS = 100_000, 8 << 20
MAX_REPETITIONS = 10_000
# In Lark, texts and comments, and how often something is repeated.
_REPETITION = re.compile(
    r'"(?:\\.|[^"\\\n])*"|//[^\n]*|\#[^\n]*|\{\s*([0-9]*)\s*(?:,\s*([0-9]*)\s*)?\}|~\s*([0-9]+)(?:\.\.([0-9]+))?'
)


def resolve(shape: GrammarExpr, special_tokens: Mapping[str, int]) -> GrammarExpr:
    """The same expression, in which what a caller asked for has been read.

    Raises InvalidParameter like `parse_structured_outputs`.
    """
    match shape:
        case StructuredOutputs():
            return parse_structured_outputs(shape, special_tokens)
        case SequenceExpr(items):
            return SequenceExpr(bound_regions(flatten(tuple(resolve(item, special_tokens) for item in items))))
        case OrExpr(options):
            return OrExpr(tuple(resolve(option, special_tokens) for option in options))
        case OptionalExpr(item):
            return OptionalExpr(resolve(item, special_tokens))
        case RepeatExpr(item, least, most, separator):
            between = None if separator is None else resolve(separator, special_tokens)
            return RepeatExpr(resolve(item, special_tokens), least, most, between)
    return shape


def parse_structured_outputs(asked: StructuredOutputs, special_tokens: Mapping[str, int]) -> GrammarExpr:
    """The shape that says the same. special_tokens: text → id. Raises InvalidParameter without a field's name."""
    whitespace = JsonWhitespace(asked.disable_any_whitespace, asked.whitespace_pattern)
    if asked.json is not None:
        return JsonSchema(asked.json, whitespace, asked.disable_additional_properties)
    if asked.json_object:
        return JsonSchema(ANY_OBJECT, whitespace)
    if asked.regex is not None:
        return Regex(asked.regex)
    if asked.choice is not None:
        return _choice(asked.choice)
    if asked.grammar is not None:
        return parse_grammar(asked.grammar)
    assert asked.structural_tag is not None  # one of them always is given
    closed = asked.disable_additional_properties
    grammar = partial(parse_grammar, is_region=True)
    return resolve(
        parse_structural_tag(asked.structural_tag, special_tokens, grammar, whitespace, closed), special_tokens
    )


def _choice(texts: tuple[str, ...]) -> TextChoice:
    if len(texts) > MAX_CHOICES:
        raise InvalidParameter(f"there are {len(texts)} choices, more than {MAX_CHOICES}.")
    if sum(map(len, texts)) > MAX_CHOICE_CHARS:
        raise InvalidParameter(f"the choices together are longer than {MAX_CHOICE_CHARS} characters.")
    return TextChoice(texts)


def parse_grammar(text: str, is_region: bool = False) -> LarkGrammar:
    """A grammar in GBNF, which has a line with `::=`, or in Lark. Raises InvalidParameter."""
    if len(text.encode("utf-8", "surrogatepass")) > MAX_GRAMMAR_BYTES:
        raise InvalidParameter(f"the grammar is larger than {MAX_GRAMMAR_BYTES} bytes.")
    if not text.strip():
        raise InvalidParameter("the grammar must not be blank.")
    if is_gbnf(text):
        rules = parse_gbnf(text)
        return LarkGrammar(productions_to_lark(rules, ROOT), find_continuation_bytes(rules, ROOT) if is_region else 0)
    for found in _REPETITION.finditer(text):
        for count in filter(None, found.groups()):
            if int(count.lstrip("0")[:9] or 0) > MAX_REPETITIONS:
                raise InvalidParameter(f"the grammar repeats {count[:20]} times, which is more than {MAX_REPETITIONS}.")
    return LarkGrammar(text)
