"""JsonCalls: calls as JSON objects with a name and arguments, one or a list of them."""

import json
from dataclasses import dataclass

from jaxserve.structured.grammar_expr import GrammarExpr
from jaxserve.text.call_formats.format import Functions, FunctionSpec, ToolCallSink, concat
from jaxserve.text.incremental_json import parse_json, read_json_string, replace_lone_surrogates, stream_json_value
from jaxserve.text.text_buffer import Emit, Malformed, Parser, TextBuffer, discard


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonCalls:
    """{"name": ..., "arguments": {...}}, keys in any order, other keys skipped.

    name_keys, arguments_keys   The keys; a grammar writes the first of each.
    is_unmarked                 No marker says that this is a call: it is one only if both keys are there, one of them
                                first.
    """

    name_keys: tuple[str, ...] = ("name",)
    arguments_keys: tuple[str, ...] = ("arguments", "parameters")
    is_unmarked: bool = False
    begin: str = ""

    def parse(self, buffer: TextBuffer, calls: ToolCallSink, functions: Functions) -> Parser[None]:
        """Parse one call or a list of calls. Raises Malformed if there is none."""
        if (yield from buffer.peek()) != "[":
            yield from self._parse_object(buffer, calls)
            return
        yield from buffer.expect("[")
        yield from self._parse_object(buffer, calls)
        while (yield from buffer.expect(",", "]")) == ",":
            yield from self._parse_object(buffer, calls)

    def _parse_object(self, buffer: TextBuffer, calls: ToolCallSink) -> Parser[None]:
        call = _Call(calls)
        yield from buffer.expect("{")
        try:
            closed = (yield from buffer.accept("}")) is not None
            while not closed:
                yield from self._parse_member(buffer, call)
                closed = (yield from buffer.expect(",", "}")) == "}"
        except Malformed:
            if not call.is_whole:  # an error after the arguments, like a missing brace, does not matter
                raise
        call.end(self.is_unmarked)

    def _parse_member(self, buffer: TextBuffer, call: "_Call") -> Parser[None]:
        key = yield from read_json_string(buffer)
        yield from buffer.expect(":")
        if key in self.name_keys and call.name is None:
            call.name = yield from read_json_string(buffer)
            if not call.name:
                raise Malformed
            if call.has_arguments or not self.is_unmarked:
                call.begin()
            call.is_whole = call.has_arguments
        elif key in self.arguments_keys and not call.has_arguments:
            call.has_arguments = True
            if call.name is not None:
                call.begin()
            yield from stream_arguments(buffer, call.write)
            call.is_whole = call.name is not None
        elif self.is_unmarked and call.name is None and not call.has_arguments and key != "type":
            raise Malformed
        else:
            yield from stream_json_value(buffer, discard)

    def is_readable_name(self, name: str) -> bool:
        """Whether `parse` gives this function name back as it was written."""
        return name != ""

    def build_expr(self, function: FunctionSpec) -> GrammarExpr:
        """Return a grammar for a call of this function."""
        name = json.dumps(function.name, ensure_ascii=False)
        return concat(f'{{"{self.name_keys[0]}": {name}, "{self.arguments_keys[0]}": ', function.arguments_expr, "}")


class _Call:
    """A call whose arguments may come before its name: they are held until the name is known.

    has_arguments   The arguments have begun.
    is_whole        The arguments have ended and the name is known.
    """

    def __init__(self, calls: ToolCallSink) -> None:
        self.name: str | None = None
        self.has_arguments = False
        self.is_whole = False
        self._calls = calls
        self._begun = False
        self._held: list[str] = []

    def begin(self) -> None:
        if not self._begun:
            self._begun = True
            self._calls.begin_call(self.name or "")
            if self._held:
                self._calls.add_arguments("".join(self._held))

    def write(self, piece: str) -> None:
        self._calls.add_arguments(piece) if self._begun else self._held.append(piece)

    def end(self, needs_arguments: bool) -> None:
        if self.name is None or (needs_arguments and not self.has_arguments):
            raise Malformed
        if not self.has_arguments:
            self._calls.add_arguments("{}")
        self._calls.end_call()


def stream_arguments(buffer: TextBuffer, emit: Emit) -> Parser[None]:
    """Read arguments and emit them as they come: an object, null for none, or a string that holds an object.

    Raises Malformed if they are anything else.
    """
    first = yield from buffer.peek()
    pieces: list[str] = []
    if first == "{":
        held: str | None = ""  # until it is certain that an object begins

        def hold_or_emit(piece: str) -> None:
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
            emit(piece)

        yield from stream_json_value(buffer, hold_or_emit)
        parse_json("".join(pieces))
        return
    yield from stream_json_value(buffer, pieces.append)
    value = parse_json("".join(pieces))
    if isinstance(value, str):
        text = replace_lone_surrogates(value) or "{}"
        value = parse_json(text)
    else:
        value, text = {} if value is None else value, "{}"
    if not isinstance(value, dict):
        raise Malformed
    emit(text)
