"""JSON from a Tape, its text given out as it comes: strings, escapes and brackets followed, nothing rewritten."""

import re
from typing import Any

from jaxserve.exact_json import dump_exact_json, load_exact_json
from jaxserve.text.markers import Emit, Malformed, Reading, Tape

_MAX_DEPTH = 200
_BRACKET_OR_QUOTE = re.compile(r'["{}\[\]]')
_QUOTE_OR_ESCAPE = re.compile(r'["\\]')
_SCALAR = re.compile(r"[\w+.-]*")
_CLOSES = {"{": "}", "[": "]"}


def json_text(tape: Tape, emit: Emit) -> Reading[None]:
    """Takes one value, after whitespace, and emits its text in pieces. Malformed when its brackets do not match."""
    first = yield from tape.peek()
    if first in _CLOSES:
        yield from _container(tape, emit)
    elif first == '"':
        yield from _string(tape, emit)
    else:
        yield from _scalar(tape, emit)


def json_string(tape: Tape) -> Reading[str]:
    """Takes one string and returns what it says; Malformed when something else comes."""
    if (yield from tape.peek()) != '"':
        tape.fail()
    pieces: list[str] = []
    yield from _string(tape, pieces.append)
    return encodable(parsed("".join(pieces)))


def parsed(text: str) -> Any:
    """The value of a JSON text as the standard has it; Malformed if it is none."""
    try:
        return load_exact_json(text)
    except (ValueError, RecursionError) as error:
        raise Malformed from error


def written(value: Any) -> str:
    """The JSON text of a value, other letters than ASCII as they are, and all digits of its numbers."""
    return encodable(dump_exact_json(value, ", ", ": "))


def encodable(text: str) -> str:
    """The text, halves of surrogate pairs joined where they can be and replaced where not."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _scalar(tape: Tape, emit: Emit) -> Reading[None]:
    taken = 0
    while True:
        end = _SCALAR.match(tape.text, tape.pos).end()  # pyright: ignore[reportOptionalMemberAccess]
        if end > tape.pos:
            emit(tape.text[tape.pos : end])
        taken += end - tape.pos
        tape.pos = end
        if end < len(tape.text) or tape.ended:
            break
        yield
    if not taken:
        tape.fail()


def _string(tape: Tape, emit: Emit) -> Reading[None]:
    """From its quote to its quote."""
    place = tape.pos + 1
    while True:
        found = _QUOTE_OR_ESCAPE.search(tape.text, place)
        if found is None or (found.group() == "\\" and found.end() == len(tape.text)):
            emit(tape.text[tape.pos :])
            tape.pos = len(tape.text)
            yield from tape.wait()
            place = tape.pos + (found is not None)  # what the backslash escapes
        elif found.group() == "\\":
            place = found.end() + 1
        else:
            emit(tape.text[tape.pos : found.end()])
            tape.pos = found.end()
            return


def _container(tape: Tape, emit: Emit) -> Reading[None]:
    closes: list[str] = []
    while True:
        found = _BRACKET_OR_QUOTE.search(tape.text, tape.pos)
        end = found.start() if found else len(tape.text)
        if end > tape.pos:
            emit(tape.text[tape.pos : end])
            tape.pos = end
        if found is None:
            yield from tape.wait()
            continue
        if found.group() == '"':
            yield from _string(tape, emit)
            continue
        _follow(closes, found.group())
        emit(found.group())
        tape.pos = found.end()
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
