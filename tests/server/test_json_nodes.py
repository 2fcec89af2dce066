"""The number of values is told without parsing, whatever strings hold and wherever the text is cut."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server import json_nodes
from server.json_nodes import has_more_nodes

TEXTS = st.text(alphabet=['"', "\\", ",", "[", "{", ":", "a", "\n", "é"], max_size=20)
VALUES = st.recursive(TEXTS | st.integers() | st.none(), lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner))


def count(value):
    """The containers, the commas and the members of a value, in the plainest way."""
    if not isinstance(value, list | dict):
        return 0, 0, 0
    counts = [count(item) for item in (value.values() if isinstance(value, dict) else value)]
    containers, commas, members = (sum(column) for column in zip((0, 0, 0), *counts, strict=True))
    return containers + 1, commas + max(0, len(value) - 1), members + len(value) * isinstance(value, dict)


@given(VALUES, st.integers(1, 40), st.booleans())
def test_strings_are_not_counted_and_cuts_change_nothing(value, slice_bytes, ascii):
    text = json.dumps(value, ensure_ascii=ascii).encode()
    containers, commas, members = count(value)
    least = max(containers + commas, 8 * containers, 4 * members)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_nodes, "_SLICE_BYTES", slice_bytes)
        assert not has_more_nodes(text, least)
        if least:
            assert has_more_nodes(text, least - 1)


@given(st.binary())
def test_any_bytes_have_a_number(data):
    has_more_nodes(data, 1)


@pytest.mark.parametrize("item", [b"[]", b"1", b'""', b"{}", b'{"a":1}'])
def test_the_limit_holds_for_every_kind_of_value(item):
    text = b"[" + b",".join([item] * 1000) + b"]"
    assert has_more_nodes(text, 500)
    assert not has_more_nodes(text, 8008)


async def test_a_body_of_too_many_values_is_refused_and_the_flag_named(make_api):
    api = make_api(max_json_nodes=80)
    answer = await api.chat(x=[[]] * 21)
    assert (answer.status, answer.error["param"]) == (400, "body")
    assert "--max-json-nodes" in answer.error["message"]
    assert (await api.chat(x=[1] * 40, y=",[{" * 1000)).status == 200


@pytest.mark.parametrize("piece", [b'\\",', b",", b"\\\\,", b"\\u0022,"])
def test_a_string_far_longer_than_a_slice_is_read_once(piece):
    """Once for each quote in its first slice took a minute, in which no other thread ran."""
    text = b'{"a":"' + piece * (1 << 19) + b'"'
    assert not has_more_nodes(text + b"}", 8)
    assert has_more_nodes(text + b',"b":[' + b"1," * 8 + b"1]}", 8)
    assert not has_more_nodes(text[:-1], 8)
