"""What every call format offers, and what it is given."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from jaxserve.exact_json import dump_exact_json
from jaxserve.structured.grammar_expr import GrammarExpr, JsonSchema, TextLiteral
from jaxserve.structured.grammar_expr import SequenceExpr as InOrder
from jaxserve.structured.parameter_schema import parse_parameters_leniently
from jaxserve.structured.unquoted_values import STRING_VALUE, UnquotedValue
from jaxserve.text.markers import NAME, Reading, Tape
from jaxserve.text.tool_schemas import without_null_keywords

ANY_OBJECT = '{"type": "object", "additionalProperties": true}'
NO_PARAMETERS: Mapping[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}


class Calls(Protocol):
    """Where the calls go as they are read: begin, any number of writes, end; then the next."""

    def begin(self, name: str) -> None: ...

    def write(self, arguments: str) -> None:
        """A piece of the call's arguments, JSON text."""
        ...

    def end(self) -> None: ...


@dataclass(frozen=True)
class Function:
    """One declared function.

    enforced   a grammar lets only arguments through that its schema allows
    param      the field of the request that its schema stands in
    """

    name: str
    parameters: Mapping[str, Any]
    strict: bool = False
    enforced: bool = True
    param: str = "tools"

    @property
    def arguments(self) -> GrammarExpr:
        """The JSON object of its arguments."""
        return TextLiteral("{}") if self.enforced and self.parameters == NO_PARAMETERS else self.schema

    @property
    def schema(self) -> JsonSchema:
        """What its arguments must be valid under."""
        return JsonSchema(ANY_OBJECT if not self.enforced else self._json, is_object=True, param=self.param)

    def value(self, parameter: str) -> UnquotedValue:
        """How the text of a parameter is read; a string where its schema says nothing of it."""
        arguments = parse_parameters_leniently(self._json)
        return STRING_VALUE if arguments is None else arguments.value(parameter)

    @property
    def declared(self) -> list[str]:
        """The names of its parameters."""
        arguments = parse_parameters_leniently(self._json)
        return [] if arguments is None else arguments.declared_names

    @cached_property
    def _json(self) -> str:
        return dump_exact_json(self.parameters)


Functions = Mapping[str, Function]


def functions(tools: Sequence[Mapping[str, Any]]) -> Functions:
    """Map names to the declared functions, from tools as the API has them.

    A function without parameters (absent, null or {}) takes an empty object, as OpenAI documents it.
    """
    found = {}
    for index, tool in enumerate(without_null_keywords(tools)):
        name, said = tool["function"]["name"], tool["function"]
        param = f"tools.{index}.function.parameters"
        found[name] = Function(name, said.get("parameters") or NO_PARAMETERS, said.get("strict") is True, param=param)
    return found


class CallFormat(Protocol):
    """One way of writing calls.

    begin    the literal every call begins with; "" where a call begins right after what opens the section
    """

    @property
    def begin(self) -> str: ...

    def read(self, tape: Tape, calls: Calls, functions: Functions) -> Reading[None]:
        """Takes what comes after `begin`: one call, or a list of them. Malformed when it is none."""
        ...

    def shape(self, function: Function) -> GrammarExpr:
        """A call of this function, `begin` included."""
        ...

    def reads_name(self, name: str) -> bool:
        """Tell whether `read` gives this function's name back as it was written."""
        ...


def is_plain_name(name: str) -> bool:
    """Tell whether a name that stands in no quotes is read to its end: letters, digits and _ . : / $ @ -."""
    return NAME.fullmatch(name) is not None and name != ""


def in_order(*items: GrammarExpr | str) -> GrammarExpr:
    """Shapes and plain texts, one after the other."""
    return InOrder(tuple(TextLiteral(item) if isinstance(item, str) else item for item in items if item != ""))
