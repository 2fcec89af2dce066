"""A call in which one closing marker is missing is recovered or is content, however the text is cut."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass

import pytest

from jaxserve.outputs import FinishReason
from jaxserve.text.call_formats.tagged import TaggedCalls
from jaxserve.text.dialects import TOOL_PARSERS
from jaxserve.text.marked_dialect import MarkedTools
from tests.text.call_writers import WRITERS
from tests.text.parsing import collect, cuts, dialect, output_spec, parse, tool

TOOLS = (
    tool("forecast", city={"type": "string"}, days={"type": "integer"}, note={"type": "string"}),
    tool("now"),
)
OSLO, ROME, NOW = (
    ("forecast", {"city": "Oslo", "days": 3, "note": "x y"}),
    ("forecast", {"city": "Rome", "days": 1}),
    ("now", {}),
)
PARSERS = sorted(name for name, found in TOOL_PARSERS.items() if found is not None and name != "openai")
TAGGED = {
    name: (found, found.format)
    for name, found in TOOL_PARSERS.items()
    if isinstance(found, MarkedTools) and isinstance(found.format, TaggedCalls)
}
CLOSING = {"name_end", "end", "ends", "value_end", "key_end", "close"}


def markers(value: object) -> Iterator[str]:
    """Yield the closing markers of a dialect, from its data, without those that are part of an opening tag."""
    for field in fields(value) if is_dataclass(value) else ():
        found = getattr(value, field.name)
        if field.name in CLOSING:
            texts = map(str.strip, (found,) if isinstance(found, str) else found)
            yield from (text for text in texts if len(text) > 2 and '"' not in text and not text.startswith("<arg_v"))
        else:
            yield from markers(found)


def without_one(name: str, text: str) -> Iterator[str]:
    for mark in set(markers(TOOL_PARSERS[name])):
        place = text.find(mark)
        while place >= 0:
            before, behind = text[:place], text[place + len(mark) :]
            yield before + (behind.removeprefix("\n") if before.endswith("\n") else behind)
            place = text.find(mark, place + 1)


@pytest.mark.parametrize("name", PARSERS)
def test_a_missing_closing_marker_loses_no_call_and_changes_no_argument(name):
    calls = [OSLO, ROME, NOW]
    bound, text = dialect(name), WRITERS[name](calls)
    for broken in without_one(name, text):
        result = parse(bound, broken, tools=TOOLS)
        assert result.parsed == calls or (result.content == broken and not result.calls)
        for pieces in (list(broken), [broken[:9], broken[9:]], [broken[:-9], broken[-9:]]):
            assert parse(bound, pieces, tools=TOOLS) == result


@pytest.mark.parametrize("name", PARSERS)
def test_a_call_with_a_missing_marker_is_parsed_alike_however_it_is_cut(name):
    bound, text = dialect(name), WRITERS[name]([OSLO, NOW])
    for broken in without_one(name, text):
        whole = parse(bound, broken, tools=TOOLS)
        for end in range(0, len(broken), 3):
            parser = bound.create_parser(output_spec(tools=TOOLS))
            result = collect(parser, list(broken[:end]), is_cut=True)
            assert result == parse(bound, broken[:end], tools=TOOLS, is_cut=True)
            assert [call[0] for call in result.calls] == [call[0] for call in whole.calls[: len(result.calls)]]
            if parser.finish_reason(FinishReason.STOP) == "tool_calls":
                assert result.parsed == whole.parsed[: len(result.calls)]


@pytest.mark.parametrize("name", sorted(TAGGED))
def test_a_value_may_hold_markers_that_are_not_its_own(name):
    tools, format = TAGGED[name]
    key, end, close = format.key.strip(), format.end.strip(), format.value_end.strip()
    names = format.key_end[0].strip()
    for text in (
        f"a {key}undeclared{names} b",
        f"a {end} b {key}city{names} {close} c",
        f"{end}{tools.close} x",
        f"a {format.begin}other{format.name_end} {end}\n{close} b",
    ):
        calls = [("forecast", {"city": "Oslo", "note": text}), NOW]
        written = WRITERS[name](calls)
        for pieces in cuts(written):
            assert parse(dialect(name), pieces, tools=TOOLS).parsed == calls


def test_a_call_that_a_limit_has_cut_gets_no_end():
    begun = "<tool_call>\n<function=forecast>\n<parameter=city>\nOslo\n</parameter>\n"
    result = parse(dialect("qwen3_coder"), begun, tools=TOOLS, is_cut=True)
    assert result.calls == (("forecast", '{"city": "Oslo"'),)
    assert parse(dialect("qwen3_coder"), begun, tools=TOOLS).parsed == [("forecast", {"city": "Oslo"})]
    text = begun + "<parameter=note>\n</function> is a tag, and"
    result = parse(dialect("qwen3_coder"), list(text), tools=TOOLS, is_cut=True)
    assert result.calls == (("forecast", '{"city": "Oslo", "note": "</function> is a tag, and'),)
