"""Calls as tags: a name, then parameters whose values are plain text. Their types come from the function's schema.

In a grammar, parameters come in the order of the schema, which structured/parameter_schema.py reads for both sides.
"""

from dataclasses import dataclass

from jaxserve.structured.grammar_expr import GrammarExpr, TaggedArguments
from jaxserve.text.call_formats.format import Calls, Function, Functions, in_order, is_plain_name
from jaxserve.text.call_formats.tagged_reading import Marks, TaggedReader
from jaxserve.text.markers import Reading, Tape


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

    def shape(self, function: Function) -> GrammarExpr:
        begin = self.begin + function.name + self.name_end
        return in_order(begin, self._parameters(function), self.end)

    def _parameters(self, function: Function) -> TaggedArguments:
        said = ("true", "false") if self.typed else ("", "")
        after_name, after_name_json = (each.join(self.key_end) for each in said)
        return TaggedArguments(
            function.schema,
            self.key,
            after_name,
            self.value_end,
            after_name_json if self.typed else None,
            stops=tuple(dict.fromkeys(each.strip() for each in (self.value_end, self.key, self.end, *self.ends))),
            name_end=self.key_end[0].strip(),
        )
