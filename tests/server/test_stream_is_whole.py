"""Whatever is asked for, the pieces of a stream add up to the whole answer, and every chunk has the contract's form."""

from itertools import groupby

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxserve import ToolCallDelta
from tests.fake_llm import FakeLLM, Piece
from tests.server.api import Api

many = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
texts = st.lists(st.text("ab\u00e9 \U0001f600\x85\u2028\u2029\x0b\x1c\r\n", max_size=4), min_size=1, max_size=5)
options = st.none() | st.fixed_dictionaries(
    {}, optional={"include_usage": st.sampled_from([True, False, None]), "continuous_usage_stats": st.booleans()}
)
shared = {
    "n": st.integers(1, 3),
    "max_tokens": st.integers(1, 12),
    "return_token_ids": st.booleans(),
    "return_tokens_as_token_ids": st.booleans(),
    "stream_interval": st.integers(1, 4),
    "truncate_prompt_tokens": st.sampled_from([-1, 2, 9]),
    "echo": st.booleans(),
}
goes_on = {
    "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": ["So", "it"]}],
    "add_generation_prompt": False,
}
wanted = st.lists(st.sampled_from([97, 98, 233]), max_size=4)
chats = st.fixed_dictionaries(
    {}, optional=shared | {"logprobs": st.booleans(), "top_logprobs": st.just(0)}
) | st.fixed_dictionaries(
    {"logprobs": st.just(True), "top_logprobs": st.integers(0, 3)}, optional=shared | {"logprob_token_ids": wanted}
)
prompts = st.sampled_from(["ab", ["ab", "c"], [97, 98], [[97, 98], [99]]])
completions = st.fixed_dictionaries({"prompt": prompts}, optional=shared | {"logprobs": st.integers(0, 3)})


async def both(pieces, ask, fields, usage, parsers=None, **config):
    """The whole answer, and the chunks of the same request as a stream."""
    whole = await ask(Api(FakeLLM(*pieces, **parsers or {}), **config), **fields)
    stream = await ask(Api(FakeLLM(*pieces, **parsers or {}), **config), **fields, stream=True, stream_options=usage)
    assert (whole.status, stream.status) == (200, 200), whole.text + stream.text
    events = stream.events
    if (usage or {}).get("include_usage"):
        *events, last = events
        assert (last["choices"], last["usage"]) == ([], whole.json["usage"])
        assert last["system_fingerprint"] == whole.json["system_fingerprint"]
    check_frame(events, usage or {})
    return whole.json, events


def check_frame(events, usage):
    assert len({(one["id"], one["created"], one["model"], one["object"]) for one in events}) == 1
    for event in events:
        (choice,) = event["choices"]
        assert {"index", "logprobs", "finish_reason"} <= set(choice)
        assert ("usage" in event) == bool(usage.get("include_usage") and usage.get("continuous_usage_stats"))
        is_end = choice["finish_reason"] is not None and not usage.get("include_usage")
        assert ("system_fingerprint" in event) == is_end


def by_choice(events):
    """Each choice's chunks in order; only the last of them has a finish_reason."""
    choices = sorted((event["choices"][0] for event in events), key=lambda choice: choice["index"])
    for _, group in groupby(choices, key=lambda choice: choice["index"]):
        own = list(group)
        assert [bool(one["finish_reason"]) for one in own] == [False] * (len(own) - 1) + [True]
        yield own


def joined(own, key):
    return [one for choice in own for one in choice.get(key) or []]


@many
@given(pieces=st.lists(texts, min_size=1, max_size=3), fields=chats, usage=options, is_continued=st.booleans())
async def test_a_chat(pieces, fields, usage, is_continued):
    whole, events = await both(pieces, Api.chat, fields | (goes_on if is_continued else {}), usage)
    n = fields.get("n", 1)
    roles = [event["choices"][0] for event in events[:n]]
    assert [(one["index"], one["delta"]) for one in roles] == [
        (index, {"role": "assistant", "content": ""}) for index in range(n)
    ]
    for event in events:
        is_role = "role" in event["choices"][0]["delta"]
        assert event.get("prompt_token_ids") == (whole["prompt_token_ids"] if is_role else None)
        if is_role and "usage" in event:
            assert event["usage"]["completion_tokens"] == 0
    for own, expected in zip(by_choice(events), whole["choices"], strict=True):
        assert "".join(one["delta"].get("content", "") for one in own) == expected["message"]["content"]
        assert (own[-1]["finish_reason"], own[-1]["stop_reason"]) == (
            expected["finish_reason"],
            expected["stop_reason"],
        )
        assert joined(own, "token_ids") == (expected["token_ids"] or [])
        entries = [one for choice in own for one in (choice["logprobs"] or {"content": []})["content"]]
        assert entries == (expected["logprobs"] or {"content": []})["content"]


