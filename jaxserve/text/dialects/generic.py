"""Dialects for required calls of a model whose own dialect is not known."""

from dataclasses import dataclass

from jaxserve.structured.grammar_expr import GrammarExpr
from jaxserve.text.call_formats.format import Functions, FunctionSpec, ToolCallSink
from jaxserve.text.call_formats.json_calls import JsonCalls, stream_arguments
from jaxserve.text.marked_dialect import MarkedTools
from jaxserve.text.text_buffer import Parser, TextBuffer

JSON_ARRAY = MarkedTools(format=JsonCalls(arguments_keys=("parameters", "arguments")), unmarked_start="[", is_list=True)


@dataclass(frozen=True, slots=True)
class _BareArguments:
    """A CallFormat of nothing but the arguments of the one function that must be called."""

    name: str
    begin: str = ""

    def parse(self, buffer: TextBuffer, calls: ToolCallSink, functions: Functions) -> Parser[None]:
        calls.begin_call(self.name)
        yield from stream_arguments(buffer, calls.add_arguments)
        calls.end_call()

    def is_readable_name(self, name: str) -> bool:
        return name != ""

    def build_expr(self, function: FunctionSpec) -> GrammarExpr:
        return function.arguments_expr


def bare_arguments(name: str) -> MarkedTools:
    """Return the dialect in which an output is the arguments of this function."""
    return MarkedTools(format=_BareArguments(name), unmarked_start="{")
