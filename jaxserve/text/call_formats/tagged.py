"""Calls as tags: a name, then parameters whose values are plain text. Their types come from the function's schema.

In a grammar, parameters come in the order of the schema. Of a plain string only enum, const, an anchored pattern and
the bounds of its length can be enforced; numbers, booleans, lists and objects are JSON and obey their whole schema.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxserve.structured.shapes import Choice, Literal, Optional, Regex, Repeat, Shape, Text
from jaxserve.text.call_formats.format import Calls, Function, Functions, in_order, is_plain_name
from jaxserve.text.call_formats.tagged_reading import Marks, TaggedReader
from jaxserve.text.markers import Reading, Tape

_KEY = r"[\w.-]{1,64}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaggedCalls:
    """begin NAME name_end (key KEY key_end VALUE value_end)* end. White space between the parts is free.

    key_end     one literal, or two: between them stands white space or, if `typed`, whether the value is a string
    ends        what may end a call as well, for models that forget `end`
    opens       what may stand before `begin`, too: where that follows a value, another call begins
    """

    begin: str
    name_end: str
    end: str
    key: str
    key_end: tuple[str, ...]
    value_end: str
    ends: tuple[str, ...] = ()
    opens: tuple[str, ...] = ()
    typed: bool = False

    def read(self, tape: Tape, calls: Calls, functions: Functions) -> Reading[None]:
        yield from TaggedReader(self._marks, tape, calls, functions).read()

    @property
    def _marks(self) -> Marks:
        starts = (*self.opens, self.begin.strip())
        return Marks(
            name_end=self.name_end.strip(),
            key=self.key.strip(),
            key_ends=tuple(map(str.strip, self.key_end)),
            value_end=self.value_end.strip(),
            ends=tuple(dict.fromkeys((self.end.strip(), *self.ends))),
            starts=tuple(filter(None, starts)),
            typed=self.typed,
        )

    def reads_name(self, name: str) -> bool:
        return is_plain_name(name)

    def shape(self, function: Function) -> Shape:
        return _call_shape(self, function)


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
