"""Calls without a family's dialect: what is asked of a model where a call must be and nothing better is known."""

from dataclasses import dataclass

from jaxserve.structured.grammar_expr import GrammarExpr
from jaxserve.text.call_formats.format import Calls, Function, Functions
from jaxserve.text.call_formats.json_calls import JsonCalls, arguments
from jaxserve.text.dialect import ToolDialect
from jaxserve.text.markers import Reading, Tape

ARRAY = ToolDialect(format=JsonCalls(arguments=("parameters", "arguments")), unmarked="[", listed=True)


@dataclass(frozen=True, slots=True)
class _BareArguments:
    """Nothing but the arguments of the one function that must be called."""

    name: str
    begin: str = ""

    def read(self, tape: Tape, calls: Calls, functions: Functions) -> Reading[None]:
        calls.begin(self.name)
        yield from arguments(tape, calls.write)
        calls.end()

    def reads_name(self, name: str) -> bool:
        return name != ""

    def shape(self, function: Function) -> GrammarExpr:
        return function.arguments


def bare_arguments(name: str) -> ToolDialect:
    return ToolDialect(format=_BareArguments(name), unmarked="{")
