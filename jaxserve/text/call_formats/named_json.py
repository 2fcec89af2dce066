"""Calls as a name between markers, then the arguments as a JSON object."""

import re
from dataclasses import dataclass

from jaxserve.structured.grammar_expr import GrammarExpr, Regex
from jaxserve.text.call_formats.format import Calls, Function, Functions, in_order, is_plain_name
from jaxserve.text.call_formats.json_calls import arguments
from jaxserve.text.markers import Reading, Tape


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedJson:
    """begin NAME name_end {...} end. White space around the parts is free; a grammar writes it as it stands here.

    prefix     stands before every name and is no part of it
    numbered   the name is followed by a colon and the number of the call
    """

    begin: str
    name_end: str
    end: str = ""
    prefix: str = ""
    numbered: bool = False

    def read(self, tape: Tape, calls: Calls, functions: Functions) -> Reading[None]:
        name = yield from tape.name()
        if (yield from tape.accept(self.name_end.strip())) is None and (yield from tape.peek()) != "{":
            tape.fail()
        calls.begin(self._bare(name))
        end = self.end.strip()
        if end and (yield from tape.accept(end)):
            calls.write("{}")
        else:
            yield from arguments(tape, calls.write)
        calls.end()

    def _bare(self, name: str) -> str:
        name = name.removeprefix(self.prefix)
        return re.sub(r":\d+$", "", name) if self.numbered else name

    def reads_name(self, name: str) -> bool:
        return is_plain_name(name)

    def shape(self, function: Function) -> GrammarExpr:
        number = [":", Regex("[0-9]{1,4}")] if self.numbered else []
        name = self.begin + self.prefix + function.name
        return in_order(name, *number, self.name_end, function.arguments, self.end)
