"""A request's StructuredOutputs → grammar expressions, within limits of size."""

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
from jaxserve.structured.schema_keywords import MAX_CHOICES
from jaxserve.structured.structural_tags import parse_structural_tag
from jaxserve.structured_outputs import StructuredOutputs

ANY_OBJECT = '{"type": "object"}'
MAX_GRAMMAR_BYTES = 1 << 20
MAX_CHOICE_CHARS = 8 << 20
MAX_REPETITIONS = 10_000
# In Lark: strings and comments, which are skipped, and the counts of repetitions.
_REPETITION = re.compile(
    r'"(?:\\.|[^"\\\n])*"|//[^\n]*|\#[^\n]*|\{\s*([0-9]*)\s*(?:,\s*([0-9]*)\s*)?\}|~\s*([0-9]+)(?:\.\.([0-9]+))?'
)


def resolve(expr: GrammarExpr, special_tokens: Mapping[str, int]) -> GrammarExpr:
    """Replace the StructuredOutputs in an expression by the expressions that they stand for, and bound its regions.

    special_tokens   text → id

    Raises InvalidParameter, without the name of a field, if a grammar or a structural tag is invalid or too large.
    """
    match expr:
        case StructuredOutputs():
            return parse_structured_outputs(expr, special_tokens)
        case SequenceExpr(items):
            return SequenceExpr(bound_regions(flatten(tuple(resolve(item, special_tokens) for item in items))))
        case OrExpr(options):
            return OrExpr(tuple(resolve(option, special_tokens) for option in options))
        case OptionalExpr(item):
            return OptionalExpr(resolve(item, special_tokens))
        case RepeatExpr(item, least, most, separator):
            separator = None if separator is None else resolve(separator, special_tokens)
            return RepeatExpr(resolve(item, special_tokens), least, most, separator)
    return expr


def parse_structured_outputs(constraint: StructuredOutputs, special_tokens: Mapping[str, int]) -> GrammarExpr:
    """Return the expression for a request's constraint.

    special_tokens   text → id

    Raises InvalidParameter, without the name of a field, if a grammar or a structural tag is invalid or too large.
    """
    whitespace = JsonWhitespace(constraint.disable_any_whitespace, constraint.whitespace_pattern)
    is_closed = constraint.disable_additional_properties
    if constraint.json is not None:
        return JsonSchema(constraint.json, whitespace, is_closed)
    if constraint.json_object:
        return JsonSchema(ANY_OBJECT, whitespace)
    if constraint.regex is not None:
        return Regex(constraint.regex)
    if constraint.choice is not None:
        return _to_choice(constraint.choice)
    if constraint.grammar is not None:
        return parse_grammar(constraint.grammar)
    assert constraint.structural_tag is not None  # exactly one constraint is given
    parse_region = partial(parse_grammar, is_region=True)
    tag = parse_structural_tag(constraint.structural_tag, special_tokens, parse_region, whitespace, is_closed)
    return resolve(tag, special_tokens)


def _to_choice(texts: tuple[str, ...]) -> TextChoice:
    if len(texts) > MAX_CHOICES:
        raise InvalidParameter(f"there are {len(texts)} choices, more than {MAX_CHOICES}.")
    if sum(map(len, texts)) > MAX_CHOICE_CHARS:
        raise InvalidParameter(f"the choices together are longer than {MAX_CHOICE_CHARS} characters.")
    return TextChoice(texts)


def parse_grammar(text: str, is_region: bool = False) -> LarkGrammar:
    """Parse a grammar in GBNF, if it has a line with `::=`, or in Lark.

    is_region   other text follows the grammar's: find out which bytes may continue it

    Raises InvalidParameter if the grammar is too large, blank, not valid GBNF, or repeats something too often.
    """
    if len(text.encode("utf-8", "surrogatepass")) > MAX_GRAMMAR_BYTES:
        raise InvalidParameter(f"the grammar is larger than {MAX_GRAMMAR_BYTES} bytes.")
    if not text.strip():
        raise InvalidParameter("the grammar must not be blank.")
    if is_gbnf(text):
        rules = parse_gbnf(text)
        return LarkGrammar(productions_to_lark(rules, ROOT), find_continuation_bytes(rules, ROOT) if is_region else 0)
    for match in _REPETITION.finditer(text):
        for count in filter(None, match.groups()):
            if int(count.lstrip("0")[:9] or 0) > MAX_REPETITIONS:
                raise InvalidParameter(f"the grammar repeats {count[:20]} times, which is more than {MAX_REPETITIONS}.")
    return LarkGrammar(text)
