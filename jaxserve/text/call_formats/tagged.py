"""Calls as tags: a name, then parameters whose values are plain text. Their types come from the function's schema.

In a grammar, parameters come in the order of the schema. Of a plain string only enum, const, an anchored pattern and
the bounds of its length can be enforced; numbers, booleans, lists and objects are JSON and obey their whole schema.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxserve.structured.shapes import Choice, Literal, Optional, Regex, Repeat, Shape, Text
from jaxserve.text.call_formats.coercion import coerced
from jaxserve.text.call_formats.format import Calls, Function, Functions, in_order, is_plain_name
from jaxserve.text.json_tape import written
from jaxserve.text.markers import Emit, Malformed, Reading, Tape

_KEY = r"[\w.-]{1,64}"
_JSON_TYPES = ("null", "integer", "number", "boolean", "object", "array")


@dataclass(frozen=True, slots=True, kw_only=True)
class TaggedCalls:
    """begin NAME name_end (key KEY key_end VALUE value_end)* end. White space between the parts is free.

    key_end     one literal, or two: between them stands white space or, if `typed`, whether the value is a string
    ends        what may end a call as well, for models that forget `end`
    A value_end counts only where a key, an end or nothing follows, so a value may hold such tags itself.
    """

    begin: str
    name_end: str
    end: str
    key: str
    key_end: tuple[str, ...]
    value_end: str
    ends: tuple[str, ...] = ()
    typed: bool = False

    def read(self, tape: Tape, calls: Calls, functions: Functions) -> Reading[None]:
        name = yield from tape.name()
        if self.name_end.strip():
            yield from tape.expect(self.name_end.strip())
        key, ends = self.key.strip(), (self.end.strip(), *self.ends)
        found = yield from tape.expect(key, *ends)
        calls.begin(name)
        function = functions.get(name, Function(name, {}))
        before = "{"
        while found == key:
            yield from self._parameter(tape, calls, function, before)
            before = ", "
            found = yield from tape.expect(key, *ends)
        calls.write("{}" if before == "{" else "}")
        calls.end()

    def _parameter(self, tape: Tape, calls: Calls, function: Function, before: str) -> Reading[None]:
        key = yield from _text(tape, self.key_end[0].strip())
        said = (yield from _text(tape, self.key_end[1].strip())) if len(self.key_end) > 1 else ""
        if not self.typed and said.strip():
            raise Malformed
        types = ("string",) if said == "true" else _JSON_TYPES if self.typed else function.types_of(key)
        calls.write(f"{before}{written(key)}: ")
        if types == ("string",):
            value = _String(calls)
            yield from self._value(tape, value.emit)
            value.end()
        else:
            pieces: list[str] = []
            yield from self._value(tape, pieces.append)
            text = "".join(pieces).removeprefix("\n").removesuffix("\n")
            calls.write(written(coerced(text, types)))

    def _value(self, tape: Tape, emit: Emit) -> Reading[None]:
        """The text of a value, and its end."""
        value_end = self.value_end.strip()
        follow = (self.key.strip(), self.end.strip(), *self.ends)
        while True:
            yield from tape.through((value_end,), emit)
            if (yield from tape.followed_by(follow, or_end=True)):
                return
            emit(value_end)

    def reads_name(self, name: str) -> bool:
        return is_plain_name(name)

    def shape(self, function: Function) -> Shape:
        return _call_shape(self, function)


def _text(tape: Tape, end: str) -> Reading[str]:
    pieces: list[str] = []
    yield from tape.through((end,), pieces.append)
    return "".join(pieces)


class _String:
    """A string value on its way out as JSON, without one newline at either end."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._started = False
        self._held = ""
        calls.write('"')

    def emit(self, text: str) -> None:
        if not self._started:
            self._started = True
            text = text.removeprefix("\n")
        text = self._held + text
        self._held = "\n" if text.endswith("\n") else ""
        text = text[: len(text) - len(self._held)]
        if text:
            self._calls.write(written(text)[1:-1])

    def end(self) -> None:
        self._calls.write('"')


def _call_shape(format: TaggedCalls, function: Function) -> Shape:
    begin = format.begin + function.name + format.name_end
    if not function.enforced:
        return in_order(begin, Repeat(_parameter(format, Regex(_KEY), {}, function)), format.end)
    properties: Mapping[str, Any] = function.parameters.get("properties") or {}
    required = set(function.parameters.get("required") or ())
    parameters = []
    for key, schema in properties.items():
        shape = _parameter(format, Literal(key), schema, function)
        parameters.append(shape if key in required else Optional(shape))
    return in_order(begin, *parameters, format.end)


def _parameter(format: TaggedCalls, key: Shape, schema: Any, function: Function) -> Shape:
    schema = schema if isinstance(schema, Mapping) else {}
    value, is_string = _value(format, schema, function)
    middle = ("true" if is_string else "false") if format.typed else ""
    value_end = format.value_end.lstrip() if is_string else format.value_end
    return in_order(format.key, key, middle.join(format.key_end), value, value_end)


def _value(format: TaggedCalls, schema: Mapping[str, Any], function: Function) -> tuple[Shape, bool]:
    """The value's shape, and whether it is a plain string (which then takes its last newline with it)."""
    choices = schema.get("enum") or ([schema["const"]] if "const" in schema else [])
    if choices:
        return Choice(tuple(_plain(value) for value in choices)), all(isinstance(each, str) for each in choices)
    if "string" not in function.types_of_schema(schema):
        return function.schema(schema), False
    pattern = schema.get("pattern")
    if isinstance(pattern, str) and pattern.startswith("^") and pattern.endswith("$"):
        return Regex(pattern[1:-1]), True
    if "minLength" in schema or "maxLength" in schema:
        return Regex(rf"[^<\n]{{{schema.get('minLength', 0)},{schema.get('maxLength', '')}}}"), True
    return Text((format.value_end.strip(),)), True


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
