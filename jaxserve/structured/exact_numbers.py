"""Numbers of a schema without rounding: bounds merged into one range, listed numbers, and how each is written.

llguidance reads numbers as doubles, and not always the nearest ones. In a merged schema a number that it would change
is a Decimal, and a schema with a Decimal in it is written by json_lark.py instead.
"""

import math
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from jaxserve.exact_json import LongFloat
from jaxserve.structured.allof_merge import LocatedSchema
from jaxserve.structured.formats import NUMBER_FORMATS
from jaxserve.structured.schema_keywords import unenforceable_error

MAX_SIGNIFICANT_DIGITS = 100  # a uint256 has 78
LARGEST_EXACT_INTEGER = 2**53
LARGEST_EXACT_BOUND = 10**15
NUM_EXACT_DIGITS = 15
_POSITIONAL = range(-7, 16)  # exponents of ten that are written as zeros; 1e16 as an integer is not always the double
_LOWER = ("minimum", "exclusiveMinimum")
_UPPER = ("maximum", "exclusiveMaximum")


def is_number(value: Any) -> bool:
    """Whether a JSON value is a number; booleans are not."""
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool)


def has_decimal(value: Any) -> bool:
    """Whether a value or a merged schema contains a Decimal."""
    if isinstance(value, dict | list):
        return any(map(has_decimal, value.values() if isinstance(value, dict) else value))
    return isinstance(value, Decimal)


def is_integer(number: Decimal) -> bool:
    """Whether a number has no fraction."""
    return _digits_of(number)[1] >= 0 or not number


def parse_decimal(value: float | Decimal, keyword: str, path: str) -> Decimal:
    """Return a number of a schema as it was written.

    keyword, path   where it stands, for errors

    Raises InvalidParameter if it is beyond the range of a double, or has more than MAX_SIGNIFICANT_DIGITS digits.
    """
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
    """Return a number of `enum` or `const` unchanged if llguidance keeps all its digits, else as a Decimal.

    Raises InvalidParameter like `parse_decimal`.
    """
    number = parse_decimal(value, keyword, path)
    if isinstance(value, int):
        return value if abs(value) <= LARGEST_EXACT_INTEGER else number
    return value if _has_few_digits(number) else number


def format_number(number: Decimal) -> str:
    """Write a listed number, which is not zero: integers digit by digit, doubles in their shortest form."""
    digits, exponent = _digits_of(number)
    sign = "-" if number.is_signed() else ""
    if number.adjusted() not in _POSITIONAL and number.as_tuple().exponent != 0:
        return f"{sign}{digits[0]}{digits[1:] and '.' + digits[1:]}e{number.adjusted():+d}"
    if exponent >= 0:
        return sign + digits + "0" * exponent
    digits = digits.rjust(1 - exponent, "0")
    return f"{sign}{digits[:exponent]}.{digits[exponent:]}"


def merge_number_bounds(parts: Iterable[LocatedSchema], are_integers: bool) -> dict[str, Any] | None:
    """Merge the bounds of several schemas into `minimum` and `maximum`, where there are any.

    are_integers   only integers are valid

    Returns None if no number is in the range. Raises InvalidParameter like `parse_decimal`.
    """
    lows: list[Decimal] = []
    highs: list[Decimal] = []
    for part in parts:
        for keyword, value in _get_bounds(part).items():
            bounds, direction = (lows, 1) if keyword in _LOWER else (highs, -1)
            is_exclusive = keyword.startswith("exclusive")
            bounds.append((_first_integer if are_integers else _first_number)(value, direction, is_exclusive))
    low, high = max(lows, default=None), min(highs, default=None)
    if not all(bound is None or bound.is_finite() for bound in (low, high)):
        return None
    if low is not None and high is not None and low > high:
        return None
    # llguidance accepts only one spelling of the number of such a range, such as 3 but not 3.0.
    is_point = not are_integers and (low == high or high == 0)
    return {
        keyword: value if is_point else _to_bound(value, are_integers)
        for keyword, value in (("minimum", low), ("maximum", high))
        if value is not None
    }


def is_in_range(number: Decimal, bounds: dict[str, Any]) -> bool:
    """Whether a number is within the `minimum` and `maximum` that `merge_number_bounds` returned."""
    low, high = (to_decimal(bounds[keyword]) if keyword in bounds else None for keyword in ("minimum", "maximum"))
    return (low is None or number >= low) and (high is None or number <= high)


def _get_bounds(part: LocatedSchema) -> dict[str, Decimal]:
    """Return the bounds of a schema by keyword. Before draft 6 the exclusive ones were booleans."""
    schema, bounds = part.schema, {}
    for keyword, exclusive in (_LOWER, _UPPER):
        limits = {name: schema[name] for name in (keyword, exclusive) if name in schema}
        if isinstance(limits.get(exclusive), bool):
            is_exclusive = limits.pop(exclusive)
            limits = {exclusive: limits[keyword]} if is_exclusive and keyword in limits else limits
        bounds |= {name: parse_decimal(value, name, part.path) for name, value in limits.items()}
    range_of_format = NUMBER_FORMATS.get(schema.get("format", ""))
    if range_of_format:
        least, most = map(Decimal, range_of_format)
        bounds["minimum"] = max(bounds.get("minimum", least), least)
        bounds["maximum"] = min(bounds.get("maximum", most), most)
    return bounds


def _first_integer(bound: Decimal, direction: int, is_exclusive: bool) -> Decimal:
    """Return the first integer within a bound. direction: 1 for a lower bound, -1 for an upper one."""
    nearest = math.ceil(bound) if direction > 0 else math.floor(bound)
    return Decimal(nearest + direction if is_exclusive and nearest == bound else nearest)


def _first_number(bound: Decimal, direction: int, is_exclusive: bool) -> Decimal:
    """Return the first number within a bound. Behind an exclusive one it is the next double.

    Numbers between the two are valid under the schema, but a client that reads them as doubles reads the bound itself.
    """
    return Decimal(repr(math.nextafter(float(bound), direction * math.inf))) if is_exclusive else bound


def _to_bound(value: Decimal, are_integers: bool) -> int | Decimal:
    """Return a bound as an int if llguidance keeps it exactly. In a range from 0.1 to 0.15 it would exclude 0.1."""
    limit = LARGEST_EXACT_INTEGER if are_integers else LARGEST_EXACT_BOUND
    return int(value) if is_integer(value) and abs(value) <= limit else value


def to_decimal(value: float | Decimal) -> Decimal:
    """Convert a number of a merged schema; a float means its shortest decimal form."""
    return Decimal(repr(value)) if isinstance(value, float) else Decimal(value)


def _has_few_digits(number: Decimal) -> bool:
    """Whether llguidance reads a number as it was written."""
    digits, exponent = _digits_of(number)
    return not number or (
        len(digits) <= NUM_EXACT_DIGITS and number.adjusted() < NUM_EXACT_DIGITS and exponent >= -NUM_EXACT_DIGITS
    )


def _digits_of(number: Decimal) -> tuple[str, int]:
    """Return the digits without zeros at either end, and the exponent of ten of the last one."""
    _, digits, exponent = number.as_tuple()
    assert isinstance(exponent, int)
    text = "".join(map(str, digits)).lstrip("0")
    return text.rstrip("0"), exponent + len(text) - len(text.rstrip("0"))
