"""Answers read in pieces of any size, and put together again."""

import json
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jaxserve.chat_output_spec import ChatOutputSpec
from jaxserve.text.dialects import REASONING_PARSERS, TOOL_PARSERS
from jaxserve.text.output_dialect import OutputDialect
from jaxserve.text.output_parser import OutputParser


def tool(name: str, strict: bool | None = None, **properties: Any) -> Mapping[str, Any]:
    """A declared function. Parameters whose schema has `"optional": true` are not required."""
    required = [key for key, schema in properties.items() if not schema.pop("optional", False)]
    parameters = {"type": "object", "properties": properties, "required": required}
    function = {"name": name, "parameters": parameters} | ({} if strict is None else {"strict": strict})
    return {"type": "function", "function": function}


TOOLS = (
    tool("get_weather", city={"type": "string"}, days={"type": "integer", "optional": True}),
    tool("now"),
    tool(
        "search",
        filter={"type": "object"},
        tags={"type": "array", "items": {"type": "string"}},
        limit={"type": "number"},
        exact={"type": "boolean"},
        after={"anyOf": [{"type": "string"}, {"type": "null"}]},
    ),
    tool("write", text={"type": "string"}),
)


@dataclass(frozen=True)
class Read:
    """An answer as its reader told it: calls as (name, arguments)."""

    reasoning: str
    content: str
    calls: tuple[tuple[str, str], ...]

    @property
    def parsed(self) -> list[tuple[str, Any]]:
        return [(name, json.loads(arguments)) for name, arguments in self.calls]


def dialect(tools: str | None, reasoning: str | None = None) -> OutputDialect:
    """By the parsers' names, for a tokenizer without special tokens."""
    return OutputDialect.from_dialects(
        None if tools is None else TOOL_PARSERS[tools], None if reasoning is None else REASONING_PARSERS[reasoning], {}
    )


def answer_format(**fields: Any) -> ChatOutputSpec:
    return ChatOutputSpec(**{"tools": TOOLS, "tool_choice": "auto", **fields})


def collect(reader: OutputParser, pieces: Iterable[str], *, is_cut: bool = False) -> Read:
    """All that the reader tells, its deltas checked for their order."""
    told = [*map(reader.feed, pieces), reader.close(is_cut=is_cut)]
    calls: list[list[str]] = []
    ids: set[str] = set()
    for delta in (delta for each in told for delta in each.tool_calls):
        if delta.name is not None:
            assert delta.index == len(calls) and delta.id and delta.id not in ids
            ids.add(delta.id)
            calls.append([delta.name, delta.arguments])
        else:
            assert delta.index == len(calls) - 1 and delta.id is None
            calls[-1][1] += delta.arguments
    reasoning, content = ("".join(getattr(each, part) for each in told) for part in ("reasoning", "content"))
    return Read(reasoning, content, tuple((name, arguments) for name, arguments in calls))


def read(bound: OutputDialect, text: str | Iterable[str], *, is_cut: bool = False, **fields: Any) -> Read:
    """An answer as it is told."""
    pieces = [text] if isinstance(text, str) else text
    return collect(bound.create_parser(answer_format(**fields)), pieces, is_cut=is_cut)


def cuts(text: str, seed: int = 0) -> Iterator[list[str]]:
    """The text in two pieces, cut everywhere; in single characters; and in some random pieces."""
    for place in range(len(text) + 1):
        yield [text[:place], text[place:]]
    yield list(text)
    dice = random.Random(seed)
    for _ in range(5):
        yield random_pieces(text, dice)


def random_pieces(text: str, dice: random.Random) -> list[str]:
    pieces = []
    while text:
        size = dice.randint(1, 12)
        pieces.append(text[:size])
        text = text[size:]
    return pieces
