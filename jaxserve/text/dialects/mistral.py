"""Mistral: [TOOL_CALLS] and a JSON list, or a name and its arguments, as the tokenizer's version has it."""

from dataclasses import dataclass

from jaxserve.structured.grammar_expr import GrammarExpr
from jaxserve.text.call_formats.format import Calls, Function, Functions, in_order, is_plain_name
from jaxserve.text.call_formats.json_calls import JsonCalls, arguments
from jaxserve.text.dialect import ToolDialect, short_id
from jaxserve.text.markers import Reading, Tape


@dataclass(frozen=True, slots=True)
class _MistralCalls:
    """Reads every form. is_named: a grammar writes NAME[ARGS]{...}, otherwise JSON objects for a list."""

    is_named: bool
    args: str = "[ARGS]"
    call_id: str = "[CALL_ID]"
    json: JsonCalls = JsonCalls()
    begin: str = ""

    def read(self, tape: Tape, calls: Calls, functions: Functions) -> Reading[None]:
        if (yield from tape.peek()) in ("[", "{"):
            yield from self.json.read(tape, calls, functions)
            return
        name = yield from tape.name()
        if (yield from tape.accept(self.call_id)):
            yield from tape.name()
        yield from tape.accept(self.args)
        if (yield from tape.peek()) != "{":
            tape.fail()
        calls.begin(name)
        yield from arguments(tape, calls.write)
        calls.end()

    def reads_name(self, name: str) -> bool:
        return is_plain_name(name) if self.is_named else self.json.reads_name(name)

    def shape(self, function: Function) -> GrammarExpr:
        if self.is_named:
            return in_order(function.name + self.args, function.arguments)
        return self.json.shape(function)


_LISTED = ToolDialect(format=_MistralCalls(is_named=False), open=("[TOOL_CALLS]",), listed=True, new_id=short_id)
MISTRAL = ToolDialect(
    format=_MistralCalls(is_named=True),
    open=("[TOOL_CALLS]",),
    between="",
    new_id=short_id,
    without=("[ARGS]", _LISTED),
)
