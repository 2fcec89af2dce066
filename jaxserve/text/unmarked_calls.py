"""UnmarkedCallParser: calls in a form of no dialect: JSON with the name and arguments of a declared function.

Models that do not keep to their template's form write such calls, Qwen2.5-Coder above all: one object or a list, on its
own, in a Markdown fence, or in tags of another family. They are calls only if the JSON is complete and every name in it
is that of a declared function. Until that is known the text is held back, at most one object or list; other text is
emitted at once.
"""

import re

from jaxserve.text.argument_check import accepts_arguments
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
    """Parser that takes unmarked calls out of content."""

    def __init__(self, functions: Functions, calls: ToolCallSink, content: Emit) -> None:
        """Start parsing; `calls` and `content` receive the results."""
        self._functions, self._calls, self._content = functions, calls, content
        self._start()

    def feed(self, text: str) -> None:
        """Parse more content."""
        self._buffer.feed(text)
        next(self._parsing)

    def flush(self, *, is_marked: bool = False) -> None:
        """Emit as content what is held back.

        is_marked: a call in the dialect's own form follows, so a wrapper around its beginning is dropped.
        """
        held = self._buffer.pending_text()
        self._start()
        if held and not (is_marked and _WRAPPERS.fullmatch(held)):
            self._content(held)

    def close(self) -> None:
        """Parse the rest, when no more content comes."""
        self._buffer.is_ended = True
        next(self._parsing, None)

    def _start(self) -> None:
        self._buffer = TextBuffer()
        self._parsing = _parse(self._buffer, self._functions, self._calls, self._content)
        next(self._parsing)


def _parse(buffer: TextBuffer, functions: Functions, calls: ToolCallSink, content: Emit) -> Parser[None]:
    while (start := (yield from buffer.read_until(_STARTS, content))) is not None:
        buffer.unread(start)
        buffer.start_recording()
        try:
            parsed_calls = yield from _parse_wrapped(buffer, functions)
        except Malformed:
            yield from _emit_as_content(buffer, content)
            continue
        buffer.stop_recording()
        for name, arguments in parsed_calls:
            calls.begin_call(name)
            calls.add_arguments(arguments)
            calls.end_call()


def _emit_as_content(buffer: TextBuffer, content: Emit) -> Parser[None]:
    """Emit the recorded text, which is no call. Emit all of a JSON document: what is inside it is no call either."""
    text = buffer.stop_recording()
    start = min((index for index in map(text.find, "{[") if index >= 0), default=len(text))
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
        wrapper = yield from buffer.accept(_FENCE, *_TAGS)
        if wrapper is None:
            break
        if wrapper == _FENCE and (yield from buffer.peek()).isalnum():
            yield from buffer.read_name(_LANGUAGE)
    if (yield from buffer.accept("[")) is None:
        return [(yield from _parse_object(buffer, functions))]
    parsed_calls = [(yield from _parse_object(buffer, functions))]
    while (yield from buffer.expect(",", "]")) == ",":
        parsed_calls.append((yield from _parse_object(buffer, functions)))
    return parsed_calls


def _parse_object(buffer: TextBuffer, functions: Functions) -> Parser[_Call]:
    """Parse a call, also as the API writes it: {"type": "function", "function": {...}}, without other keys.

    Raises Malformed if it is none.
    """
    name, arguments = "", ""
    separator = yield from buffer.expect("{")
    while separator != "}":
        key = yield from read_json_string(buffer)
        yield from buffer.expect(":")
        if key == "name" and not name:
            name = yield from read_json_string(buffer)
            if name not in functions:
                raise Malformed
        elif key in ("arguments", "parameters") and not arguments:
            pieces: list[str] = []
            yield from stream_arguments(buffer, pieces.append)
            arguments = "".join(pieces)
        elif key == "function" and not name and not arguments:
            name, arguments = yield from _parse_object(buffer, functions)
        elif key in ("type", "id"):
            yield from stream_json_value(buffer, discard)
        else:
            raise Malformed
        separator = yield from buffer.expect(",", "}")
    if not name or not arguments or not accepts_arguments(arguments, functions[name]):
        raise Malformed
    return name, arguments
