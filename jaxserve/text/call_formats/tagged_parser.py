"""Reads calls in tags from a TextBuffer, also where a model has left out a closing mark.

Models are known to drop `</parameter>` and the like in long contexts. A value ends at its own mark if a parameter, the
end of the call, another call or nothing follows; at the opening mark of a declared parameter that has not come yet; and
at a mark that ends calls, if then a call of a declared function or the end of the text comes before the value's own
mark. A value may hold any of these marks otherwise: from one that ends calls on, the text waits until that is decided.
"""

from dataclasses import dataclass

from jaxserve.structured.unquoted_values import NON_STRING_VALUE, STRING_VALUE
from jaxserve.text.call_formats.format import Functions, FunctionSpec, ToolCallSink
from jaxserve.text.incremental_json import dump_json, replace_lone_surrogates, stream_json_value
from jaxserve.text.text_buffer import Emit, Malformed, Parser, TextBuffer, Unfinished


@dataclass(frozen=True, slots=True, kw_only=True)
class TagMarkers:
    """The literals of a format without the white space around them, in the words of TaggedCalls.

    ends       what ends a call, the first as the format has it
    starts     what begins another call
    typed      a parameter says whether its value is a string
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
        """All that may end a value, but none that another begins."""
        found = tuple(dict.fromkeys((self.value_end, *self.behind_value)))
        return tuple(one for one in found if not any(one != other and one.startswith(other) for other in found))

    @property
    def behind_value(self) -> tuple[str, ...]:
        return (self.key, *self.ends, *self.starts)

    def are_all_of(self, text: str) -> bool:
        """Whether a text is nothing but marks that end calls, the last perhaps in its midst."""
        text = text.lstrip()
        while text:
            end = next((each for each in self.ends if text.startswith(each)), None)
            if end is None:
                return any(each.startswith(text) for each in self.ends)
            text = text[len(end) :].lstrip()
        return True


class TaggedCallParser:
    """Reads one call. given: the parameters that have come."""

    def __init__(self, marks: TagMarkers, buffer: TextBuffer, calls: ToolCallSink, functions: Functions) -> None:
        self._marks, self._buffer, self._calls, self._functions = marks, buffer, calls, functions
        self._in_value = marks.in_value
        self._function = FunctionSpec("", {})
        self._given: set[str] = set()

    def parse(self) -> Parser[None]:
        buffer, marks = self._buffer, self._marks
        name = yield from buffer.read_name()
        end, first = marks.name_end, (marks.key, *marks.ends)
        if end and (yield from buffer.accept(end)) is None and not (yield from buffer.is_followed_by(first)):
            buffer.fail()
        found = yield from (self._next_mark() if name in self._functions else buffer.expect(*first))
        self._calls.begin_call(name)
        self._function = self._functions.get(name, FunctionSpec(name, {}))
        before = "{"
        while found == marks.key:
            yield from self._parameter(before)
            before = ", "
            found = yield from self._next_mark()
        self._calls.add_arguments("{}" if before == "{" else "}")
        self._calls.end_call()

    def _next_mark(self) -> Parser[str]:
        """The mark of the next parameter, or another where the call ends, perhaps without its mark."""
        buffer, marks = self._buffer, self._marks
        found = yield from buffer.accept(marks.key, *marks.ends)
        is_left_out = buffer.is_ended and not buffer.is_cut
        if found is None and not is_left_out and not (yield from buffer.is_followed_by(marks.starts)):
            buffer.fail()
        return found or marks.ends[0]

    def _parameter(self, before: str) -> Parser[None]:
        key, said = yield from self._key()
        self._given.add(key)
        value = STRING_VALUE if said == "true" else NON_STRING_VALUE if said else self._function.parameter_type(key)
        self._calls.add_arguments(f"{before}{dump_json(key)}: ")
        if value.is_always_string:
            string = _String(self._calls)
            yield from self._value(string.emit)
            string.end()
        else:
            pieces: list[str] = []
            may_be_json = self._function.is_enforced and not value.types.isdisjoint(("object", "array"))
            if may_be_json and (yield from self._buffer.peek()) in ("[", "{"):
                yield from stream_json_value(
                    self._buffer, pieces.append
                )  # as a grammar has written it: to its last bracket
                yield from self._buffer.expect(self._marks.value_end)
            else:
                yield from self._value(pieces.append)
            text = "".join(pieces).removeprefix("\n").removesuffix("\n")
            self._calls.add_arguments(replace_lone_surrogates(value.parse(text)))

    def _key(self) -> Parser[tuple[str, str]]:
        """A parameter's name, and what is said of its type. What ends the name may be missing behind a declared one."""
        ends = (*self._marks.key_ends, *(() if len(self._marks.key_ends) > 1 else ("\n",)))
        key, found = yield from self._text(ends)
        if found == "\n" and key.strip() not in self._declared():
            raise Malformed
        if len(self._marks.key_ends) == 1 or found != ends[0]:
            return key if found == ends[0] else key.strip(), ""
        said, _ = yield from self._text(ends[1:])
        if said.strip() and not self._marks.has_types:
            raise Malformed
        return key, said.strip()

    def _text(self, ends: tuple[str, ...]) -> Parser[tuple[str, str]]:
        pieces: list[str] = []
        found = yield from self._buffer.read_through(ends, pieces.append)
        return "".join(pieces), found

    def _declared(self) -> list[str]:
        """The function's parameters that have not come yet."""
        return [key for key in self._function.parameter_names if key not in self._given]

    def _value(self, emit: Emit) -> Parser[None]:
        """The text of a value, and its end if it has one."""
        buffer, marks = self._buffer, self._marks
        while True:
            found = yield from buffer.read_through(self._in_value, emit)
            if (yield from self._ends_value(found)):
                return
            if found in marks.ends:
                yield from self._waiting(found, emit)
                return
            emit(found)

    def _ends_value(self, found: str) -> Parser[bool]:
        """Whether a mark in a value ends it. Its own is then taken, others are not."""
        buffer, marks = self._buffer, self._marks
        if found == marks.value_end:
            return (yield from buffer.is_followed_by(marks.behind_value, or_end=True))
        if found != marks.key:
            return False
        end = marks.key_ends[0]
        ends = yield from buffer.is_followed_by(tuple(key + end for key in self._declared()))
        if ends:
            buffer.push_back(found)
        return ends

    def _waiting(self, end: str, emit: Emit) -> Parser[None]:
        """The rest of a value from a mark on that ends calls, or nothing if the value ended before that mark."""
        buffer, marks = self._buffer, self._marks
        held = [end]
        try:
            while True:
                found = yield from buffer.read_through(self._in_value, held.append)
                if (yield from self._ends_value(found)):
                    emit("".join(held))
                    return
                held.append(found)
                if found in marks.starts and (yield from buffer.is_followed_by(self._names())):
                    break
        except Unfinished:
            rest = buffer.text[buffer.pos :]
            if buffer.is_cut and not marks.are_all_of("".join(held) + rest):
                emit("".join(held) + rest)
                buffer.pos = len(buffer.text)
                raise
        buffer.push_back("".join(held))

    def _names(self) -> tuple[str, ...]:
        """How calls of declared functions go on behind what begins them."""
        return tuple(name + self._marks.name_end for name in self._functions)


class _String:
    """A string value on its way out as JSON, without one newline at either end."""

    def __init__(self, calls: ToolCallSink) -> None:
        self._calls = calls
        self._started = False
        self._held = ""
        calls.add_arguments('"')

    def emit(self, text: str) -> None:
        if not self._started:
            self._started = True
            text = text.removeprefix("\n")
        text = self._held + text
        self._held = "\n" if text.endswith("\n") else ""
        text = text[: len(text) - len(self._held)]
        if text:
            self._calls.add_arguments(dump_json(text)[1:-1])

    def end(self) -> None:
        self._calls.add_arguments('"')
