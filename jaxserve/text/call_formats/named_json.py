"""NamedJson: calls as a name between markers, then the arguments as a JSON object."""

import re
from dataclasses import dataclass

from jaxserve.structured.grammar_expr import GrammarExpr, Regex
from jaxserve.text.call_formats.format import Functions, FunctionSpec, ToolCallSink, concat, is_plain_name
from jaxserve.text.call_formats.json_calls import stream_arguments
from jaxserve.text.text_buffer import Parser, TextBuffer


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedJson:
    """Calls of the form: begin NAME name_end {...} end. Whitespace around the parts is free for the parser.

    begin         The literal that begins a call.
    name_end      The literal after the name.
    end           The literal that ends a call.
    prefix        Stands before every name and is not part of it.
    is_numbered   The name is followed by a colon and the number of the call.
    """

    begin: str
    name_end: str
    end: str = ""
    prefix: str = ""
    is_numbered: bool = False

    def parse(self, buffer: TextBuffer, calls: ToolCallSink, functions: Functions) -> Parser[None]:
        """Parse one call. Raises Malformed if it is none."""
        name = yield from buffer.read_name()
        if (yield from buffer.accept(self.name_end.strip())) is None and (yield from buffer.peek()) != "{":
            buffer.fail()
        calls.begin_call(self._bare(name))
        end = self.end.strip()
        if end and (yield from buffer.accept(end)):
            calls.add_arguments("{}")
        else:
            yield from stream_arguments(buffer, calls.add_arguments)
        calls.end_call()

    def _bare(self, name: str) -> str:
        name = name.removeprefix(self.prefix)
        return re.sub(r":\d+$", "", name) if self.is_numbered else name

    def is_readable_name(self, name: str) -> bool:
        """Whether `parse` gives this function name back as it was written."""
        return is_plain_name(name)

    def build_expr(self, function: FunctionSpec) -> GrammarExpr:
        """Return a grammar for a call of this function."""
        number = [":", Regex("[0-9]{1,4}")] if self.is_numbered else []
        name = self.begin + self.prefix + function.name
        return concat(name, *number, self.name_end, function.arguments_expr, self.end)