@st.composite
def answers(draw):
    """Reasoning, then content, then calls, each in some pieces, and pieces that stand on a border."""
    said = [Piece(reasoning=piece) for piece in draw(st.lists(st.text("th \u00e9", max_size=3), max_size=3))]
    said += [Piece(draw(st.text(" c", max_size=2)), draw(st.text("t", max_size=2)))]
    said += [Piece(piece) for piece in draw(st.lists(st.text("c \n", max_size=3), max_size=3))]
    for index in range(draw(st.integers(0, 2))):
        said.append(Piece(calls=(ToolCallDelta(index, draw(st.sampled_from(["", "{"])), f"id{index}", "f"),)))
        said += [Piece(calls=(ToolCallDelta(index, one),)) for one in draw(st.lists(st.text('"a\u00e9', max_size=3)))]
    return said


TOOL = {"type": "function", "function": {"name": "f"}}
choices = st.sampled_from(["auto", "required", {"type": "function", "function": {"name": "f"}}])
read = {"tool_choice": choices, "include_reasoning": st.booleans(), "logprobs": st.booleans()}


@many
@given(
    pieces=st.lists(answers(), min_size=1, max_size=2),
    fields=st.fixed_dictionaries({"tools": st.just([TOOL])}, optional=shared | read),
    usage=options,
    is_legacy=st.booleans(),
)
async def test_a_chat_of_thoughts_and_calls(pieces, fields, usage, is_legacy):
    parsers = {"tool_parser": "hermes", "reasoning_parser": "qwen3"}
    whole, events = await both(pieces, Api.chat, fields, usage, parsers, legacy_reasoning_content=is_legacy)
    for own, expected in zip(by_choice(events), whole["choices"], strict=True):
        message = expected["message"]
        for key in ("reasoning", "reasoning_content"):
            assert (key in message) == (key == "reasoning" or is_legacy)
            assert "".join(one["delta"].get(key, "") for one in own) == (message.get(key) or "")
        text = "".join(one["delta"].get("content", "") for one in own)
        content = message["content"] or ""
        may_lack_blanks = message["content"] is None or "tool_calls" in message  # which real readers keep back
        assert text == content or (may_lack_blanks and not text.removeprefix(content).strip())
        assert calls_of(own) == message.get("tool_calls", [])
        assert (own[-1]["finish_reason"], own[-1]["stop_reason"]) == (
            expected["finish_reason"],
            expected["stop_reason"],
        )
        assert joined(own, "token_ids") == (expected["token_ids"] or [])
        entries = [one for choice in own for one in (choice["logprobs"] or {"content": []})["content"]]
        assert entries == (expected["logprobs"] or {"content": []})["content"]


def calls_of(own):
    """The calls that the deltas of one choice make: their first pieces have all keys, later ones more arguments."""
    calls = []
    for piece in [piece for one in own for piece in one["delta"].get("tool_calls", [])]:
        if piece["index"] == len(calls):
            assert list(piece) == ["index", "id", "type", "function"]
            calls.append({key: piece[key] for key in ("id", "type")} | {"function": dict(piece["function"])})
        else:
            assert (list(piece), list(piece["function"])) == (["index", "function"], ["arguments"])
            assert piece["index"] == len(calls) - 1
            calls[-1]["function"]["arguments"] += piece["function"]["arguments"]
    return calls


@many
@given(pieces=st.lists(texts, min_size=1, max_size=3), fields=completions, usage=options)
async def test_a_completion(pieces, fields, usage):
    whole, events = await both(pieces, Api.complete, fields, usage)
    for own, expected in zip(by_choice(events), whole["choices"], strict=True):
        assert "".join(one["text"] for one in own) == expected["text"]
        assert (own[-1]["finish_reason"], own[-1]["stop_reason"]) == (
            expected["finish_reason"],
            expected["stop_reason"],
        )
        assert joined(own, "token_ids") == (expected["token_ids"] or [])
        assert [one.get("prompt_token_ids") for one in own] == [expected["prompt_token_ids"]] + [None] * (len(own) - 1)
        for key, values in (expected["logprobs"] or {}).items():
            assert [one for choice in own for one in choice["logprobs"][key]] == values
