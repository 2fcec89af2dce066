"""Numbers of a schema, exact: bounds merged into one range, listed numbers, and how either is written.

llguidance reads numbers as doubles, and not always the nearest ones. In a merged schema a Decimal stands for a number
that it would change, and a schema with a Decimal in it is written by json_lark.py instead.
"""

import math
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from jaxserve.exact_json import LongFloat
from jaxserve.structured.allof_merge import LocatedSchema
from jaxserve.structured.formats import NUMBER_FORMATS
from jaxserve.structured.schema_keywords import unenforceable_error

MAX_SIGNIFICANT_DIGITS = 100  # of a uint256 there are 78
LARGEST_EXACT_INTEGER = 2**53
LARGEST_EXACT_BOUND = 10**15
NUM_EXACT_DIGITS = 15
_POSITIONAL = range(-7, 16)  # exponents of ten that are written as zeros; 1e16 as an integer is not always the double
_LOWER = ("minimum", "exclusiveMinimum")
_UPPER = ("maximum", "exclusiveMaximum")


def is_number(value: Any) -> bool:
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool)


def has_decimal(value: Any) -> bool:
    """Whether there is a Decimal in a value or a merged schema."""
    if isinstance(value, dict | list):
        return any(map(has_decimal, value.values() if isinstance(value, dict) else value))
    return isinstance(value, Decimal)


def is_integer(number: Decimal) -> bool:
    return _digits_of(number)[1] >= 0 or not number


def parse_decimal(value: float | Decimal, keyword: str, path: str) -> Decimal:
    """The number that was written. Raises InvalidParameter beyond the range of a double and above 100 digits."""
    if isinstance(value, Decimal):
        return value
    is_underflow = isinstance(value, LongFloat) and value == 0
    if isinstance(value, float) and (is_underflow or not math.isfinite(value)):
        written = value.text if isinstance(value, LongFloat) else repr(value)
        raise unenforceable_error(keyword, path, f"{written[:50]} is beyond the range of a double")
    number = Decimal(value.text if isinstance(value, LongFloat) else repr(value))
    if len(_digits_of(number)[0]) > MAX_SIGNIFICANT_DIGITS:
        raise unenforceable_error(keyword, path, f"{str(number)[:50]}… has more than {MAX_SIGNIFICANT_DIGITS} digits")
    return number


def to_listed_number(value: float, keyword: str, path: str) -> float | Decimal:
    """A number of `enum` or `const`: as it is where llguidance keeps all its digits, else a Decimal."""
    number = parse_decimal(value, keyword, path)
    if isinstance(value, int):
        return value if abs(value) <= LARGEST_EXACT_INTEGER else number
    return value if _has_few_digits(number) else number


def format_number(number: Decimal) -> str:
    """A listed number, which is not zero: integers digit by digit, doubles in their shortest form."""
    digits, exponent = _digits_of(number)
    sign = "-" if number.is_signed() else ""
    if number.adjusted() not in _POSITIONAL and number.as_tuple().exponent != 0:
        return f"{sign}{digits[0]}{digits[1:] and '.' + digits[1:]}e{number.adjusted():+d}"
    if exponent >= 0:
        return sign + digits + "0" * exponent
    digits = digits.rjust(1 - exponent, "0")
    return f"{sign}{digits[:exponent]}.{digits[exponent:]}"


def merge_number_bounds(parts: Iterable[LocatedSchema], are_integers: bool) -> dict[str, Any] | None:
    """`minimum` and `maximum`, where there are any; None: no number is in the range.

    are_integers: only whole numbers are left.
    """
    lows: list[Decimal] = []
    highs: list[Decimal] = []
    for part in parts:
        for keyword, value in _said(part).items():
            bounds, direction = (lows, 1) if keyword in _LOWER else (highs, -1)
            exclusive = keyword.startswith("exclusive")
            bounds.append((_whole if are_integers else _decimal)(value, direction, exclusive))
    low, high = max(lows, default=None), min(highs, default=None)
    if not all(bound is None or bound.is_finite() for bound in (low, high)):
        return None
    if low is not None and high is not None and low > high:
        return None
    is_point = not are_integers and (low == high or high == 0)  # llguidance knows one spelling of 3, and of 0
    return {
        keyword: value if is_point else _bound(value, are_integers)
        for keyword, value in (("minimum", low), ("maximum", high))
        if value is not None
    }


def is_in_range(number: Decimal, bounds: dict[str, Any]) -> bool:
    """Whether a number is within the `minimum` and `maximum` that `merge_number_bounds` gave."""
    low, high = (to_decimal(bounds[keyword]) if keyword in bounds else None for keyword in ("minimum", "maximum"))
    return (low is None or number >= low) and (high is None or number <= high)


def _said(part: LocatedSchema) -> dict[str, Decimal]:
    """The four bounds as numbers; before draft 6 the exclusive ones were switches."""
    schema, found = part.schema, {}
    for keyword, exclusive in (_LOWER, _UPPER):
        limits = {name: schema[name] for name in (keyword, exclusive) if name in schema}
        if isinstance(limits.get(exclusive), bool):
            is_exclusive = limits.pop(exclusive)
            limits = {exclusive: limits[keyword]} if is_exclusive and keyword in limits else limits
        found |= {name: parse_decimal(value, name, part.path) for name, value in limits.items()}
    range_of_format = NUMBER_FORMATS.get(schema.get("format", ""))
    if range_of_format:
        least, most = map(Decimal, range_of_format)
        found |= {"minimum": max(found.get("minimum", least), least), "maximum": min(found.get("maximum", most), most)}
    return found


def _whole(bound: Decimal, direction: int, exclusive: bool) -> Decimal:
    """The first integer within a bound. direction: 1 for a lower bound, -1 for an upper one."""
    nearest = math.ceil(bound) if direction > 0 else math.floor(bound)
    return Decimal(nearest + direction if exclusive and nearest == bound else nearest)


def _decimal(bound: Decimal, direction: int, exclusive: bool) -> Decimal:
    """The first number within a bound. Behind an exclusive one it is the next double.

    What lies between the two is valid by the letter, but whoever reads it as a double reads the bound itself.
    """
    return Decimal(repr(math.nextafter(float(bound), direction * math.inf))) if exclusive else bound


def _bound(value: Decimal, are_integers: bool) -> int | Decimal:
    """A bound as llguidance takes it exactly: an integer that is not large. Of 0.1 … 0.15 it would leave out 0.1."""
    limit = LARGEST_EXACT_INTEGER if are_integers else LARGEST_EXACT_BOUND
    return int(value) if is_integer(value) and abs(value) <= limit else value


def to_decimal(value: float | Decimal) -> Decimal:
    """A number of a merged schema."""
    return Decimal(repr(value)) if isinstance(value, float) else Decimal(value)


def _has_few_digits(number: Decimal) -> bool:
    """Whether llguidance reads the number as it was written."""
    digits, exponent = _digits_of(number)
    return not number or (
        len(digits) <= NUM_EXACT_DIGITS and number.adjusted() < NUM_EXACT_DIGITS and exponent >= -NUM_EXACT_DIGITS
    )


def _digits_of(number: Decimal) -> tuple[str, int]:
    """The digits without zeros at either end, and the power of ten that the last one counts."""
    _, digits, exponent = number.as_tuple()
    assert isinstance(exponent, int)
    text = "".join(map(str, digits)).lstrip("0")
    return text.rstrip("0"), exponent + len(text) - len(text.rstrip("0"))
