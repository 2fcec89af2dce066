"""JSON whose numbers keep all their digits: integers are int, and a number that no double equals is a LongFloat."""

import json
from decimal import Decimal
from typing import Any, NoReturn

MAX_JSON_DIGITS = 308  # about the number of digits of the largest double
_NUM_SAFE_CHARS = 16  # a number of 15 digits and a point is read back as it was written


class LongFloat(float):
    """The double nearest to a JSON number that no double equals.

    text   the number as it was written
    """

    __slots__ = ("text",)
    text: str

    def __new__(cls, text: str) -> "LongFloat":
        number = super().__new__(cls, text)
        number.text = text
        return number

    def __getnewargs__(self) -> tuple[str]:
        return (self.text,)


def load_exact_json(text: str | bytes) -> Any:
    """Parse JSON text without changing the value of any number.

    Raises ValueError if the text is not JSON, holds NaN or an infinity, or has a number of more than MAX_JSON_DIGITS
    digits; RecursionError if it is nested too deeply.
    """
    return json.loads(text, parse_int=_parse_integer, parse_float=_parse_float, parse_constant=_refuse_constant)


def dump_exact_json(value: Any, comma: str = ",", colon: str = ":") -> str:
    """Write JSON text that `load_exact_json` parses to the same value.

    Keys keep their order, and non-ASCII characters are not escaped.

    comma, colon   separators, as in `json.dumps(separators=…)`
    """
    if not _has_long_floats(value):  # written ten times as fast
        return json.dumps(value, ensure_ascii=False, separators=(comma, colon))
    return _dump_long_floats(value, comma, colon)


def _has_long_floats(value: Any) -> bool:
    values = [value]
    while values:
        value = values.pop()
        if isinstance(value, dict):
            values += value.values()
        elif isinstance(value, list | tuple):
            values += value
        elif isinstance(value, LongFloat):
            return True
    return False


def _dump_long_floats(value: Any, comma: str, colon: str) -> str:
    if isinstance(value, dict):
        keys = (json.dumps(key, ensure_ascii=False) for key in value)
        values = (_dump_long_floats(item, comma, colon) for item in value.values())
        return "{" + comma.join(map(colon.join, zip(keys, values, strict=True))) + "}"
    if isinstance(value, list | tuple):
        return "[" + comma.join(_dump_long_floats(item, comma, colon) for item in value) + "]"
    return value.text if isinstance(value, LongFloat) else json.dumps(value, ensure_ascii=False)


def _parse_integer(text: str) -> int:
    _check_digits(text)
    return int(text)


def _parse_float(text: str) -> float:
    _check_digits(text)
    number = float(text)
    if len(text) <= _NUM_SAFE_CHARS and "e" not in text and "E" not in text:
        return number
    return number if _is_exact(text, number) else LongFloat(text)


def _is_exact(text: str, number: float) -> bool:
    """Whether writing the double again gives the same number."""
    if number in (0.0, float("inf"), float("-inf")):
        return number == 0 and not text.lower().partition("e")[0].strip("-0.")
    return Decimal(text) == Decimal(repr(number))


def _check_digits(text: str) -> None:
    if len(text) > MAX_JSON_DIGITS and sum(map(str.isdigit, text)) > MAX_JSON_DIGITS:
        raise ValueError(f"a number has more than {MAX_JSON_DIGITS} digits")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
