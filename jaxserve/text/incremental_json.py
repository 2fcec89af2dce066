"""JSON from a TextBuffer, its text given out as it comes: strings, escapes and brackets followed, nothing rewritten."""

import re
from typing import Any

from jaxserve.exact_json import dump_exact_json, load_exact_json
from jaxserve.text.text_buffer import Emit, Malformed, Parser, TextBuffer

_MAX_DEPTH = 200
_BRACKET_OR_QUOTE = re.compile(r'["{}\[\]]')
_QUOTE_OR_ESCAPE = re.compile(r'["\\]')
_SCALAR = re.compile(r"[\w+.-]*")
_CLOSES = {"{": "}", "[": "]"}


def stream_json_value(buffer: TextBuffer, emit: Emit) -> Parser[None]:
    """Takes one value, after whitespace, and emits its text in pieces. Malformed when its brackets do not match."""
    first = yield from buffer.peek()
    if first in _CLOSES:
        yield from _container(buffer, emit)
    elif first == '"':
        yield from _string(buffer, emit)
    else:
        yield from _scalar(buffer, emit)


def read_json_string(buffer: TextBuffer) -> Parser[str]:
    """Takes one string and returns what it says; Malformed when something else comes."""
    if (yield from buffer.peek()) != '"':
        buffer.fail()
    pieces: list[str] = []
    yield from _string(buffer, pieces.append)
    return replace_lone_surrogates(parse_json("".join(pieces)))


def parse_json(text: str) -> Any:
    """The value of a JSON text as the standard has it; Malformed if it is none."""
    try:
        return load_exact_json(text)
    except (ValueError, RecursionError) as error:
        raise Malformed from error


def dump_json(value: Any) -> str:
    """The JSON text of a value, other letters than ASCII as they are, and all digits of its numbers."""
    return replace_lone_surrogates(dump_exact_json(value, ", ", ": "))


def replace_lone_surrogates(text: str) -> str:
    """The text, halves of surrogate pairs joined where they can be and replaced where not."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _scalar(buffer: TextBuffer, emit: Emit) -> Parser[None]:
    taken = 0
    while True:
        end = _SCALAR.match(buffer.text, buffer.pos).end()  # pyright: ignore[reportOptionalMemberAccess]
        if end > buffer.pos:
            emit(buffer.text[buffer.pos : end])
        taken += end - buffer.pos
        buffer.pos = end
        if end < len(buffer.text) or buffer.is_ended:
            break
        yield
    if not taken:
        buffer.fail()


def _string(buffer: TextBuffer, emit: Emit) -> Parser[None]:
    """From its quote to its quote."""
    place = buffer.pos + 1
    while True:
        found = _QUOTE_OR_ESCAPE.search(buffer.text, place)
        if found is None or (found.group() == "\\" and found.end() == len(buffer.text)):
            emit(buffer.text[buffer.pos :])
            buffer.pos = len(buffer.text)
            yield from buffer.wait_for_text()
            place = buffer.pos + (found is not None)  # what the backslash escapes
        elif found.group() == "\\":
            place = found.end() + 1
        else:
            emit(buffer.text[buffer.pos : found.end()])
            buffer.pos = found.end()
            return


def _container(buffer: TextBuffer, emit: Emit) -> Parser[None]:
    closes: list[str] = []
    while True:
        found = _BRACKET_OR_QUOTE.search(buffer.text, buffer.pos)
        end = found.start() if found else len(buffer.text)
        if end > buffer.pos:
            emit(buffer.text[buffer.pos : end])
            buffer.pos = end
        if found is None:
            yield from buffer.wait_for_text()
            continue
        if found.group() == '"':
            yield from _string(buffer, emit)
            continue
        _follow(closes, found.group())
        emit(found.group())
        buffer.pos = found.end()
        if not closes:
            return


def _follow(closes: list[str], bracket: str) -> None:
    """The closing brackets that are still due, innermost last, after one more bracket."""
    if bracket in _CLOSES:
        if len(closes) == _MAX_DEPTH:
            raise Malformed
        closes.append(_CLOSES[bracket])
    elif closes.pop() != bracket:
        raise Malformed
