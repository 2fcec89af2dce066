"""CallFormat: the interface of the forms of calls, with the declared functions and the receiver of parsed calls."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from jaxserve.exact_json import dump_exact_json
from jaxserve.structured.grammar_expr import GrammarExpr, JsonSchema, TextLiteral
from jaxserve.structured.grammar_expr import SequenceExpr as InOrder
from jaxserve.structured.parameter_schema import parse_parameters_leniently
from jaxserve.structured.parameter_types import STRING_TYPE, ParameterType
from jaxserve.text.text_buffer import FUNCTION_NAME, Parser, TextBuffer
from jaxserve.text.tool_schemas import drop_null_keywords

ANY_OBJECT = '{"type": "object", "additionalProperties": true}'
NO_PARAMETERS: Mapping[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}


class ToolCallSink(Protocol):
    """Receiver of parsed calls: for each call `begin_call`, any number of `add_arguments`, `end_call`."""

    def begin_call(self, name: str) -> None:
        """Receive the function name of the next call."""
        ...

    def add_arguments(self, arguments: str) -> None:
        """Receive a piece of the call's arguments, which is JSON text."""
        ...

    def end_call(self) -> None:
        """Mark the call as complete."""
        ...


@dataclass(frozen=True)
class FunctionSpec:
    """One declared function.

    name          Its name.
    parameters    The JSON schema of its arguments.
    is_strict     The request asks for arguments that are valid under the schema.
    is_enforced   A grammar allows only arguments that are valid under the schema.
    param         The field of the request that holds the schema, for error texts.
    """

    name: str
    parameters: Mapping[str, Any]
    is_strict: bool = False
    is_enforced: bool = True
    param: str = "tools"

    @property
    def arguments_expr(self) -> GrammarExpr:
        """A grammar for the JSON object of the arguments."""
        return TextLiteral("{}") if self.is_enforced and self.parameters == NO_PARAMETERS else self.schema

    @property
    def schema(self) -> JsonSchema:
        """A grammar for JSON under the schema, or any JSON object if the schema is not enforced."""
        return JsonSchema(ANY_OBJECT if not self.is_enforced else self._json, is_object=True, param=self.param)

    def parameter_type(self, parameter: str) -> ParameterType:
        """Return the type of a parameter, by which its text is parsed; a string if the schema does not say."""
        arguments = parse_parameters_leniently(self._json)
        return STRING_TYPE if arguments is None else arguments.parameter_type(parameter)

    @property
    def parameter_names(self) -> list[str]:
        """The names of the parameters."""
        arguments = parse_parameters_leniently(self._json)
        return [] if arguments is None else arguments.declared_names

    @cached_property
    def _json(self) -> str:
        return dump_exact_json(self.parameters)


Functions = Mapping[str, FunctionSpec]


def collect_functions(tools: Sequence[Mapping[str, Any]]) -> Functions:
    """Return the declared functions by name, from tools as the API has them.

    A function without parameters (absent, null or {}) takes an empty object, as OpenAI documents it.
    """
    by_name = {}
    for index, tool in enumerate(drop_null_keywords(tools)):
        function = tool["function"]
        name = function["name"]
        param = f"tools.{index}.function.parameters"
        by_name[name] = FunctionSpec(
            name, function.get("parameters") or NO_PARAMETERS, function.get("strict") is True, param=param
        )
    return by_name


class CallFormat(Protocol):
    """One form of calls."""

    @property
    def begin(self) -> str:
        """The literal that begins every call; "" where a call begins right after the opener of the section."""
        ...

    def parse(self, buffer: TextBuffer, calls: ToolCallSink, functions: Functions) -> Parser[None]:
        """Parse what comes after `begin`: one call, or a list of them. Raises Malformed if it is none."""
        ...

    def build_expr(self, function: FunctionSpec) -> GrammarExpr:
        """Return a grammar for a call of this function, `begin` included."""
        ...

    def is_readable_name(self, name: str) -> bool:
        """Whether `parse` gives this function name back as it was written."""
        ...


def is_plain_name(name: str) -> bool:
    """Whether a name without quotes is parsed to its end: it has letters, digits and _ . : / $ @ - only."""
    return FUNCTION_NAME.fullmatch(name) is not None and name != ""


def concat(*items: GrammarExpr | str) -> GrammarExpr:
    """Return the sequence of these grammars and plain texts."""
    return InOrder(tuple(TextLiteral(item) if isinstance(item, str) else item for item in items if item != ""))
