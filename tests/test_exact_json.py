"""JSON is read and written with all digits of its numbers."""

import copy
import json
import pickle
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxserve.exact_json import LongFloat, dump_exact_json, load_exact_json
from jaxserve.text.incremental_json import dump_json, parse_json
from jaxserve.text.text_buffer import Malformed

numbers = st.from_regex(r"-?(0|[1-9][0-9]{0,40})(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,3})?", fullmatch=True)


@given(numbers)
def test_a_number_is_written_as_it_counts(text):
    number = load_exact_json(text)
    assert Decimal(dump_exact_json(number)) == Decimal(text)
    assert number == json.loads(text) and json.dumps(number) == json.dumps(json.loads(text))
    assert isinstance(number, LongFloat) == (Decimal(json.dumps(json.loads(text))) != Decimal(text))


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) |
                    st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))  # fmt: skip
def test_any_value_is_read_as_it_was_written(value):
    assert load_exact_json(dump_exact_json(value)) == value == json.loads(dump_exact_json(value))


def test_a_long_number_travels_whole():
    number = load_exact_json("0.1000000000000000055511151231257827")
    assert number == 0.1 and isinstance(number, float)
    assert [dump_exact_json(each) for each in (pickle.loads(pickle.dumps(number)), copy.deepcopy(number))] == [
        "0.1000000000000000055511151231257827"
    ] * 2


@pytest.mark.parametrize("text", ["NaN", "-Infinity", "1" * 309, f"[0.{'1' * 308}]", "9" * 5000, "{", "01"])
def test_other_text_is_refused_in_our_words(text):
    with pytest.raises(ValueError) as caught:
        load_exact_json(text)
    assert "sys." not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["0.1000000000000000055511151231257827", "[12345678901234567890123, 1e-400]", '{"a": 1.50}']
)
def test_what_a_model_writes_keeps_its_digits(text):
    said = dump_json(parse_json(text))
    assert said == text.replace("1.50", "1.5") and dump_json(parse_json(said)) == said


def test_a_model_that_writes_too_many_digits_has_written_no_json():
    with pytest.raises(Malformed):
        parse_json("9" * 5000)
