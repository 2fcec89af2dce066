"""The parts that a parser reports of an output, by what its request says."""

import re

import pytest

from jaxserve.chat_output_spec import NamedTool
from jaxserve.outputs import FinishReason, ToolCallDelta
from jaxserve.text.dialects import REASONING_PARSERS, TOOL_PARSERS
from jaxserve.text.output_dialect import OutputDialect
from jaxserve.text.output_parser import ParsedDelta
from tests.text.call_writers import WRITERS
from tests.text.parsing import collect, cuts, dialect, output_spec, parse

CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
ONLY_AT_THE_BEGINNING = ("pythonic", "xlam", "openai")
OSLO = ("get_weather", '{"city": "Oslo"}')


def parser(tools="hermes", reasoning=None, **fields):
    return dialect(tools, reasoning).create_parser(output_spec(**fields))


def test_a_stream_has_the_name_once_it_is_complete_then_the_arguments_as_they_come():
    told_early = parser()
    news = ["Hi <tool_", 'call>{"name": "get_wea', 'ther", "arguments": {"ci', 'ty": "Os', 'lo"}', "}</tool_call>"]
    result = [told_early.feed(piece) for piece in news]
    assert result[:2] == [ParsedDelta(content="Hi "), ParsedDelta()]
    (begun, some), (more,) = result[2].tool_calls, result[3].tool_calls
    assert (begun.index, begun.name, begun.arguments) == (0, "get_weather", "")
    assert (some, more) == (ToolCallDelta(0, '{"ci'), ToolCallDelta(0, 'ty": "Os'))
    assert result[4:] == [ParsedDelta(tool_calls=(ToolCallDelta(0, 'lo"}'),)), ParsedDelta()]
    assert told_early.close() == ParsedDelta()


def test_a_string_in_tags_is_reported_as_it_comes():
    told_early = parser("qwen3_coder")
    told_early.feed("<tool_call>\n<function=write>\n<parameter=text>\nonce upon")
    assert told_early.feed(' "a time\n').tool_calls == (ToolCallDelta(0, ' \\"a time'),)
    assert told_early.feed("</param").tool_calls == ()
    assert told_early.feed("eter>\n</function>").tool_calls == (ToolCallDelta(0, '"}'),)


def test_arguments_before_the_name_wait_for_it():
    for pieces in cuts('<tool_call>{"x": {"name": 1}, "parameters": {"name": "}"}, "name": "now"}'):
        assert parse(dialect("hermes"), pieces).calls == (("now", '{"name": "}"}'),)


@pytest.mark.parametrize(
    ("given", "result"), [('"{\\"a\\": 1}"', '{"a": 1}'), ("null", "{}"), ('""', "{}"), ("{ }", "{ }")]
)
def test_arguments_are_an_object_however_they_were_given(given, result):
    text = f'<tool_call>{{"name": "now", "arguments": {given}}}</tool_call>'
    assert parse(dialect("hermes"), text).calls == (("now", result),)


@pytest.mark.parametrize("bad", ["[1]", "7", '"x"', "{]", "{1: 2}", "{'a': 1}", "{" * 300 + "}" * 300, "{ 1}"])
def test_what_cannot_be_arguments_is_content(bad):
    text = f'Hi <tool_call>{{"name": "now", "arguments": {bad}}}</tool_call>'
    for pieces in cuts(text):
        assert parse(dialect("hermes"), pieces) == parse(dialect(None), text)


def test_a_call_that_breaks_in_its_arguments_stays_and_the_next_one_is_parsed():
    text = CALL + '<tool_call>{"name": "now", "arguments": {"a": 1]}}</tool_call>' + CALL
    for pieces in cuts(text):
        assert parse(dialect("hermes"), pieces).calls == (OSLO, ("now", '{"a": 1'), OSLO)


def test_text_between_and_after_calls_is_dropped_and_white_space_before_them():
    text = f" \n{CALL} and \n{CALL}\n done"
    result = parse(dialect("hermes"), list(text))
    assert (result.content, result.calls) == ("", (OSLO, OSLO))


