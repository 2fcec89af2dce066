"""/v1/completions: what is its own there."""

import pytest

from tests.end_to_end.contract.api_client import COMPLETIONS, DEFAULTS, PROMPT, VOCABULARY, check_error, parse_stream

pytestmark = pytest.mark.assets


def refused(ask, **fields):
    return check_error(ask.post(COMPLETIONS, {"prompt": PROMPT} | DEFAULTS | fields))


def streamed(ask, **fields):
    return parse_stream(ask.post(COMPLETIONS, {"prompt": PROMPT, "stream": True} | DEFAULTS | fields))


def test_the_keys_of_an_answer(ask):
    reply = ask.complete()
    assert list(reply) == [
        *("id", "object", "created", "model", "choices", "service_tier", "system_fingerprint", "usage"),
        *("kv_transfer_params", "ec_transfer_params", "metrics"),
    ]
    assert reply["object"] == "text_completion" and reply["id"].startswith("cmpl-")
    assert list(reply["choices"][0]) == [
        *("index", "text", "logprobs", "finish_reason", "stop_reason", "token_ids"),
        *("prompt_logprobs", "prompt_token_ids", "routed_experts"),
    ]


@pytest.mark.parametrize(
    "prompt",
    [
        *(None, "", [], [[]], ["a", ""], [[1], []], ["a", 1], [1, "a"], [[1], "a"]),
        *([-1], [VOCABULARY], [[1], [VOCABULARY]], [1.5], [True], ["a"] * 1025),
    ],
    ids=lambda prompt: str(prompt)[:20],
)
def test_a_prompt_that_cannot_be(ask, prompt):
    assert refused(ask, prompt=prompt)["param"] == "prompt"


def test_an_id_out_of_the_vocabulary_is_named(ask):
    message = refused(ask, prompt=[VOCABULARY + 3])["message"]
    assert str(VOCABULARY + 3) in message and "vocabulary" in message


@pytest.mark.parametrize("fields", [{"suffix": "x"}, {"prompt_embeds": "x"}, {"max_tokens": 0}, {"max_tokens": -1}])
def test_what_is_not_done(ask, fields):
    assert refused(ask, **fields)["param"] == next(iter(fields))


def test_sixteen_tokens_unless_told(ask):
    assert ask.complete(max_tokens=None, ignore_eos=True)["usage"]["completion_tokens"] == 16
    reply = ask.complete(max_completion_tokens=1, ignore_eos=True)
    assert reply["usage"]["completion_tokens"] == 3, "a field of chat alone"


def test_choices_of_several_prompts_are_numbered_through(ask):
    prompts = ["The sky", "A dog ran"]
    reply = ask.complete(prompt=prompts, n=2, temperature=1, seed=3)
    assert [choice["index"] for choice in reply["choices"]] == [0, 1, 2, 3]
    alone = [ask.complete(prompt=prompt) for prompt in prompts]
    both = ask.complete(prompt=prompts)
    assert [choice["text"] for choice in both["choices"]] == [one["choices"][0]["text"] for one in alone]
    assert both["usage"]["prompt_tokens"] == sum(one["usage"]["prompt_tokens"] for one in alone)


def test_logprobs_are_four_arrays(ask):
    for k in (0, 2, True):
        arrays = ask.complete(logprobs=k)["choices"][0]["logprobs"]
        assert set(arrays) == {"tokens", "token_logprobs", "top_logprobs", "text_offset"}
        tokens = arrays["tokens"]
        assert arrays["text_offset"] == [len("".join(tokens[:n])) for n in range(3)]
        for token, value, top in zip(tokens, arrays["token_logprobs"], arrays["top_logprobs"], strict=True):
            assert top[token] == value and len(top) == max(int(k), 1)
    assert ask.complete()["choices"][0]["logprobs"] is None
    for wrong in (21, -1, -2):
        assert refused(ask, logprobs=wrong)["param"] == "logprobs"


def test_an_echo_of_nothing_generated_scores_the_prompt(ask):
    reply = ask.complete(echo=True, max_tokens=0, logprobs=1)
    choice = reply["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == (PROMPT, "length")
    assert reply["usage"]["completion_tokens"] == 0
    arrays = choice["logprobs"]
    assert arrays["token_logprobs"][0] is arrays["top_logprobs"][0] is None
    assert len(arrays["tokens"]) == reply["usage"]["prompt_tokens"]
    chunks = [chunk["choices"][0] for chunk in streamed(ask, echo=True, max_tokens=0, logprobs=1)]
    assert "".join(chunk["text"] for chunk in chunks) == PROMPT and chunks[-1]["finish_reason"] == "length"


def test_an_echo_stands_in_front(ask):
    plain, echoed = ask.complete(), ask.complete(echo=True, return_token_ids=True)
    assert echoed["choices"][0]["text"] == PROMPT + plain["choices"][0]["text"]
    assert echoed["usage"]["completion_tokens"] == len(echoed["choices"][0]["token_ids"]) == 3
    assert ask.complete(prompt=[2, 260], echo=True)["choices"][0]["text"].startswith("<|im_end|>")
    cut = ask.complete(prompt="One two three four", echo=True, truncate_prompt_tokens=2, max_tokens=0)
    assert cut["choices"][0]["text"] == " three four"


def test_a_stream_is_the_whole_answer(ask):
    whole = ask.complete(echo=True, logprobs=1)["choices"][0]
    *chunks, last = streamed(ask, echo=True, logprobs=1, stream_options={"include_usage": True})
    choices = [chunk["choices"][0] for chunk in chunks]
    assert list(choices[0]) == ["index", "text", "logprobs", "finish_reason", "stop_reason"]
    assert choices[0]["text"].startswith(PROMPT) and "".join(one["text"] for one in choices) == whole["text"]
    for key in ("tokens", "text_offset"):
        assert [one for choice in choices for one in choice["logprobs"][key]] == whole["logprobs"][key]
    assert last["choices"] == [] and last["usage"]["completion_tokens"] == 3


def test_the_first_chunk_of_each_choice_tells_the_prompt(ask):
    seen: set[int] = set()
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = streamed(ask, prompt=[[260, 300], [500]], return_token_ids=True, stream_options=options)
    for chunk in chunks[:-1]:
        choice = chunk["choices"][0]
        assert ("prompt_token_ids" in choice) == (choice["index"] not in seen)
        assert chunk["usage"]["prompt_tokens"] == (2, 1)[choice["index"]]
        seen.add(choice["index"])
    assert chunks[-1]["usage"]["prompt_tokens"] == 3


def test_prompt_logprobs_live_in_the_choice(ask):
    reply = ask.complete(prompt_logprobs=1)
    table = reply["choices"][0]["prompt_logprobs"]
    assert "prompt_logprobs" not in reply and table[0] is None and len(table) == reply["usage"]["prompt_tokens"]
    assert refused(ask, prompt_logprobs=1, stream=True)["param"] == "prompt_logprobs"
