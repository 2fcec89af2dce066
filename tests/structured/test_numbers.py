"""Bounds are never looser than what was said, however many digits they have."""

import json
from decimal import Decimal

from hypothesis import example, given, settings
from hypothesis import strategies as st

from jaxserve.errors import InvalidParameter
from jaxserve.structured.shapes import Schema, Whitespace
from tests.structured.bytes_vocabulary import accepts, matcher_of

KEYWORDS = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")
BOUNDS = st.integers(-(10**19), 10**19) | st.floats(allow_nan=False, allow_infinity=False, width=64)
HOLDS = {
    "minimum": lambda value, bound: value >= bound,
    "exclusiveMinimum": lambda value, bound: value > bound,
    "maximum": lambda value, bound: value <= bound,
    "exclusiveMaximum": lambda value, bound: value < bound,
}


@settings(deadline=None)
@given(st.sampled_from(KEYWORDS), BOUNDS, st.sampled_from(["integer", "number"]))
@example("exclusiveMinimum", 2**53, "integer")
@example("exclusiveMaximum", -(2**53), "integer")
@example("exclusiveMinimum", 123456789.12345679, "number")
@example("minimum", 5e-324, "number")
@example("maximum", 1e300, "number")
@example("maximum", 6.24144062183027e16, "integer")
def test_no_number_beyond_a_bound_is_accepted(keyword, bound, kind):
    try:
        matcher = matcher_of(Schema(json.dumps({"type": kind, keyword: bound}), Whitespace(compact=True)))
    except InvalidParameter as error:
        assert f"'{keyword}'" in str(error)
        return
    exact = Decimal(repr(bound))
    steps = [Decimal(0), Decimal("1e-16"), Decimal("0.5"), Decimal(1), Decimal(2), Decimal(1000)]
    for value in (exact + sign * step for step in steps for sign in (1, -1)):
        text = format(value, "f") if kind == "number" else format(value.to_integral_value(), "f")
        if accepts(matcher, text):
            assert HOLDS[keyword](Decimal(text), exact), f"{text} under {keyword} {bound}"


@settings(deadline=None)
@given(st.integers(-(10**15), 10**15), st.sampled_from(["integer", "number"]))
def test_ordinary_bounds_are_exact(bound, kind):
    for keyword in KEYWORDS:
        matcher = matcher_of(Schema(json.dumps({"type": kind, keyword: bound}), Whitespace(compact=True)))
        for value in (bound - 1, bound, bound + 1):
            assert accepts(matcher, str(value)) == HOLDS[keyword](value, bound)
