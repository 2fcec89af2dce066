"""TaggedCallParser: parse a call in tags, also where the model has left out a closing marker.

Models are known to drop `</parameter>` and the like in long contexts. A value ends at its own closing marker if a
parameter, the end of the call, another call or nothing follows; at the opening marker of a declared parameter that has
not come yet; and at a marker that ends calls, if then a call of a declared function or the end of the text comes before
the value's own marker. Otherwise a value may contain any of these markers: from one that ends calls on, the text waits
until that is decided.
"""

from dataclasses import dataclass

from jaxserve.structured.parameter_types import NON_STRING_TYPE, STRING_TYPE
from jaxserve.text.call_formats.format import Functions, FunctionSpec, ToolCallSink
from jaxserve.text.incremental_json import dump_json, replace_lone_surrogates, stream_json_value
from jaxserve.text.text_buffer import Emit, Malformed, Parser, TextBuffer, Unfinished


@dataclass(frozen=True, slots=True, kw_only=True)
class TagMarkers:
    """The literals of TaggedCalls without the whitespace around them.

    name_end    Ends the function's name.
    key         Begins a parameter.
    key_ends    One literal after the parameter's name, or two around its type.
    value_end   Ends a value.
    ends        End a call, the first in the usual form.
    starts      Begin another call.
    has_types   Every parameter says whether its value is a string.
    """

    name_end: str
    key: str
    key_ends: tuple[str, ...]
    value_end: str
    ends: tuple[str, ...]
    starts: tuple[str, ...]
    has_types: bool

    @property
    def in_value(self) -> tuple[str, ...]:
        """The markers that may end a value, without those that begin with another one."""
        markers = tuple(dict.fromkeys((self.value_end, *self.after_value)))
        return tuple(
            marker for marker in markers if not any(marker != other and marker.startswith(other) for other in markers)
        )

    @property
    def after_value(self) -> tuple[str, ...]:
        """The markers that may follow a value."""
        return (self.key, *self.ends, *self.starts)

    def are_only_ends(self, text: str) -> bool:
        """Whether a text is nothing but markers that end calls, the last perhaps incomplete."""
        text = text.lstrip()
        while text:
            end = next((marker for marker in self.ends if text.startswith(marker)), None)
            if end is None:
                return any(marker.startswith(text) for marker in self.ends)
            text = text[len(end) :].lstrip()
        return True


