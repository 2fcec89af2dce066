"""What a caller asked for → the shape of the answer."""

import re
from collections.abc import Mapping
from functools import partial

from jaxserve.errors import InvalidParameter
from jaxserve.structured.gbnf import ROOT, is_gbnf, read_gbnf
from jaxserve.structured.lexemes import bytes_behind
from jaxserve.structured.productions_lark import lark_text
from jaxserve.structured.regions import with_ends
from jaxserve.structured.sequels import unfold
from jaxserve.structured.shapes import (
    Choice,
    Either,
    Lark,
    Optional,
    Regex,
    Repeat,
    Schema,
    Sequence,
    Shape,
    Whitespace,
)
from jaxserve.structured.structural_tags import structural_tag
from jaxserve.structured_outputs import StructuredOutputs

ANY_OBJECT = '{"type": "object"}'
MAX_GRAMMAR_BYTES = 1 << 20
MAX_CHOICES, MAX_CHOICE_CHARS = 100_000, 8 << 20
MAX_REPETITIONS = 10_000
# In Lark, texts and comments, and how often something is repeated.
_REPETITION = re.compile(
    r'"(?:\\.|[^"\\\n])*"|//[^\n]*|\#[^\n]*|\{\s*([0-9]*)\s*(?:,\s*([0-9]*)\s*)?\}|~\s*([0-9]+)(?:\.\.([0-9]+))?'
)


def resolved(shape: Shape, special_tokens: Mapping[str, int]) -> Shape:
    """The same shape, in which what a caller asked for has been read. Raises InvalidParameter like `shape_of`."""
    match shape:
        case StructuredOutputs():
            return shape_of(shape, special_tokens)
        case Sequence(items):
            return Sequence(with_ends(unfold(tuple(resolved(item, special_tokens) for item in items))))
        case Either(options):
            return Either(tuple(resolved(option, special_tokens) for option in options))
        case Optional(item):
            return Optional(resolved(item, special_tokens))
        case Repeat(item, least, most, separator):
            between = None if separator is None else resolved(separator, special_tokens)
            return Repeat(resolved(item, special_tokens), least, most, between)
    return shape


def shape_of(asked: StructuredOutputs, special_tokens: Mapping[str, int]) -> Shape:
    """The shape that says the same. special_tokens: text → id. Raises InvalidParameter without a field's name."""
    whitespace = Whitespace(asked.disable_any_whitespace, asked.whitespace_pattern)
    if asked.json is not None:
        return Schema(asked.json, whitespace, asked.disable_additional_properties)
    if asked.json_object:
        return Schema(ANY_OBJECT, whitespace)
    if asked.regex is not None:
        return Regex(asked.regex)
    if asked.choice is not None:
        return _choice(asked.choice)
    if asked.grammar is not None:
        return grammar_shape(asked.grammar)
    assert asked.structural_tag is not None  # one of them always is given
    closed = asked.disable_additional_properties
    grammar = partial(grammar_shape, is_region=True)
    return resolved(structural_tag(asked.structural_tag, special_tokens, grammar, whitespace, closed), special_tokens)


def _choice(texts: tuple[str, ...]) -> Choice:
    if len(texts) > MAX_CHOICES:
        raise InvalidParameter(f"there are {len(texts)} choices, more than {MAX_CHOICES}.")
    if sum(map(len, texts)) > MAX_CHOICE_CHARS:
        raise InvalidParameter(f"the choices together are longer than {MAX_CHOICE_CHARS} characters.")
    return Choice(texts)


def grammar_shape(text: str, is_region: bool = False) -> Lark:
    """A grammar in GBNF, which has a line with `::=`, or in Lark. Raises InvalidParameter."""
    if len(text.encode("utf-8", "surrogatepass")) > MAX_GRAMMAR_BYTES:
        raise InvalidParameter(f"the grammar is larger than {MAX_GRAMMAR_BYTES} bytes.")
    if not text.strip():
        raise InvalidParameter("the grammar must not be blank.")
    if is_gbnf(text):
        rules = read_gbnf(text)
        return Lark(lark_text(rules, ROOT), bytes_behind(rules, ROOT) if is_region else 0)
    for found in _REPETITION.finditer(text):
        for count in filter(None, found.groups()):
            if int(count.lstrip("0")[:9] or 0) > MAX_REPETITIONS:
                raise InvalidParameter(f"the grammar repeats {count[:20]} times, which is more than {MAX_REPETITIONS}.")
    return Lark(text)
