"""What every call format offers, and what it is given."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from jaxserve.exact_json import dump_exact_json
from jaxserve.structured.shapes import Literal, Schema, Shape
from jaxserve.structured.shapes import Sequence as InOrder
from jaxserve.text.call_formats.coercion import types_of
from jaxserve.text.markers import NAME, Reading, Tape
from jaxserve.text.tool_schemas import without_null_keywords

_DEFINITIONS = ("$defs", "definitions")
ANY_OBJECT = '{"type": "object", "additionalProperties": true}'
NO_PARAMETERS: Mapping[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}


class Calls(Protocol):
    """Where the calls go as they are read: begin, any number of writes, end; then the next."""

    def begin(self, name: str) -> None: ...

    def write(self, arguments: str) -> None:
        """A piece of the call's arguments, JSON text."""
        ...

    def end(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Function:
    """One declared function. enforced: a grammar lets only arguments through that its schema allows."""

    name: str
    parameters: Mapping[str, Any]
    strict: bool = False
    enforced: bool = True

    @property
    def arguments(self) -> Shape:
        """The JSON object of its arguments."""
        if not self.enforced:
            return Schema(ANY_OBJECT, is_object=True)
        if self.parameters == NO_PARAMETERS:
            return Literal("{}")
        return Schema(dump_exact_json(self.parameters), is_object=True)

    def types_of(self, parameter: str) -> tuple[str, ...]:
        """The JSON types of a parameter, in the order in which they are tried; a string where nothing is declared."""
        properties = self.parameters.get("properties")
        return self.types_of_schema(properties.get(parameter) if isinstance(properties, Mapping) else None)

    def types_of_schema(self, schema: Any) -> tuple[str, ...]:
        return types_of(schema, self.parameters)

    def schema(self, schema: Any) -> Schema:
        """JSON of one parameter's schema, with the definitions that it may refer to."""
        if isinstance(schema, Mapping):
            schema = {**schema, **{key: self.parameters[key] for key in _DEFINITIONS if key in self.parameters}}
        return Schema(dump_exact_json(schema))


Functions = Mapping[str, Function]


def functions(tools: Sequence[Mapping[str, Any]]) -> Functions:
    """Map names to the declared functions, from tools as the API has them.

    A function without parameters (absent, null or {}) takes an empty object, as OpenAI documents it.
    """
    declared = (tool["function"] for tool in without_null_keywords(tools))
    return {
        each["name"]: Function(each["name"], each.get("parameters") or NO_PARAMETERS, each.get("strict") is True)
        for each in declared
    }


class CallFormat(Protocol):
    """One way of writing calls.

    begin    the literal every call begins with; "" where a call begins right after what opens the section
    """

    @property
    def begin(self) -> str: ...

    def read(self, tape: Tape, calls: Calls, functions: Functions) -> Reading[None]:
        """Takes what comes after `begin`: one call, or a list of them. Malformed when it is none."""
        ...

    def shape(self, function: Function) -> Shape:
        """A call of this function, `begin` included."""
        ...

    def reads_name(self, name: str) -> bool:
        """Tell whether `read` gives this function's name back as it was written."""
        ...


def is_plain_name(name: str) -> bool:
    """Tell whether a name that stands in no quotes is read to its end: letters, digits and _ . : / $ @ -."""
    return NAME.fullmatch(name) is not None and name != ""


def in_order(*items: Shape | str) -> Shape:
    """Shapes and plain texts, one after the other."""
    return InOrder(tuple(Literal(item) if isinstance(item, str) else item for item in items if item != ""))