class TaggedCallParser:
    """Parser of one call."""

    def __init__(self, markers: TagMarkers, buffer: TextBuffer, calls: ToolCallSink, functions: Functions) -> None:
        self._markers, self._buffer, self._calls, self._functions = markers, buffer, calls, functions
        self._in_value = markers.in_value
        self._function = FunctionSpec("", {})
        self._given: set[str] = set()

    def parse(self) -> Parser[None]:
        """Parse the call after what begins it. Raises Malformed if it is none."""
        buffer, markers = self._buffer, self._markers
        name = yield from buffer.read_name()
        end, first = markers.name_end, (markers.key, *markers.ends)
        if end and (yield from buffer.accept(end)) is None and not (yield from buffer.is_followed_by(first)):
            buffer.fail()
        marker = yield from (self._next_marker() if name in self._functions else buffer.expect(*first))
        self._calls.begin_call(name)
        self._function = self._functions.get(name, FunctionSpec(name, {}))
        before = "{"
        while marker == markers.key:
            yield from self._parse_parameter(before)
            before = ", "
            marker = yield from self._next_marker()
        self._calls.add_arguments("{}" if before == "{" else "}")
        self._calls.end_call()

    def _next_marker(self) -> Parser[str]:
        """Read the marker of the next parameter, or the end of the call, whose marker may be missing."""
        buffer, markers = self._buffer, self._markers
        marker = yield from buffer.accept(markers.key, *markers.ends)
        is_end_missing = buffer.is_ended and not buffer.is_cut
        if marker is None and not is_end_missing and not (yield from buffer.is_followed_by(markers.starts)):
            buffer.fail()
        return marker or markers.ends[0]

    def _parse_parameter(self, before: str) -> Parser[None]:
        key, is_string = yield from self._read_key()
        self._given.add(key)
        value = (
            STRING_TYPE if is_string == "true" else NON_STRING_TYPE if is_string else self._function.parameter_type(key)
        )
        self._calls.add_arguments(f"{before}{dump_json(key)}: ")
        if value.is_always_string:
            string = _StringEmitter(self._calls)
            yield from self._stream_value(string.emit)
            string.end()
        else:
            pieces: list[str] = []
            may_be_json = self._function.is_enforced and not value.types.isdisjoint(("object", "array"))
            if may_be_json and (yield from self._buffer.peek()) in ("[", "{"):
                # A grammar has written it, so it goes to its last bracket whatever markers it contains.
                yield from stream_json_value(self._buffer, pieces.append)
                yield from self._buffer.expect(self._markers.value_end)
            else:
                yield from self._stream_value(pieces.append)
            text = "".join(pieces).removeprefix("\n").removesuffix("\n")
            self._calls.add_arguments(replace_lone_surrogates(value.parse(text)))

    def _read_key(self) -> Parser[tuple[str, str]]:
        """Read a parameter's name, and whether it says to be a string: "true", "false" or "".

        The end of the name may be missing if the name is declared.
        """
        ends = (*self._markers.key_ends, *(() if len(self._markers.key_ends) > 1 else ("\n",)))
        key, end = yield from self._read_through(ends)
        if end == "\n" and key.strip() not in self._missing_parameters():
            raise Malformed
        if len(self._markers.key_ends) == 1 or end != ends[0]:
            return key if end == ends[0] else key.strip(), ""
        is_string, _ = yield from self._read_through(ends[1:])
        if is_string.strip() and not self._markers.has_types:
            raise Malformed
        return key, is_string.strip()

    def _read_through(self, ends: tuple[str, ...]) -> Parser[tuple[str, str]]:
        pieces: list[str] = []
        end = yield from self._buffer.read_through(ends, pieces.append)
        return "".join(pieces), end

    def _missing_parameters(self) -> list[str]:
        """Return the function's parameters that have not come yet."""
        return [key for key in self._function.parameter_names if key not in self._given]

    def _stream_value(self, emit: Emit) -> Parser[None]:
        """Emit the text of a value, and read its closing marker if it has one."""
        buffer, markers = self._buffer, self._markers
        while True:
            marker = yield from buffer.read_through(self._in_value, emit)
            if (yield from self._ends_value(marker)):
                return
            if marker in markers.ends:
                yield from self._stream_rest_of_value(marker, emit)
                return
            emit(marker)

    def _ends_value(self, marker: str) -> Parser[bool]:
        """Return whether the marker that was read ends the value. Unless it is the value's own it is unread then."""
        buffer, markers = self._buffer, self._markers
        if marker == markers.value_end:
            return (yield from buffer.is_followed_by(markers.after_value, or_end=True))
        if marker != markers.key:
            return False
        end = markers.key_ends[0]
        ends = yield from buffer.is_followed_by(tuple(key + end for key in self._missing_parameters()))
        if ends:
            buffer.push_back(marker)
        return ends

    def _stream_rest_of_value(self, end: str, emit: Emit) -> Parser[None]:
        """Emit the rest of a value from a marker on that ends calls, or nothing if the value ended before it."""
        buffer, markers = self._buffer, self._markers
        held = [end]
        try:
            while True:
                marker = yield from buffer.read_through(self._in_value, held.append)
                if (yield from self._ends_value(marker)):
                    emit("".join(held))
                    return
                held.append(marker)
                if marker in markers.starts and (yield from buffer.is_followed_by(self._call_names())):
                    break
        except Unfinished:
            rest = buffer.text[buffer.pos :]
            if buffer.is_cut and not markers.are_only_ends("".join(held) + rest):
                emit("".join(held) + rest)
                buffer.pos = len(buffer.text)
                raise
        buffer.push_back("".join(held))

    def _call_names(self) -> tuple[str, ...]:
        """Return the texts that follow the start of a call of a declared function."""
        return tuple(name + self._markers.name_end for name in self._functions)


class _StringEmitter:
    """Emit a string value as JSON text, without one newline at either end."""

    def __init__(self, calls: ToolCallSink) -> None:
        self._calls = calls
        self._has_started = False
        self._held = ""
        calls.add_arguments('"')

    def emit(self, text: str) -> None:
        if not self._has_started:
            self._has_started = True
            text = text.removeprefix("\n")
        text = self._held + text
        self._held = "\n" if text.endswith("\n") else ""
        text = text[: len(text) - len(self._held)]
        if text:
            self._calls.add_arguments(dump_json(text)[1:-1])

    def end(self) -> None:
        self._calls.add_arguments('"')
