"""Calls as JSON objects with a name and arguments, one or a list of them."""

import json
from dataclasses import dataclass

from jaxserve.structured.grammar_expr import GrammarExpr
from jaxserve.text.call_formats.format import Calls, Function, Functions, in_order
from jaxserve.text.json_tape import encodable, json_string, json_text, parsed
from jaxserve.text.markers import Emit, Malformed, Reading, Tape, ignore


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonCalls:
    """{"name": ..., "arguments": {...}}, keys in any order, other keys skipped.

    name, arguments   the keys; the first of each is the one that a grammar writes
    unmarked          no marker says that this is a call: it is one only if both keys are there, one of them first
    """

    name: tuple[str, ...] = ("name",)
    arguments: tuple[str, ...] = ("arguments", "parameters")
    unmarked: bool = False
    begin: str = ""

    def read(self, tape: Tape, calls: Calls, functions: Functions) -> Reading[None]:
        if (yield from tape.peek()) != "[":
            yield from self._object(tape, calls)
            return
        yield from tape.expect("[")
        yield from self._object(tape, calls)
        while (yield from tape.expect(",", "]")) == ",":
            yield from self._object(tape, calls)

    def _object(self, tape: Tape, calls: Calls) -> Reading[None]:
        call = _Call(calls)
        yield from tape.expect("{")
        try:
            closed = (yield from tape.accept("}")) is not None
            while not closed:
                yield from self._member(tape, call)
                closed = (yield from tape.expect(",", "}")) == "}"
        except Malformed:
            if not call.is_whole:  # what may be wrong behind the arguments, like a brace left out, does not matter
                raise
        call.end(self.unmarked)

    def _member(self, tape: Tape, call: "_Call") -> Reading[None]:
        key = yield from json_string(tape)
        yield from tape.expect(":")
        if key in self.name and call.name is None:
            call.name = yield from json_string(tape)
            if not call.name:
                raise Malformed
            if call.has_arguments or not self.unmarked:
                call.begin()
            call.is_whole = call.has_arguments
        elif key in self.arguments and not call.has_arguments:
            call.has_arguments = True
            if call.name is not None:
                call.begin()
            yield from arguments(tape, call.write)
            call.is_whole = call.name is not None
        elif self.unmarked and call.name is None and not call.has_arguments and key != "type":
            raise Malformed
        else:
            yield from json_text(tape, ignore)

    def reads_name(self, name: str) -> bool:
        return name != ""

    def shape(self, function: Function) -> GrammarExpr:
        name = json.dumps(function.name, ensure_ascii=False)
        return in_order(f'{{"{self.name[0]}": {name}, "{self.arguments[0]}": ', function.arguments, "}")


class _Call:
    """A call whose arguments may come before its name: they are held until it is known.

    has_arguments, is_whole   whether its arguments have begun, and have ended when its name was known
    """

    def __init__(self, calls: Calls) -> None:
        self.name: str | None = None
        self.has_arguments = False
        self.is_whole = False
        self._calls = calls
        self._begun = False
        self._held: list[str] = []

    def begin(self) -> None:
        if not self._begun:
            self._begun = True
            self._calls.begin(self.name or "")
            if self._held:
                self._calls.write("".join(self._held))

    def write(self, piece: str) -> None:
        self._calls.write(piece) if self._begun else self._held.append(piece)

    def end(self, needs_arguments: bool) -> None:
        if self.name is None or (needs_arguments and not self.has_arguments):
            raise Malformed
        if not self.has_arguments:
            self._calls.write("{}")
        self._calls.end()


def arguments(tape: Tape, write: Emit) -> Reading[None]:
    """Takes the arguments and writes them as they come: an object, null for none, or a string that holds an object."""
    first = yield from tape.peek()
    pieces: list[str] = []
    if first == "{":
        held: str | None = ""  # until it is certain that an object begins

        def emit(piece: str) -> None:
            nonlocal held
            pieces.append(piece)
            if held is not None:
                held += piece
                inner = held[1:].lstrip()
                if not inner:
                    return
                if inner[0] not in '"}':
                    raise Malformed
                piece, held = held, None
            write(piece)

        yield from json_text(tape, emit)
        parsed("".join(pieces))
        return
    yield from json_text(tape, pieces.append)
    value = parsed("".join(pieces))
    if isinstance(value, str):
        text = encodable(value) or "{}"
        value = parsed(text)
    else:
        value, text = {} if value is None else value, "{}"
    if not isinstance(value, dict):
        raise Malformed
    write(text)