def test_only_the_first_call_is_reported_where_one_is_allowed():
    result = parse(dialect("hermes"), list("a" + CALL + CALL), parallel_tool_calls=False)
    assert (result.content, result.calls) == ("a", (OSLO,))


@pytest.mark.parametrize("name", ["hermes", "openai", "glm45", "pythonic"])
def test_nothing_is_looked_for_without_tools_or_with_tool_choice_none(name):
    text = WRITERS[name]([("get_weather", {"city": "Oslo"})])
    for fields in ({"tool_choice": "none"}, {"tools": ()}):
        result = parse(dialect(name), text, **fields)
        assert result.calls == () and "Oslo" in result.content
        assert name == "openai" or result.content == text


@pytest.mark.parametrize(
    ("name", "pattern"),
    [("hermes", "chatcmpl-tool-[0-9a-f]{16}"), ("mistral", "[a-zA-Z0-9]{9}"), ("kimi_k2", "functions.now:[78]")],
)
def test_ids_are_of_the_family_s_kind(name, pattern):
    text = WRITERS[name]([("now", {}), ("now", {})])
    ids = [call.id for call in parser(name, num_past_tool_calls=7).feed(text).tool_calls if call.id]
    assert len(set(ids)) == 2 and all(re.fullmatch(pattern, id) for id in ids)


def test_kimi_counts_calls_over_the_conversation():
    text = WRITERS["kimi_k2"]([("now", {}), ("get_weather", {})])
    ids = [call.id for call in parser("kimi_k2", num_past_tool_calls=3).feed(text).tool_calls if call.id]
    assert ids == ["functions.now:3", "functions.get_weather:4"]


@pytest.mark.parametrize("choice", ["required", NamedTool("get_weather")])
@pytest.mark.parametrize("name", ["hermes", "llama3_json", "deepseek_v3", "glm45", "pythonic", "openai"])
def test_a_demanded_call_is_read_in_the_model_s_own_form_and_nothing_is_content(name, choice):
    text = WRITERS[name]([("get_weather", {"city": "Oslo"})])
    for pieces in cuts(text):
        result = parse(dialect(name), pieces, tool_choice=choice)
        assert (result.content, result.parsed) == ("", [("get_weather", {"city": "Oslo"})])


def test_without_a_dialect_a_demanded_call_has_a_plain_form():
    array = '[{"name": "now", "parameters": {}}, {"name": "get_weather", "parameters": {"city": "Oslo"}}]'
    for pieces in cuts(array):
        result = parse(dialect(None), pieces, tool_choice="required")
        assert (result.content, result.calls) == ("", (("now", "{}"), OSLO))
    for pieces in cuts(' {"city": "Oslo"}'):
        result = parse(dialect(None), pieces, tool_choice=NamedTool("get_weather"))
        assert (result.content, result.calls) == ("", (OSLO,))


def test_a_required_call_that_was_cut_off_is_reported_so_far():
    text = '[{"name": "now", "parameters": {}}, {"name": "get_weather", "parameters": {"city": "Os'
    result = parse(dialect(None), text, tool_choice="required")
    assert (result.content, result.calls) == ("", (("now", "{}"), ("get_weather", '{"city": "Os')))
    result = parse(dialect(None), '{"city": "Os', tool_choice=NamedTool("get_weather"))
    assert (result.content, result.calls) == ("", (("get_weather", '{"city": "Os'),))


def test_an_answer_that_called_ends_with_tool_calls_unless_the_call_was_named_or_it_was_cut_off():
    for choice, reason in (("auto", "tool_calls"), ("required", "tool_calls"), (NamedTool("now"), "stop")):
        ended = parser(tool_choice=choice)
        ended.feed(CALL)
        ended.close()
        assert ended.finish_reason(FinishReason.STOP) == reason
        assert ended.finish_reason(FinishReason.LENGTH) == "length"
    without = parser()
    without.feed("Hi")
    without.close()
    assert without.finish_reason(FinishReason.STOP) == "stop"


