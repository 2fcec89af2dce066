"""A stream, chunk by chunk."""

import pytest

from tests.end_to_end.contract.api_client import FOX, HELLO, check_error, merge_content

pytestmark = pytest.mark.assets
USAGE = {"include_usage": True}
ANSWERED = [*HELLO, {"role": "assistant", "content": "X1"}]


def test_role_then_deltas_then_end(ask):
    chunks = ask.stream(FOX, max_tokens=4, logprobs=True)
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    choices = [chunk["choices"][0] for chunk in chunks]
    assert choices[0] == {
        "index": 0,
        "delta": {"role": "assistant", "content": ""},
        "logprobs": None,
        "finish_reason": None,
    }
    for choice in choices[1:]:
        assert list(choice)[:4] == ["index", "delta", "logprobs", "finish_reason"] and "role" not in choice["delta"]
    assert [choice["finish_reason"] for choice in choices] == [None] * (len(choices) - 1) + ["length"]
    assert "stop_reason" in choices[-1] and "system_fingerprint" in chunks[-1]
    for chunk in chunks[:-1]:
        assert not chunk.keys() & {"usage", "system_fingerprint", "prompt_token_ids"}


def test_a_stream_is_the_whole_answer(ask):
    fields = {"max_tokens": 20, "temperature": 1, "seed": 11, "logprobs": True, "top_logprobs": 2}
    whole, chunks = ask.choice(FOX, **fields, return_token_ids=True), ask.stream(FOX, **fields, return_token_ids=True)
    assert merge_content(chunks) == whole["message"]["content"]
    choices = [chunk["choices"][0] for chunk in chunks]
    assert [one for choice in choices for one in choice.get("token_ids") or []] == whole["token_ids"]
    told = [one["token"] for choice in choices for one in (choice["logprobs"] or {"content": []})["content"]]
    assert told == [one["token"] for one in whole["logprobs"]["content"]]
    assert (choices[-1]["finish_reason"], choices[-1]["stop_reason"]) == (whole["finish_reason"], whole["stop_reason"])


def test_return_token_ids_tells_the_prompts_with_the_role_alone(ask):
    first, *others = ask.stream(FOX, return_token_ids=True)
    assert first["prompt_token_ids"] == ask.prompt_ids(FOX) and not first["choices"][0].get("token_ids")
    assert not any("prompt_token_ids" in chunk for chunk in others)


def test_include_usage_adds_one_chunk(ask):
    *chunks, last = ask.stream(FOX, temperature=1, n=2, ignore_eos=True, stream_options=USAGE)
    assert last["choices"] == [] and last["usage"]["completion_tokens"] == 6
    assert list(last["usage"]["prompt_tokens_details"]) == ["cached_tokens"]
    assert last["system_fingerprint"] == ask.chat()["system_fingerprint"]
    assert not any(chunk.keys() & {"usage", "system_fingerprint"} for chunk in chunks)


def test_continuous_usage_stats_count_as_they_go_beside_include_usage_alone(ask):
    chunks = ask.stream(FOX, max_tokens=4, stream_options=USAGE | {"continuous_usage_stats": True})
    counted = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counted[0] == 0 and counted == sorted(counted) and counted[-2:] == [4, 4]
    assert not any("usage" in chunk for chunk in ask.stream(FOX, stream_options={"continuous_usage_stats": True}))


@pytest.mark.parametrize("options", [{"include_usage": True}, {"include_usage": False}, {"other": 1}])
def test_stream_options_without_a_stream(ask, options):
    assert check_error(ask.ask(stream_options=options))["param"] == "stream_options"
    ask.chat(stream_options={})


def test_stream_interval_gathers_tokens(ask):
    chunks = ask.stream(FOX, max_tokens=12, stream_interval=4, return_token_ids=True, ignore_eos=True)
    sizes = [len(chunk["choices"][0].get("token_ids") or []) for chunk in chunks]
    assert sum(sizes) == 12 and all(size >= 4 for size in sizes[2:-1])
    assert check_error(ask.ask(stream_interval=0))["param"] == "stream_interval"


def test_an_echo_is_a_chunk_for_each_choice_behind_all_roles(ask):
    options = USAGE | {"continuous_usage_stats": True}
    chunks = ask.stream(ANSWERED, echo=True, n=2, temperature=1, logprobs=True, stream_options=options)
    opening = [(chunk["choices"][0]["index"], chunk["choices"][0]["delta"]) for chunk in chunks[:4]]
    role = {"role": "assistant", "content": ""}
    assert opening == [(0, role), (1, role), (0, {"content": "X1"}), (1, {"content": "X1"})]
    for chunk in chunks[:4]:
        assert chunk["choices"][0]["logprobs"] is None and chunk["usage"]["completion_tokens"] == 0


def test_the_bytes_are_plain_events(ask):
    reply = ask.ask(stream=True)
    assert (reply.headers["cache-control"], reply.headers["x-accel-buffering"]) == ("no-cache", "no")
    assert "content-length" not in reply.headers and "\r" not in reply.text
    assert reply.text.endswith("}\n\ndata: [DONE]\n\n") and '": ' not in reply.text.split("\n\n")[0][6:]
