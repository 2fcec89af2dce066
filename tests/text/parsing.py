"""Helpers that parse outputs in pieces of any size and join the deltas."""

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
class ParsedOutput:
    """The joined parts of an output; calls are (name, arguments)."""

    reasoning: str
    content: str
    calls: tuple[tuple[str, str], ...]

    @property
    def parsed(self) -> list[tuple[str, Any]]:
        """The calls with their arguments as values."""
        return [(name, json.loads(arguments)) for name, arguments in self.calls]


def dialect(tools: str | None, reasoning: str | None = None) -> OutputDialect:
    """Return the dialect with these parsers, for a tokenizer without special tokens."""
    return OutputDialect.from_dialects(
        None if tools is None else TOOL_PARSERS[tools], None if reasoning is None else REASONING_PARSERS[reasoning], {}
    )


def output_spec(**fields: Any) -> ChatOutputSpec:
    return ChatOutputSpec(**{"tools": TOOLS, "tool_choice": "auto", **fields})


def collect(parser: OutputParser, pieces: Iterable[str], *, is_cut: bool = False) -> ParsedOutput:
    """Feed a parser and join its deltas, whose order is checked."""
    deltas = [*map(parser.feed, pieces), parser.close(is_cut=is_cut)]
    calls: list[list[str]] = []
    ids: set[str] = set()
    for call in (call for delta in deltas for call in delta.tool_calls):
        if call.name is not None:
            assert call.index == len(calls) and call.id and call.id not in ids
            ids.add(call.id)
            calls.append([call.name, call.arguments])
        else:
            assert call.index == len(calls) - 1 and call.id is None
            calls[-1][1] += call.arguments
    reasoning, content = ("".join(getattr(delta, part) for delta in deltas) for part in ("reasoning", "content"))
    return ParsedOutput(reasoning, content, tuple((name, arguments) for name, arguments in calls))


def parse(bound: OutputDialect, text: str | Iterable[str], *, is_cut: bool = False, **fields: Any) -> ParsedOutput:
    """Parse an output; `fields` are those of ChatOutputSpec."""
    pieces = [text] if isinstance(text, str) else text
    return collect(bound.create_parser(output_spec(**fields)), pieces, is_cut=is_cut)


def cuts(text: str, seed: int = 0) -> Iterator[list[str]]:
    """Yield the text in two pieces, cut at every place; in single characters; and in some random pieces."""
    for index in range(len(text) + 1):
        yield [text[:index], text[index:]]
    yield list(text)
    rng = random.Random(seed)
    for _ in range(5):
        yield random_pieces(text, rng)


def random_pieces(text: str, rng: random.Random) -> list[str]:
    pieces = []
    while text:
        size = rng.randint(1, 12)
        pieces.append(text[:size])
        text = text[size:]
    return pieces
