"""The wire format, against what protobuf's own library writes, and against any bytes."""

import contextlib
import struct

import pytest
from google.protobuf import descriptor_pb2, struct_pb2, wrappers_pb2
from hypothesis import given
from hypothesis import strategies as st

from jaxserve.weights.protobuf import as_float, as_int, as_ints, as_message, as_text, iter_fields


@given(st.integers(-(2**63), 2**63 - 1).filter(bool))
def test_whole_numbers(value):
    [(number, found)] = iter_fields(wrappers_pb2.Int64Value(value=value).SerializeToString())
    assert (number, as_int(found)) == (1, value)


@given(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1))
def test_packed_whole_numbers(values):
    location = descriptor_pb2.SourceCodeInfo.Location(path=values)
    [(number, found)] = iter_fields(location.SerializeToString())
    assert (number, as_ints(found)) == (1, values)
    assert as_ints(7) == [7]


@given(st.floats(width=32, allow_nan=False).filter(bool))
def test_floats(value):
    [(_, found)] = iter_fields(wrappers_pb2.FloatValue(value=value).SerializeToString())
    assert as_float(found) == value


@given(st.lists(st.text(min_size=1), max_size=5))
def test_texts_in_messages(values):
    written = struct_pb2.ListValue(values=[struct_pb2.Value(string_value=value) for value in values])
    messages = [as_message(value) for _, value in iter_fields(written.SerializeToString())]
    assert [[as_text(value) for _, value in iter_fields(one)] for one in messages] == [[value] for value in values]


@given(st.binary(max_size=100))
def test_any_bytes_are_fields_or_a_value_error(data):
    with contextlib.suppress(ValueError):
        assert all(number > 0 for number, _ in iter_fields(data))


@pytest.mark.parametrize("data", [b"\x08", b"\x0a\x05ab", b"\x0d\x00", b"\x0b", b"\x00\x01", b"\x08" + b"\xff" * 11])
def test_what_is_cut_short_or_unknown_is_refused(data):
    with pytest.raises(ValueError):
        list(iter_fields(data))


def test_the_wrong_kind_of_value_is_refused():
    with pytest.raises(ValueError):
        as_text(7)
    with pytest.raises(ValueError):
        as_int(memoryview(struct.pack("<f", 1.0)))
    with pytest.raises(ValueError):
        as_float(memoryview(b"ab"))
