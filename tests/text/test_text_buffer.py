"""Text in pieces is parsed as if it were whole: markers, names, JSON, and values in other notations."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxserve.text.call_formats.gemma_literals import GemmaLiterals
from jaxserve.text.call_formats.python_literals import PythonLiterals
from jaxserve.text.incremental_json import dump_json, read_json_string, replace_lone_surrogates, stream_json_value
from jaxserve.text.text_buffer import MAX_NAME_CHARS, Malformed, TextBuffer, Unfinished
from tests.text.parsing import random_pieces

MARKERS = ("<tool>", "</tool>", "<<", "ab", "[X]")


def run(make, pieces):
    """What a reading makes of all the pieces, and the text that it leaves."""
    buffer = TextBuffer()
    reading = make(buffer)
    left = list(pieces)
    while True:
        try:
            next(reading)
        except StopIteration as end:
            return end.value, buffer.text[buffer.pos :] + "".join(left)
        if left:
            buffer.feed(left.pop(0))
        else:
            buffer.is_ended = True


TEXTS = st.lists(st.sampled_from([*MARKERS, "<", "t", "tool", ">", "a", "b", "[", "X", "é"]), max_size=12).map("".join)


@given(TEXTS, st.integers(0, 99))
def test_the_first_marker_ends_a_text_and_nothing_before_it_is_lost(text, seed):
    def until(buffer):
        emitted = []
        found = yield from buffer.read_until(MARKERS, emitted.append)
        return "".join(emitted), found

    places = {marker: text.find(marker) for marker in MARKERS if marker in text}
    first = min(places, key=places.__getitem__) if places else None
    before, _, after = text.partition(first) if first else (text, "", "")
    assert run(until, random_pieces(text, random.Random(seed))) == ((before, first), after)


@given(TEXTS)
def test_all_that_no_marker_can_begin_with_is_emitted_at_once(text):
    buffer, emitted = TextBuffer(), []
    reading = buffer.read_until(MARKERS, emitted.append)
    next(reading)
    for place, char in enumerate(text):
        buffer.feed(char)
        try:
            next(reading)
        except StopIteration:
            return
        held = text[: place + 1].removeprefix("".join(emitted))
        assert held == "" or any(marker.startswith(held) for marker in MARKERS)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(JSON, st.booleans(), st.sampled_from([None, 1]), st.integers(0, 99))
def test_json_is_taken_to_its_last_character_and_given_out_unchanged(value, ascii, indent, seed):
    text = json.dumps(value, ensure_ascii=ascii, indent=indent)

    def take(buffer):
        emitted = []
        yield from stream_json_value(buffer, emitted.append)
        return "".join(emitted)

    for behind in ("", ",", "}", ' "'):
        assert run(take, random_pieces(" " + text + behind, random.Random(seed))) == (text, behind)
        assert run(take, [*text, behind])[0] == text


@given(st.text(), st.booleans())
def test_a_string_says_what_was_written(text, ascii):
    assert run(read_json_string, list(json.dumps(text, ensure_ascii=ascii)))[0] == text


@pytest.mark.parametrize("text", ['{"a": 1]', "[}", "]", "[" * 300 + "]" * 300, "", ","])
def test_what_is_no_json_is_malformed(text):
    with pytest.raises(Malformed):
        run(lambda buffer: stream_json_value(buffer, lambda piece: None), [text])


@pytest.mark.parametrize("text", ['{"a": ', '["x', '"x\\', "{", '{"a": [1, 2'])
def test_what_breaks_off_is_unfinished(text):
    for pieces in ([text], list(text)):
        with pytest.raises(Unfinished):
            run(lambda buffer: stream_json_value(buffer, lambda piece: None), pieces)


def test_a_name_ends_where_no_name_can_go_on():
    assert run(TextBuffer.read_name, list(" \nget-weather.v2:0(x"))[0] == "get-weather.v2:0"
    with pytest.raises(Malformed):
        run(TextBuffer.read_name, ["(x"])
    assert len(run(TextBuffer.read_name, ["x" * 1000])[0]) == MAX_NAME_CHARS


def test_what_was_read_can_be_recorded():
    buffer = TextBuffer()
    buffer.feed("abcdef")
    buffer.pos = 2
    buffer.start_recording()
    buffer.pos += 1
    buffer.feed("gh")
    buffer.pos += 4
    assert (buffer.position, buffer.stop_recording()) == (7, "cdefg")


def test_halves_of_characters_never_leave():
    assert replace_lone_surrogates("a\ud83d\ude00b") == "a😀b"
    assert replace_lone_surrogates("\ud83d!") == "\ufffd!"
    assert dump_json({"a": "\ud83d\ude00"}) == '{"a": "😀"}'
    assert run(read_json_string, ['"\\ud83d!"'])[0] == "\ufffd!"


@given(JSON)
def test_python_s_repr_of_a_value_is_parsed(value):
    assert PythonLiterals().parse(repr(value)) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("null", None),
        ("(1, 'a',)", [1, "a"]),
        ("{'a': (), \"b\": [1,],}", {"a": [], "b": [1]}),
        (r"'it\'s \u00e9\x41\n\q'", "it's éA\n\\q"),
        ("-1.5e-3", -0.0015),
        ("'two\nlines'", "two\nlines"),
    ],
)
def test_python_s_literals_are_read_as_models_write_them(text, value):
    assert PythonLiterals().parse(text) == value


@pytest.mark.parametrize(
    "text", ["f(1)", "x", "1 2", "'a' 'b'", "[1", "{1: 2}", "__import__('os')", "-" * 9999 + "1", ""]
)
def test_other_expressions_are_no_literals(text):
    with pytest.raises(Malformed):
        PythonLiterals().parse(text)


def test_gemma_s_literals_are_read():
    literals = GemmaLiterals(("<q>",))
    assert literals.parse('{a:<q>x, {"}<q>,b:[1,-2.5e3,true,null],c:{d:<q><q>},e:plain words}') == {
        "a": 'x, {"}',
        "b": [1, -2500.0, True, None],
        "c": {"d": ""},
        "e": "plain words",
    }
