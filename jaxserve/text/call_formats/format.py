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
from jaxserve.text.text_buffer import FUNCTION_NAME, Parser, TextBuffer
from jaxserve.text.tool_schemas import drop_null_keywords

ANY_OBJECT = '{"type": "object", "additionalProperties": true}'
NO_PARAMETERS: Mapping[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}


class ToolCallSink(Protocol):
    """Where the calls go as they are read: begin, any number of writes, end; then the next."""

    def begin_call(self, name: str) -> None: ...

    def add_arguments(self, arguments: str) -> None:
        """A piece of the call's arguments, JSON text."""
        ...

    def end_call(self) -> None: ...


@dataclass(frozen=True)
class FunctionSpec:
    """One declared function.

    enforced   a grammar lets only arguments through that its schema allows
    param      the field of the request that its schema stands in
    """

    name: str
    parameters: Mapping[str, Any]
    is_strict: bool = False
    is_enforced: bool = True
    param: str = "tools"

    @property
    def arguments_shape(self) -> GrammarExpr:
        """The JSON object of its arguments."""
        return TextLiteral("{}") if self.is_enforced and self.parameters == NO_PARAMETERS else self.schema

    @property
    def schema(self) -> JsonSchema:
        """What its arguments must be valid under."""
        return JsonSchema(ANY_OBJECT if not self.is_enforced else self._json, is_object=True, param=self.param)

    def parameter_type(self, parameter: str) -> UnquotedValue:
        """How the text of a parameter is read; a string where its schema says nothing of it."""
        arguments = parse_parameters_leniently(self._json)
        return STRING_VALUE if arguments is None else arguments.value(parameter)

    @property
    def parameter_names(self) -> list[str]:
        """The names of its parameters."""
        arguments = parse_parameters_leniently(self._json)
        return [] if arguments is None else arguments.declared_names

    @cached_property
    def _json(self) -> str:
        return dump_exact_json(self.parameters)


Functions = Mapping[str, FunctionSpec]


def collect_functions(tools: Sequence[Mapping[str, Any]]) -> Functions:
    """Map names to the declared functions, from tools as the API has them.

    A function without parameters (absent, null or {}) takes an empty object, as OpenAI documents it.
    """
    found = {}
    for index, tool in enumerate(drop_null_keywords(tools)):
        name, said = tool["function"]["name"], tool["function"]
        param = f"tools.{index}.function.parameters"
        found[name] = FunctionSpec(
            name, said.get("parameters") or NO_PARAMETERS, said.get("strict") is True, param=param
        )
    return found


class CallFormat(Protocol):
    """One way of writing calls.

    begin    the literal every call begins with; "" where a call begins right after what opens the section
    """

    @property
    def begin(self) -> str: ...

    def parse(self, buffer: TextBuffer, calls: ToolCallSink, functions: Functions) -> Parser[None]:
        """Takes what comes after `begin`: one call, or a list of them. Malformed when it is none."""
        ...

    def build_shape(self, function: FunctionSpec) -> GrammarExpr:
        """A call of this function, `begin` included."""
        ...

    def is_readable_name(self, name: str) -> bool:
        """Tell whether `read` gives this function's name back as it was written."""
        ...


def is_plain_name(name: str) -> bool:
    """Tell whether a name that stands in no quotes is read to its end: letters, digits and _ . : / $ @ -."""
    return FUNCTION_NAME.fullmatch(name) is not None and name != ""


def concat(*items: GrammarExpr | str) -> GrammarExpr:
    """Shapes and plain texts, one after the other."""
    return InOrder(tuple(TextLiteral(item) if isinstance(item, str) else item for item in items if item != ""))