SPECIAL = {"<|tool_call_begin|>": 5, "<|tool_calls_section_begin|>": 6, "<|im_end|>": 7, "<|tool_call_end|>": 8}


def test_special_tokens_are_known_by_characters_that_no_text_can_bring():
    bound = OutputDialect.from_dialects(TOOL_PARSERS["kimi_k2"], REASONING_PARSERS["kimi_k2"], SPECIAL)
    assert set(bound.control_tokens) == {5, 6, 8}
    section, begin, end = (bound.control_tokens[id] for id in (6, 5, 8))
    written = "<|tool_calls_section_begin|><|tool_call_begin|>functions.now:0<|tool_call_argument_begin|>{}"
    token = section + begin + "functions.now:0<|tool_call_argument_begin|>{}" + end
    format = output_spec(enable_thinking=False)
    assert collect(bound.create_parser(format), [written]).content == written
    assert collect(bound.create_parser(format), [token]).calls == (("now", "{}"),)
    assert collect(bound.create_parser(format), [f"a{begin}b"]).content == "ab"
    shown = bound.create_parser(format, skip_special_tokens=False)
    assert collect(shown, [f"a{begin}b"]).content == "a<|tool_call_begin|>b"


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_calls_are_read_in_special_tokens_as_they_are_in_text(name):
    text = "Hi" * (name not in ONLY_AT_THE_BEGINNING) + WRITERS[name]([("get_weather", {"city": "Oslo"}), ("now", {})])
    markers = re.findall(r"<[^<>\s=]*>|\[[A-Z_]+\]", text)
    special = {mark: id for id, mark in enumerate(dict.fromkeys(markers))}
    bound = OutputDialect.from_parser_names(name, None, special)
    assert set(bound.control_tokens) <= set(special.values())
    for mark, id in special.items():
        text = text.replace(mark, bound.control_tokens.get(id, ""))  # other special tokens are hidden
    for pieces in cuts(text):
        result = collect(bound.create_parser(output_spec()), pieces)
        assert result.content == "Hi" * (name not in ONLY_AT_THE_BEGINNING)
        assert result.parsed == [("get_weather", {"city": "Oslo"}), ("now", {})]


def test_any_two_parsers_go_together():
    for tools in TOOL_PARSERS.keys() - {"hf"}:
        for reasoning in REASONING_PARSERS.keys() - {"hf"}:
            result = parse(dialect(tools, reasoning), "a</think>b", enable_thinking=True)
            assert result.reasoning + result.content in ("ab", "a</think>b")


def test_white_space_before_a_call_that_breaks_off_is_shown_with_it():
    assert parse(dialect("hermes"), "\n<tool_call>{").content == "\n<tool_call>{"
    assert parse(dialect("hermes"), '\n<tool_call>{"name": "now", ').content[0] == "\n"


def test_a_mistral_grammar_has_the_form_that_the_tokenizer_supports():
    old, new = (OutputDialect.from_dialects(TOOL_PARSERS["mistral"], None, tokens) for tokens in ({}, {"[ARGS]": 1}))
    assert old.tools.is_list and not new.tools.is_list
    for text in (
        '[TOOL_CALLS][{"name": "now", "arguments": {}}, {"name": "get_weather", "arguments": {"city": "Oslo"}}]',
        '[TOOL_CALLS]now{}[TOOL_CALLS]get_weather{"city": "Oslo"}',
        '[TOOL_CALLS]now[ARGS]{}[TOOL_CALLS]get_weather[CALL_ID]123456789[ARGS]{"city": "Oslo"}',
        '[TOOL_CALLS] {"name": "now", "arguments": {}}[TOOL_CALLS]get_weather {"city": "Oslo"}',
    ):
        assert parse(old, list(text)).calls == (("now", "{}"), OSLO)
