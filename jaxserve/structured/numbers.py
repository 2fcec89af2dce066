"""Bounds of numbers, merged and written so that llguidance takes them at their word.

It reads bounds as doubles, and is exact for about 15 digits of them and up to 17 places before the point. Beyond that a
bound is moved inward, or refused where nothing would be left.
"""

import math
from collections.abc import Iterable
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Any

from jaxserve.structured.conjunction import Source
from jaxserve.structured.formats import NUMBER_FORMATS
from jaxserve.structured.keywords import cannot_enforce

LARGEST = Decimal(10) ** 17
NUM_DIGITS = 15
_LOWER = ("minimum", "exclusiveMinimum")
_UPPER = ("maximum", "exclusiveMaximum")


def merged_number(parts: Iterable[Source], are_integers: bool) -> dict[str, Any]:
    """Bounds. are_integers: only whole numbers are left."""
    bounds: dict[str, Decimal] = {}
    for part in parts:
        for keyword, value in _said(part).items():
            keyword, value = _settled(keyword, value, are_integers, part.path)
            tighter = max if keyword in _LOWER else min
            bounds[keyword] = tighter(bounds.get(keyword, value), value)
    return {keyword: _plain(value) for keyword, value in bounds.items()}


def _said(part: Source) -> dict[str, Decimal]:
    """The four bounds as numbers; before draft 6 the exclusive ones were switches."""
    schema, found = part.schema, {}
    for keyword, exclusive in (_LOWER, _UPPER):
        limits = {name: schema[name] for name in (keyword, exclusive) if name in schema}
        if isinstance(limits.get(exclusive), bool):
            is_exclusive = limits.pop(exclusive)
            limits = {exclusive: limits[keyword]} if is_exclusive and keyword in limits else limits
        found |= {name: Decimal(repr(value)) for name, value in limits.items()}
    range_of_format = NUMBER_FORMATS.get(schema.get("format", ""))
    if range_of_format:
        least, most = map(Decimal, range_of_format)
        found |= {"minimum": max(found.get("minimum", least), least), "maximum": min(found.get("maximum", most), most)}
    return found


def _settled(keyword: str, value: Decimal, are_integers: bool, path: str) -> tuple[str, Decimal]:
    """A bound that is not looser than what was said, and that llguidance reads exactly."""
    is_lower = keyword in _LOWER
    inward = ROUND_CEILING if is_lower else ROUND_FLOOR
    if (value > LARGEST) if is_lower else (value < -LARGEST):
        raise cannot_enforce(keyword, path, f"{str(value)[:50]} has more than 17 digits")
    exact = min(max(value, -LARGEST), LARGEST)
    if are_integers:
        whole = exact.to_integral_value(inward)
        if whole == value and keyword.startswith("exclusive"):
            whole += 1 if is_lower else -1
        exact, keyword = whole, _LOWER[0] if is_lower else _UPPER[0]
        double = float(exact)
        if (double < exact) if is_lower else (double > exact):
            double = math.nextafter(double, math.inf if is_lower else -math.inf)
        return keyword, Decimal(double)
    places = Decimal(1).scaleb(max(exact.adjusted() + 1, 0) - NUM_DIGITS)
    rounded = exact.quantize(places, inward)
    # What was moved inward may itself be reached.
    return (keyword if rounded == value else _LOWER[0] if is_lower else _UPPER[0]), rounded


def _plain(value: Decimal) -> int | float:
    return int(value) if value == value.to_integral_value() else float(value)
