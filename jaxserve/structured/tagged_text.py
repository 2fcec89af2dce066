"""The text of one value that may be a string, up to the marker that ends it, as a terminal.

llguidance's lexer takes the longest terminal, so what a text may say besides a string stands in the same terminal. What
cannot, begins in a way in which no string here begins.
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
# As a reader takes them, in capitals, too.
_WORDS = {"null": "[nN][uU][lL][lL]", "boolean": "(?:[tT][rR][uU][eE]|[fF][aA][lL][sS][eE])"}

Option = Mapping[str, Any]


def write_tagged_text(
    own: ParameterType, reader: ParameterType, shape: TaggedArguments, lark: LarkBuilder, path: str, *, is_typed: bool
) -> tuple[str | None, tuple[Option, ...]]:
    """(an expression for the text and what ends it, the schemas of what has to be written as JSON instead).

    own        what the value may be
    reader     how the text will be read, which may be wider
    is_typed   it is told beside the text that it is a string
    """
    inline, rest = ([], own.others) if is_typed else _inline(own.others)
    conditions = "" if is_typed else _not_mistaken(own, reader)
    pieces = [f"({ANY_TEXT}{_conditions(schema, path)}{conditions})" for schema in own.strings]
    for texts, schema in own.listed:
        kept = [text for text in texts if _is_writable(text, shape, lark) and (is_typed or _is_read(text, reader))]
        if kept:
            pieces.append(f"(({_choice(kept)}){_conditions(schema, path)})")
    pieces = [piece for piece in pieces if piece == f"({ANY_TEXT})" or can_match(piece + _untrimmed(shape))]
    stops = shape.stops or (shape.after_value.strip(),)
    if pieces == [f"({ANY_TEXT})"] and not inline:
        marker, text = shape.after_value.strip(), ANY_TEXT
    elif pieces:
        marker, text = shape.after_value.rstrip(), f"({' | '.join([*pieces, *inline])}){_untrimmed(shape)}"
    else:
        return None, own.others
    end = shape.after_value[len(shape.after_value.rstrip()) :]
    return f"{lark.text_until(marker, dict.fromkeys((marker, *stops)), text)} {lark.literal(end)}", rest


def _inline(options: Iterable[Option]) -> tuple[list[str], tuple[Option, ...]]:
    """(expressions of what a terminal can say, the schemas of all else)."""
    found, rest = [], []
    for option in options:
        if "enum" in option:
            found += [_written(value) for value in option["enum"] if not isinstance(value, dict | list)]
            if others := [value for value in option["enum"] if isinstance(value, dict | list)]:
                rest.append({**option, "enum": others})
            continue
        found += [_written(value) for name in types_of(option) for value in _VALUES.get(name, ())]
        low, high = (to_decimal(option[key]) if key in option else None for key in ("minimum", "maximum"))
        if "number" in types_of(option):
            found.append(f"/{decimal_range_pattern(low, high)}/")
        elif "integer" in types_of(option):
            first, last = (None if bound is None else int(bound) for bound in (low, high))
            found.append(f"/{integer_range_pattern(first, last)}/")
        if left := [name for name in types_of(option) if name in ("object", "array")]:
            rest.append({**option, "type": left})
    return found, tuple(rest)


def _written(value: float | Decimal | bool | None) -> str:
    """A text of the grammar that says this value."""
    if isinstance(value, bool | None):
        return quote_text({None: "null", True: "true", False: "false"}[value])
    return quote_text(format_number(to_decimal(value)) if value else "0")


def _not_mistaken(own: ParameterType, reader: ParameterType) -> str:
    """Conditions of a string that keep it from being read as something else."""
    wrong = []
    if not reader.types.isdisjoint(("object", "array")):
        wrong.append(_BEGINS_LIKE_JSON)
    if own != reader:
        wrong += [f"{_BLANK}{pattern}{_BLANK}" for name, pattern in _WORDS.items() if name in reader.types]
        if reader.types & {"number", "integer"}:
            wrong.append(f"{_BLANK}{_NUMBER}{_BLANK}")
    return "".join(f" & ~/{regex_to_lark(pattern)}/" for pattern in wrong)


def _conditions(schema: Option, path: str) -> str:
    return "".join(f" & /{regex_to_lark(pattern)}/" for pattern in to_text_patterns(schema, path))


def _untrimmed(shape: TaggedArguments) -> str:
    """No newline at an end where a reader takes one away that is none of the markers'."""
    first = "" if shape.after_name.endswith("\n") else " & ~/\\n(?s:.*)/"
    return first + ("" if shape.after_value.startswith("\n") else " & ~/(?s:.*)\\n/")


def _is_writable(text: str, shape: TaggedArguments, lark: LarkBuilder) -> bool:
    stops = (stop for stop in (*shape.stops, shape.after_value.strip()) if not lark.has_special_token(stop))
    return not any(stop in text for stop in stops)


def _is_read(text: str, reader: ParameterType) -> bool:
    return reader.parse(text).startswith('"')


def _choice(texts: Iterable[str]) -> str:
    return " | ".join(quote_text(text) or "/(?:)/" for text in texts)
