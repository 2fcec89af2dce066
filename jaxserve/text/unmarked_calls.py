"""Calls in a form of no dialect: JSON with a declared function's name and its arguments, bare, fenced or in tags.

Models that do not keep to their template's form write such calls, Qwen2.5-Coder above all: one object or a list, on its
own, in a Markdown fence, or in tags of another family. It is a call only if the JSON is whole and every name in it is
that of a declared function. Until that is known the text waits, at most one object or list; other text goes on at once.
"""

import re

from jaxserve.text.argument_check import may_be_arguments
from jaxserve.text.call_formats.format import Calls, Functions
from jaxserve.text.call_formats.json_calls import arguments
from jaxserve.text.json_tape import json_string, json_text
from jaxserve.text.markers import Emit, Malformed, Reading, Tape, ignore

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


class UnmarkedCalls:
    """Takes such calls out of content that comes in pieces."""

    def __init__(self, functions: Functions, calls: Calls, content: Emit) -> None:
        """calls, content: where they go."""
        self._functions, self._calls, self._content = functions, calls, content
        self._start()

    def feed(self, text: str) -> None:
        self._tape.feed(text)
        next(self._reading)

    def settle(self, *, is_marked: bool = False) -> None:
        """Give out as content what waits.

        is_marked: a call in the dialect's own form comes, so what waits around its beginning is dropped.
        """
        waiting = self._tape.unsettled()
        self._start()
        if waiting and not (is_marked and _WRAPPERS.fullmatch(waiting)):
            self._content(waiting)

    def close(self) -> None:
        self._tape.ended = True
        next(self._reading, None)

    def _start(self) -> None:
        self._tape = Tape()
        self._reading = _read(self._tape, self._functions, self._calls, self._content)
        next(self._reading)


def _read(tape: Tape, functions: Functions, calls: Calls, content: Emit) -> Reading[None]:
    while (found := (yield from tape.until(_STARTS, content))) is not None:
        tape.back(found)
        tape.keep()
        try:
            found_calls = yield from _wrapped(tape, functions)
        except Malformed:
            yield from _pass_by(tape, content)
            continue
        tape.kept()
        for name, given in found_calls:
            calls.begin(name)
            calls.write(given)
            calls.end()


def _pass_by(tape: Tape, content: Emit) -> Reading[None]:
    """Emit what was read, which is no call. Of a JSON document also the rest, as what is in it is no call either."""
    text = tape.kept()
    start = min((place for place in map(text.find, "{[") if place >= 0), default=len(text))
    if not _DOCUMENT.match(text, start):
        content(text)
        return
    if start:
        content(text[:start])
    tape.restore(text[start:])
    try:
        yield from json_text(tape, content)
    except Malformed:
        return


def _wrapped(tape: Tape, functions: Functions) -> Reading[list[_Call]]:
    for _ in range(_MAX_WRAPPERS):
        found = yield from tape.accept(_FENCE, *_TAGS)
        if found is None:
            break
        if found == _FENCE and (yield from tape.peek()).isalnum():
            yield from tape.name(_LANGUAGE)
    if (yield from tape.accept("[")) is None:
        return [(yield from _object(tape, functions))]
    found_calls = [(yield from _object(tape, functions))]
    while (yield from tape.expect(",", "]")) == ",":
        found_calls.append((yield from _object(tape, functions)))
    return found_calls


def _object(tape: Tape, functions: Functions) -> Reading[_Call]:
    """A call, also as the API writes it in a conversation: {"type": "function", "function": {...}}. No other keys."""
    name, given = "", ""
    more = yield from tape.expect("{")
    while more != "}":
        key = yield from json_string(tape)
        yield from tape.expect(":")
        if key == "name" and not name:
            name = yield from json_string(tape)
            if name not in functions:
                raise Malformed
        elif key in ("arguments", "parameters") and not given:
            pieces: list[str] = []
            yield from arguments(tape, pieces.append)
            given = "".join(pieces)
        elif key == "function" and not name and not given:
            name, given = yield from _object(tape, functions)
        elif key in ("type", "id"):
            yield from json_text(tape, ignore)
        else:
            raise Malformed
        more = yield from tape.expect(",", "}")
    if not name or not given or not may_be_arguments(given, functions[name]):
        raise Malformed
    return name, given
