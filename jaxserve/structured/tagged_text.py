"""The text of a tagged argument that may be a string, up to the marker that ends it, as a terminal.

llguidance's lexer takes the longest terminal, so the other values that the text may be are in the same terminal. Those
that a terminal cannot describe, objects and arrays, begin in a way in which no string here begins.
"""

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from llguidance import regex_to_lark

from jaxserve.structured.exact_numbers import format_number, to_decimal
from jaxserve.structured.grammar_expr import TaggedArguments
from jaxserve.structured.lark_builder import ANY_TEXT, LarkBuilder, quote_text
from jaxserve.structured.number_patterns import decimal_range_pattern, integer_range_pattern
from jaxserve.structured.parameter_types import ParameterType, types_of
from jaxserve.structured.patterns import can_match
from jaxserve.structured.text_patterns import to_text_patterns

_BLANK = "[ \\t\\r\\n]*"
_NUMBER = "-?(?:0|[1-9][0-9]*)(?:\\.[0-9]+)?(?:[eE][+-]?[0-9]+)?"
_VALUES = {"null": (None,), "boolean": (True, False)}
_BEGINS_LIKE_JSON = f"{_BLANK}[\\[{{](?s:.*)"
# ParameterType.parse accepts them in capitals, too.
_WORDS = {"null": "[nN][uU][lL][lL]", "boolean": "(?:[tT][rR][uU][eE]|[fF][aA][lL][sS][eE])"}

PlainSchema = Mapping[str, Any]


def write_tagged_text(
    own: ParameterType, parsed_as: ParameterType, expr: TaggedArguments, lark: LarkBuilder, path: str, *, is_typed: bool
) -> tuple[str | None, tuple[PlainSchema, ...]]:
    """Write the text of an argument and the marker that ends it.

    own         the type of its values
    parsed_as   the type by which the text will be parsed, which may have more values
    path        where its schema stands, for errors
    is_typed    the tag says that the value is a string

    Returns an expression (None: no text is valid) and the schemas of the values that are written as JSON instead.
    Raises InvalidParameter if something in the schema cannot be enforced for strings without quotes.
    """
    inline, rest = ([], own.others) if is_typed else _write_inline(own.others)
    conditions = "" if is_typed else _exclude_misparsed(own, parsed_as)
    options = [f"({ANY_TEXT}{_conditions(schema, path)}{conditions})" for schema in own.strings]
    for texts, schema in own.listed:
        usable = [text for text in texts if _is_writable(text, expr, lark)]
        usable = [text for text in usable if is_typed or _is_parsed_as_string(text, parsed_as)]
        if usable:
            options.append(f"(({_choice(usable)}){_conditions(schema, path)})")
    untrimmed = _exclude_trimmed(expr)
    options = [option for option in options if option == f"({ANY_TEXT})" or can_match(option + untrimmed)]
    stops = expr.stops or (expr.after_value.strip(),)
    if options == [f"({ANY_TEXT})"] and not inline:
        marker, text = expr.after_value.strip(), ANY_TEXT
    elif options:
        marker, text = expr.after_value.rstrip(), f"({' | '.join([*options, *inline])}){untrimmed}"
    else:
        return None, own.others
    end = expr.after_value[len(expr.after_value.rstrip()) :]
    return f"{lark.text_until(marker, dict.fromkeys((marker, *stops)), text)} {lark.literal(end)}", rest


def _write_inline(schemas: Iterable[PlainSchema]) -> tuple[list[str], tuple[PlainSchema, ...]]:
    """Return (terminals' expressions for values other than strings, the schemas of all values that are left)."""
    inline, rest = [], []
    for schema in schemas:
        types = types_of(schema)
        if "enum" in schema:
            inline += [_write_scalar(value) for value in schema["enum"] if not isinstance(value, dict | list)]
            if others := [value for value in schema["enum"] if isinstance(value, dict | list)]:
                rest.append({**schema, "enum": others})
            continue
        inline += [_write_scalar(value) for name in types for value in _VALUES.get(name, ())]
        low, high = (to_decimal(schema[key]) if key in schema else None for key in ("minimum", "maximum"))
        if "number" in types:
            inline.append(f"/{decimal_range_pattern(low, high)}/")
        elif "integer" in types:
            first, last = (None if bound is None else int(bound) for bound in (low, high))
            inline.append(f"/{integer_range_pattern(first, last)}/")
        if containers := [name for name in types if name in ("object", "array")]:
            rest.append({**schema, "type": containers})
    return inline, tuple(rest)


def _write_scalar(value: float | Decimal | bool | None) -> str:
    if isinstance(value, bool | None):
        return quote_text({None: "null", True: "true", False: "false"}[value])
    return quote_text(format_number(to_decimal(value)) if value else "0")


def _exclude_misparsed(own: ParameterType, parsed_as: ParameterType) -> str:
    """Return the part of a terminal that excludes strings which would be parsed as another value."""
    patterns = []
    if not parsed_as.types.isdisjoint(("object", "array")):
        patterns.append(_BEGINS_LIKE_JSON)
    if own != parsed_as:
        patterns += [f"{_BLANK}{pattern}{_BLANK}" for name, pattern in _WORDS.items() if name in parsed_as.types]
        if parsed_as.types & {"number", "integer"}:
            patterns.append(f"{_BLANK}{_NUMBER}{_BLANK}")
    return "".join(f" & ~/{regex_to_lark(pattern)}/" for pattern in patterns)


def _conditions(schema: PlainSchema, path: str) -> str:
    return "".join(f" & /{regex_to_lark(pattern)}/" for pattern in to_text_patterns(schema, path))


def _exclude_trimmed(expr: TaggedArguments) -> str:
    """Return the part of a terminal that excludes newlines at an end, where the parser would drop them."""
    first = "" if expr.after_name.endswith("\n") else " & ~/\\n(?s:.*)/"
    return first + ("" if expr.after_value.startswith("\n") else " & ~/(?s:.*)\\n/")


def _is_writable(text: str, expr: TaggedArguments, lark: LarkBuilder) -> bool:
    stops = (stop for stop in (*expr.stops, expr.after_value.strip()) if not lark.has_special_token(stop))
    return not any(stop in text for stop in stops)


def _is_parsed_as_string(text: str, parsed_as: ParameterType) -> bool:
    return parsed_as.parse(text).startswith('"')


def _choice(texts: Iterable[str]) -> str:
    return " | ".join(quote_text(text) or "/(?:)/" for text in texts)
