"""Every dialect separates reasoning from content, whatever the prompt has begun, and counts its tokens."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxserve.outputs import FinishReason, PositionLogprobs, TokenOutput
from jaxserve.sampling_params import SamplingParams
from jaxserve.text.dialects import REASONING_PARSERS, TOOL_PARSERS
from jaxserve.text.output_dialect import OutputDialect
from jaxserve.text.text_stream import TextStream
from tests.text.call_writers import WRITERS
from tests.text.parsing import cuts, dialect, output_spec, parse, random_pieces
from tests.text.tiny_tokenizers import byte_level_backend, make

PARSERS = sorted(name for name, found in REASONING_PARSERS.items() if found is not None)
MARKERS = {
    "cohere_command3": ("<|START_THINKING|>", "<|END_THINKING|>"),
    "seed_oss": ("<seed:think>", "</seed:think>"),
    "mistral": ("[THINK]", "[/THINK]"),
    "gemma4": ("<|channel>thought\n", "<channel|>"),
    "granite": ("Here is my thought process:", "Here is my response:"),
    "openai_gptoss": ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
}
THOUGHTS = "\nHm: a </thin b, {x} [y] <tool 😀\n\n"
ANSWER = "\n\nIt is 4 < 5. 😀 </th"
OFF_BY_DEFAULT = ("deepseek_v3", "deepseek_v4")
ENABLE_THINKING = {name: name in OFF_BY_DEFAULT or None for name in PARSERS}
OPENED_BY_THE_MODEL = (
    "cohere_command3",
    "mistral",
    "gemma4",
    "granite",
    "granite_thinking_parser",
    "hunyuan_a13b",
    "mimo",
    "openai_gptoss",
)


def markers(name: str) -> tuple[str, str]:
    return MARKERS.get(name, ("<think>", "</think>"))


@pytest.mark.parametrize("name", PARSERS)
def test_a_section_that_the_model_opens_is_reasoning(name):
    opening, closing = markers(name)
    text = opening + THOUGHTS + closing + ANSWER
    for pieces in cuts(text):
        result = parse(dialect(None, name), pieces, enable_thinking=ENABLE_THINKING[name])
        assert (result.reasoning, result.content) == (THOUGHTS, ANSWER)


@pytest.mark.parametrize("name", sorted(set(PARSERS) - {"openai_gptoss"}))
def test_a_section_that_the_prompt_opened_goes_on_in_the_answer(name):
    opening, closing = markers(name)
    for prompt in (
        f"<|im_start|>assistant\n{opening}",
        f"<|im_start|>assistant\n{opening}\nWell, ".replace("\n\n", "\n"),
    ):
        bound = OutputDialect.from_dialects(None, REASONING_PARSERS[name], {"<|im_start|>": 1})
        for text in (THOUGHTS + closing + ANSWER, opening + THOUGHTS + closing + ANSWER):
            result = parse(bound, text, enable_thinking=ENABLE_THINKING[name], prompt_text=prompt)
            assert (result.reasoning, result.content) == (THOUGHTS, ANSWER)


@pytest.mark.parametrize("name", sorted(set(PARSERS) - {"openai_gptoss"}))
def test_a_section_that_the_prompt_closed_is_over(name):
    opening, closing = markers(name)
    prompt = f"<|im_start|>user\n{opening}<|im_start|>assistant\n{opening}\n\n{closing}\n\n"
    bound = OutputDialect.from_dialects(None, REASONING_PARSERS[name], {"<|im_start|>": 1})
    for text in (ANSWER, "x" + closing + ANSWER):
        result = parse(bound, text, enable_thinking=ENABLE_THINKING[name], prompt_text=prompt)
        assert (result.reasoning, result.content) == ("", text)


@pytest.mark.parametrize("name", sorted(set(PARSERS) - set(OPENED_BY_THE_MODEL)))
def test_without_an_opening_marker_all_is_reasoning_up_to_the_closing_one(name):
    closing = markers(name)[1]
    result = parse(dialect(None, name), list(THOUGHTS + closing), enable_thinking=ENABLE_THINKING[name])
    assert (result.reasoning, result.content) == (THOUGHTS, "")
    result = parse(dialect(None, name), "No end", enable_thinking=ENABLE_THINKING[name])
    assert (result.reasoning, result.content) == ("No end", "")


@pytest.mark.parametrize("name", OPENED_BY_THE_MODEL)
def test_a_model_that_opens_its_sections_may_answer_at_once(name):
    for pieces in cuts("\n" + ANSWER):
        result = parse(dialect(None, name), pieces)
        assert (result.reasoning, result.content) == ("", "\n" + ANSWER)


@pytest.mark.parametrize("name", ["qwen3", "glm45", "deepseek_v3", "seed_oss", "kimi_k2", "nemotron_v3", "ernie45"])
def test_a_model_that_was_told_not_to_think_has_no_section(name):
    result = parse(dialect(None, name), "a" + markers(name)[1] + "b", enable_thinking=False)
    assert (result.reasoning, result.content) == ("", "a" + markers(name)[1] + "b")


def test_deepseek_thinks_only_if_it_is_told_to_and_r1_always():
    text = "a</think>b"
    assert parse(dialect(None, "deepseek_v3"), text).content == text
    assert parse(dialect(None, "deepseek_v3"), text, enable_thinking=True).reasoning == "a"
    assert parse(dialect(None, "deepseek_r1"), text, enable_thinking=False).reasoning == "a"


def test_identity_takes_nothing_for_reasoning():
    assert parse(dialect(None, "identity"), "<think>a</think>b").content == "<think>a</think>b"


@pytest.mark.parametrize("name", ["ernie45", "hunyuan_a13b"])
def test_tags_around_the_content_are_not_shown(name):
    tag = {"ernie45": "response", "hunyuan_a13b": "answer"}[name]
    for pieces in cuts(f"<think>\nhm\n</think>\n\n<{tag}>\nIt is 4.\n</{tag}>\n"):
        result = parse(dialect(None, name), pieces)
        assert (result.reasoning, result.content) == ("\nhm\n", "It is 4.")


PAIRS = [
    ("qwen3", "hermes"),
    ("qwen3", "qwen3_coder"),
    ("glm45", "glm45"),
    ("kimi_k2", "kimi_k2"),
    ("minimax_m2", "minimax_m2"),
    ("seed_oss", "seed_oss"),
    ("mistral", "mistral"),
    ("gemma4", "gemma4"),
    ("deepseek_r1", "deepseek_v3"),
    ("deepseek_v3", "deepseek_v32"),
    ("granite", "granite"),
    ("openai_gptoss", "openai"),
]
CALLS = [("get_weather", {"city": "Oslo", "days": 2}), ("now", {})]


@pytest.mark.parametrize(("reasoning", "tools"), PAIRS)
def test_calls_are_looked_for_only_behind_the_reasoning(reasoning, tools):
    opening, closing = markers(reasoning)
    calls = WRITERS[tools](CALLS)
    if tools == "openai":
        calls, closing = "<|end|><|start|>assistant" + calls, ""
    text = opening + "I might call f(): {[< " + closing + calls
    for pieces in cuts(text):
        result = parse(dialect(tools, reasoning), pieces, enable_thinking=True)
        assert (result.reasoning, result.content, result.parsed) == ("I might call f(): {[< ", "", CALLS)


ENDED_BY_CALLS = [
    pair for pair in PAIRS if getattr(REASONING_PARSERS[pair[0]], "call_starts", ()) and pair[1] in WRITERS
]


@pytest.mark.parametrize(("reasoning", "tools"), ENDED_BY_CALLS)
def test_a_call_ends_reasoning_that_was_not_closed(reasoning, tools):
    text = markers(reasoning)[0] + "I must look." + WRITERS[tools](CALLS)
    for pieces in cuts(text):
        result = parse(dialect(tools, reasoning), pieces)
        assert (result.reasoning, result.content, result.parsed) == ("I must look.", "", CALLS)
    result = parse(dialect(tools, reasoning), text, tool_choice="none")
    assert result.reasoning == text.removeprefix(markers(reasoning)[0]) and not result.calls


@pytest.mark.parametrize(("reasoning", "tools"), ENDED_BY_CALLS)
def test_calls_that_reasoning_only_mentions_do_not_end_it(reasoning, tools):
    opening, closing = markers(reasoning)
    calls, marker = WRITERS[tools](CALLS), REASONING_PARSERS[reasoning].call_starts[0]
    for thoughts in (f"I could write {marker} here.", f"Like {calls}, but no. ", f"{marker}{marker} {calls} {marker}"):
        text = opening + thoughts + closing + calls
        for pieces in cuts(text):
            result = parse(dialect(tools, reasoning), pieces)
            assert (result.reasoning, result.content, result.parsed) == (thoughts, "", CALLS)
    result = parse(dialect(tools, reasoning), list(f"{opening}Is it {marker}? {calls}"))
    assert (result.reasoning, result.content, result.parsed) == (f"Is it {marker}? ", "", CALLS)
    result = parse(dialect(tools, reasoning), list(f"{opening}Is it {marker}?"))
    assert (result.reasoning, result.content, result.calls) == (f"Is it {marker}?", "", ())


def test_what_closes_reasoning_may_stand_in_a_call_that_ends_it():
    calls = [("write", {"text": "<think>hm</think>"})]
    result = parse(dialect("hermes", "qwen3"), list("I write." + WRITERS["hermes"](calls)))
    assert (result.reasoning, result.parsed) == ("I write.", calls)


def test_tokens_of_reasoning_that_had_to_wait_are_counted():
    text = " a <tool_call> b"
    ids = [*TOKENIZER.encode("<think>" + text), *TOKENIZER.encode("</think>"), *TOKENIZER.encode("4")]
    for cut in range(len(ids) + 1):
        deltas = streamed([*ids, TOKENIZER.eos_token_id], cut, dialect("hermes", "qwen3"))
        num = len(TOKENIZER.encode("<think>" + text)) - len(TOKENIZER.encode("<think>"))
        assert sum(delta.num_reasoning_tokens for delta in deltas) == num
        assert "".join(delta.reasoning for delta in deltas) == text
        assert "".join(delta.text for delta in deltas) == "4"


@pytest.mark.parametrize(("reasoning", "tools"), [("mistral", "mistral"), ("gemma4", "gemma4")])
def test_thinking_may_come_again_between_calls(reasoning, tools):
    opening, closing = markers(reasoning)
    first, second = (WRITERS[tools]([call]) for call in CALLS)
    text = f"{opening}one {closing}Hi{first}{opening}two{closing}{second}"
    for pieces in cuts(text):
        result = parse(dialect(tools, reasoning), pieces)
        assert (result.reasoning, result.content, result.parsed) == ("one two", "Hi", CALLS)


def test_gpt_oss_thinks_between_calls_and_says_something_first():
    first, second = (WRITERS["openai"]([call]) for call in CALLS)
    text = (
        "<|channel|>analysis<|message|>one<|end|><|start|>assistant<|channel|>commentary<|message|>Hi<|end|>"
        f"<|start|>assistant{first}<|start|>assistant<|channel|>analysis<|message|>two<|end|><|start|>assistant{second}"
    )
    for pieces in cuts(text):
        result = parse(dialect("openai", "openai_gptoss"), pieces)
        assert (result.reasoning, result.content, result.parsed) == ("one\ntwo", "Hi", CALLS)


def test_gpt_oss_shows_its_final_channel():
    text = "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final <|constrain|>json<|message|>{}"
    for end in ("", "<|return|>"):
        result = parse(dialect("openai", "openai_gptoss"), list(text + end))
        assert (result.reasoning, result.content) == ("hm", "{}")


def test_reasoning_that_is_not_included_is_parsed_but_not_reported():
    bound = dialect("hermes", "qwen3").create_parser(output_spec(include_reasoning=False))
    for place in range(2):
        bound.mark_token_start(place)
    result = bound.feed("hm</think>Hi")
    assert (result.reasoning, result.content, result.num_reasoning_tokens) == ("", "Hi", 2)


def test_under_a_constraint_reasoning_that_is_not_wanted_does_not_happen():
    bound = dialect(None, "qwen3")
    for fields, inside in (({}, True), ({"include_reasoning": False}, None), ({"enable_thinking": False}, None)):
        format = output_spec(**fields)
        assert bound.starts_in_reasoning(format, is_constrained=True) is inside
        parse = bound.create_parser(format, is_constrained=True).feed("{}")
        assert parse.reasoning == ("{}" if inside else "")


TOKENIZER = make(byte_level_backend(), "<|im_end|>")


def streamed(ids, cut, bound, params=None, finish=FinishReason.STOP, **fields):
    """The deltas of one choice whose tokens come in two outputs."""
    params = params or SamplingParams(skip_special_tokens=False)
    parser = bound.create_parser(output_spec(**fields))
    stream = TextStream(TOKENIZER, params, [], 0, parser, bound.control_tokens)
    outputs = [TokenOutput(1, tuple(ids[:cut])), TokenOutput(1, tuple(ids[cut:]), finish_reason=finish)]
    return [delta for output in outputs if (delta := stream.push(output)) is not None]


def test_tokens_of_the_reasoning_are_counted_without_those_of_its_markers():
    opening, thoughts, closing, answer = (TOKENIZER.encode(part) for part in ("<think>", " hm 😀 the", "</think>", "4"))
    ids = [*opening, *thoughts, *closing, *answer, TOKENIZER.eos_token_id]
    for cut in range(len(ids) + 1):
        for stop in ((), ("never",)):
            deltas = streamed(ids, cut, dialect(None, "qwen3"), SamplingParams(stop=stop))
            assert sum(delta.num_reasoning_tokens for delta in deltas) == len(thoughts)
            assert "".join(delta.reasoning for delta in deltas) == " hm 😀 the"
            assert "".join(delta.text for delta in deltas) == "4"


@pytest.mark.parametrize("answer", ["4 😀", "\n\nIs it <tool_call>5</tool_call>?", '{"a": [1]} 4'])
def test_tokens_of_the_content_are_told_without_those_of_reasoning_markers_and_calls(answer):
    before, after = "<think> hm 😀 the</think>", WRITERS["hermes"](CALLS)
    ids = TOKENIZER.encode(before + answer + after)
    start, end = len(TOKENIZER.encode(before)), len(TOKENIZER.encode(before + answer))
    assert TOKENIZER.decode(ids[start:end]) == answer
    for cut in range(len(ids) + 1):
        deltas = streamed([*ids, TOKENIZER.eos_token_id], cut, dialect("hermes", "qwen3"))
        assert "".join(delta.text for delta in deltas) == answer
        assert [number for delta in deltas for number in delta.content_tokens] == [*range(start, end)]


def test_where_parsing_has_failed_all_that_follows_is_content(monkeypatch):
    ids, bound = TOKENIZER.encode("<think> hm </think>4 is it"), dialect(None, "qwen3")
    parser = bound.create_parser(output_spec())
    stream, numbers = TextStream(TOKENIZER, SamplingParams(), [], 0, parser), []
    for number, token_id in enumerate(ids):
        if number == len(ids) - 2:
            parser._give_up("on purpose")
        delta = stream.push(TokenOutput(1, (token_id,)))
        assert delta is not None and delta.content_tokens is not None
        numbers += delta.content_tokens
    assert numbers == [*range(len(TOKENIZER.encode("<think> hm </think>")), len(ids))]


def test_an_answer_that_never_ends_its_reasoning_is_counted_to_its_last_token():
    ids = TOKENIZER.encode("<think> hm 😀")
    for end in range(len(TOKENIZER.encode("<think>")), len(ids) + 1):
        deltas = streamed(ids[:end], end, dialect(None, "qwen3"), finish=FinishReason.LENGTH)
        assert sum(delta.num_reasoning_tokens for delta in deltas) == end - len(TOKENIZER.encode("<think>"))


def test_a_stop_string_within_a_call_leaves_what_of_it_had_begun_and_is_no_call_for_the_finish_reason():
    text = '<tool_call>{"name": "now", "arguments": {"a": "STOP"}}</tool_call>'
    ids, bound = TOKENIZER.encode(text), dialect("hermes", None)
    for stop, arguments in (
        ("ST", '{"a": "'),
        ('"a', ""),
        ('{"a', ""),
        ("arg", ""),
        ("ow", ""),
        ('"}}', '{"a": "STOP'),
    ):
        for cut in range(len(ids) + 1):
            deltas = streamed(ids, cut, bound, SamplingParams(stop=(stop,)))
            result = [call for delta in deltas for call in delta.tool_calls]
            assert (deltas[-1].finish_reason, deltas[-1].stop_reason) == ("stop", stop)
            assert "".join(call.arguments for call in result) == arguments
            assert "".join(delta.text for delta in deltas) == ("" if arguments else text.partition(stop)[0])
    for stop in ("</tool_call>", "}</"):
        assert streamed(ids, len(ids), bound, SamplingParams(stop=(stop,)))[-1].finish_reason == "tool_calls"


def test_special_tokens_that_are_markers_are_seen_although_they_are_hidden():
    ids = [TOKENIZER.backend.token_to_id("<|im_start|>"), *TOKENIZER.encode("hm<|im_start|>4")]
    backend = {"<|im_start|>": TOKENIZER.backend.token_to_id("<|im_start|>")}
    reasoning = REASONING_PARSERS["granite_thinking_parser"]
    odd = type(reasoning)(open=("<|im_start|>",), close=("<|im_start|>",), starts_inside=False)
    bound = OutputDialect.from_dialects(None, odd, backend)
    for cut in range(len(ids) + 1):
        deltas = streamed(ids, cut, bound, SamplingParams(), FinishReason.LENGTH)
        assert "".join(delta.reasoning for delta in deltas) == "hm"
        assert "".join(delta.text for delta in deltas) == "4"


def test_a_parser_changes_neither_tokens_nor_logprobs():
    ids = TOKENIZER.encode("hm</think>4")
    entries = tuple(PositionLogprobs(id, -1.0, 1) for id in ids)
    output = TokenOutput(1, tuple(ids), entries, finish_reason=FinishReason.LENGTH)
    params = SamplingParams(logprobs=0)
    plain = TextStream(TOKENIZER, params, [], 0).push(output)
    parser = dialect(None, "qwen3").create_parser(output_spec())
    taken = TextStream(TOKENIZER, params, [], 0, parser, {}).push(output)
    assert (taken.token_ids, taken.logprobs) == (plain.token_ids, plain.logprobs)
    assert plain.text == "hm</think>4" and (taken.reasoning, taken.text) == ("hm", "4")


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_cut_changes_the_reasoning(data):
    name = data.draw(st.sampled_from(PARSERS))
    parts = [
        *markers(name),
        *markers(name),
        "<tool_call>",
        "<",
        "</",
        "x",
        " ",
        "\n",
        "<|end|>",
        "[",
        "H",
        "Here is my",
        "é",
    ]
    text = "".join(data.draw(st.lists(st.sampled_from(parts), max_size=20)))
    bound = dialect(data.draw(st.sampled_from([None, *sorted(TOOL_PARSERS)])), name)
    whole = parse(bound, text, enable_thinking=ENABLE_THINKING[name])
    pieces = random_pieces(text, random.Random(data.draw(st.integers(0, 99))))
    assert parse(bound, pieces, enable_thinking=ENABLE_THINKING[name]) == whole
    assert parse(bound, list(text), enable_thinking=ENABLE_THINKING[name]) == whole
