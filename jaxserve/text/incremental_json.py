"""JSON in a TextBuffer: its text is emitted unchanged as it arrives; strings, escapes and brackets are followed."""

import re
from typing import Any

from jaxserve.exact_json import dump_exact_json, load_exact_json
from jaxserve.text.text_buffer import Emit, Malformed, Parser, TextBuffer

_MAX_DEPTH = 200
_BRACKET_OR_QUOTE = re.compile(r'["{}\[\]]')
_QUOTE_OR_ESCAPE = re.compile(r'["\\]')
_SCALAR = re.compile(r"[\w+.-]*")
_CLOSING = {"{": "}", "[": "]"}


def stream_json_value(buffer: TextBuffer, emit: Emit) -> Parser[None]:
    """Read one value, after whitespace, and emit its text in pieces.

    Raises Malformed if its brackets do not match.
    """
    first = yield from buffer.peek()
    if first in _CLOSING:
        yield from _stream_container(buffer, emit)
    elif first == '"':
        yield from _stream_string(buffer, emit)
    else:
        yield from _stream_scalar(buffer, emit)


def read_json_string(buffer: TextBuffer) -> Parser[str]:
    """Read one string and return its value. Raises Malformed if something else comes."""
    if (yield from buffer.peek()) != '"':
        buffer.fail()
    pieces: list[str] = []
    yield from _stream_string(buffer, pieces.append)
    return replace_lone_surrogates(parse_json("".join(pieces)))


def parse_json(text: str) -> Any:
    """Return the value of a JSON text with all digits of its numbers. Raises Malformed if the text is not JSON."""
    try:
        return load_exact_json(text)
    except (ValueError, RecursionError) as error:
        raise Malformed from error


def dump_json(value: Any) -> str:
    """Return the JSON text of a value, with non-ASCII letters as they are and all digits of its numbers."""
    return replace_lone_surrogates(dump_exact_json(value, ", ", ": "))


def replace_lone_surrogates(text: str) -> str:
    """Join surrogate pairs, and replace surrogates that have no partner by U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _stream_scalar(buffer: TextBuffer, emit: Emit) -> Parser[None]:
    num_read = 0
    while True:
        end = _SCALAR.match(buffer.text, buffer.pos).end()  # pyright: ignore[reportOptionalMemberAccess]
        if end > buffer.pos:
            emit(buffer.text[buffer.pos : end])
        num_read += end - buffer.pos
        buffer.pos = end
        if end < len(buffer.text) or buffer.is_ended:
            break
        yield
    if not num_read:
        buffer.fail()


def _stream_string(buffer: TextBuffer, emit: Emit) -> Parser[None]:
    """Stream a string from its opening to its closing quote."""
    search_start = buffer.pos + 1
    while True:
        match = _QUOTE_OR_ESCAPE.search(buffer.text, search_start)
        if match is None or (match.group() == "\\" and match.end() == len(buffer.text)):
            emit(buffer.text[buffer.pos :])
            buffer.pos = len(buffer.text)
            yield from buffer.wait_for_text()
            search_start = buffer.pos + (match is not None)  # skips what the backslash escapes
        elif match.group() == "\\":
            search_start = match.end() + 1
        else:
            emit(buffer.text[buffer.pos : match.end()])
            buffer.pos = match.end()
            return


def _stream_container(buffer: TextBuffer, emit: Emit) -> Parser[None]:
    pending: list[str] = []
    while True:
        match = _BRACKET_OR_QUOTE.search(buffer.text, buffer.pos)
        end = match.start() if match else len(buffer.text)
        if end > buffer.pos:
            emit(buffer.text[buffer.pos : end])
            buffer.pos = end
        if match is None:
            yield from buffer.wait_for_text()
            continue
        if match.group() == '"':
            yield from _stream_string(buffer, emit)
            continue
        _track_bracket(pending, match.group())
        emit(match.group())
        buffer.pos = match.end()
        if not pending:
            return


def _track_bracket(pending: list[str], bracket: str) -> None:
    """Update the closing brackets that are still to come, innermost last. Raises Malformed if this one does not fit."""
    if bracket in _CLOSING:
        if len(pending) == _MAX_DEPTH:
            raise Malformed
        pending.append(_CLOSING[bracket])
    elif pending.pop() != bracket:
        raise Malformed
