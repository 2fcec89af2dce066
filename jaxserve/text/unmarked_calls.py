"""Calls in a form of no dialect: JSON with a declared function's name and its arguments, bare, fenced or in tags.

Models that do not keep to their template's form write such calls, Qwen2.5-Coder above all: one object or a list, on its
own, in a Markdown fence, or in tags of another family. It is a call only if the JSON is whole and every name in it is
that of a declared function. Until that is known the text waits, at most one object or list; other text goes on at once.
"""

import re

from jaxserve.text.argument_check import may_be_arguments
from jaxserve.text.call_formats.format import Functions, ToolCallSink
from jaxserve.text.call_formats.json_calls import stream_arguments
from jaxserve.text.incremental_json import read_json_string, stream_json_value
from jaxserve.text.text_buffer import Emit, Malformed, Parser, TextBuffer, discard

_FENCE = "```"
_NAMES = ("tools", "tool", "tool_calls", "tool_call", "function_calls", "function_call", "function", "json", "xml")
_TAGS = tuple(f"<{name}>" for name in _NAMES)
_STARTS = (_FENCE, *_TAGS, "{", "[")
_MAX_WRAPPERS = 3
_LANGUAGE = re.compile(r"[\w-]{0,32}")
_WRAPPERS = re.compile(
    rf"(?:\s*(?:{_FENCE}[\w-]*|{'|'.join(_TAGS)}))*\s*(?:\[\s*)?"
    r'(?:\{\s*"type"\s*:\s*"function"\s*,\s*"function"\s*:\s*)?'
)
_DOCUMENT = re.compile(r'(?:\[\s*)?\{\s*"')
_Call = tuple[str, str]  # name, arguments


class UnmarkedCallParser:
    """Takes such calls out of content that comes in pieces."""

    def __init__(self, functions: Functions, calls: ToolCallSink, content: Emit) -> None:
        """calls, content: where they go."""
        self._functions, self._calls, self._content = functions, calls, content
        self._start()

    def feed(self, text: str) -> None:
        self._buffer.feed(text)
        next(self._reading)

    def flush(self, *, is_marked: bool = False) -> None:
        """Give out as content what waits.

        is_marked: a call in the dialect's own form comes, so what waits around its beginning is dropped.
        """
        waiting = self._buffer.pending_text()
        self._start()
        if waiting and not (is_marked and _WRAPPERS.fullmatch(waiting)):
            self._content(waiting)

    def close(self) -> None:
        self._buffer.is_ended = True
        next(self._reading, None)

    def _start(self) -> None:
        self._buffer = TextBuffer()
        self._reading = _parse(self._buffer, self._functions, self._calls, self._content)
        next(self._reading)


def _parse(buffer: TextBuffer, functions: Functions, calls: ToolCallSink, content: Emit) -> Parser[None]:
    while (found := (yield from buffer.read_until(_STARTS, content))) is not None:
        buffer.unread(found)
        buffer.start_recording()
        try:
            found_calls = yield from _parse_wrapped(buffer, functions)
        except Malformed:
            yield from _emit_as_content(buffer, content)
            continue
        buffer.stop_recording()
        for name, given in found_calls:
            calls.begin_call(name)
            calls.add_arguments(given)
            calls.end_call()


def _emit_as_content(buffer: TextBuffer, content: Emit) -> Parser[None]:
    """Emit what was read, which is no call. Of a JSON document also the rest, as what is in it is no call either."""
    text = buffer.stop_recording()
    start = min((place for place in map(text.find, "{[") if place >= 0), default=len(text))
    if not _DOCUMENT.match(text, start):
        content(text)
        return
    if start:
        content(text[:start])
    buffer.push_back(text[start:])
    try:
        yield from stream_json_value(buffer, content)
    except Malformed:
        return


def _parse_wrapped(buffer: TextBuffer, functions: Functions) -> Parser[list[_Call]]:
    for _ in range(_MAX_WRAPPERS):
        found = yield from buffer.accept(_FENCE, *_TAGS)
        if found is None:
            break
        if found == _FENCE and (yield from buffer.peek()).isalnum():
            yield from buffer.read_name(_LANGUAGE)
    if (yield from buffer.accept("[")) is None:
        return [(yield from _parse_object(buffer, functions))]
    found_calls = [(yield from _parse_object(buffer, functions))]
    while (yield from buffer.expect(",", "]")) == ",":
        found_calls.append((yield from _parse_object(buffer, functions)))
    return found_calls


def _parse_object(buffer: TextBuffer, functions: Functions) -> Parser[_Call]:
    """A call, also as the API writes it in a conversation: {"type": "function", "function": {...}}. No other keys."""
    name, given = "", ""
    more = yield from buffer.expect("{")
    while more != "}":
        key = yield from read_json_string(buffer)
        yield from buffer.expect(":")
        if key == "name" and not name:
            name = yield from read_json_string(buffer)
            if name not in functions:
                raise Malformed
        elif key in ("arguments", "parameters") and not given:
            pieces: list[str] = []
            yield from stream_arguments(buffer, pieces.append)
            given = "".join(pieces)
        elif key == "function" and not name and not given:
            name, given = yield from _parse_object(buffer, functions)
        elif key in ("type", "id"):
            yield from stream_json_value(buffer, discard)
        else:
            raise Malformed
        more = yield from buffer.expect(",", "}")
    if not name or not given or not may_be_arguments(given, functions[name]):
        raise Malformed
    return name, given
