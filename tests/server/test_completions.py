"""The completions route: prompts, echo, logprobs in parallel arrays, and the stream of all that."""

import pytest

from server.app import get_state
from tests.fake_llm import BOS, FakeLLM

KEYS = """
    id object created model choices service_tier system_fingerprint usage kv_transfer_params
    ec_transfer_params metrics
"""
CHOICE = """
    index text logprobs finish_reason stop_reason token_ids prompt_logprobs prompt_token_ids routed_experts
"""
A, B, C, D = (ord(one) for one in "abcd")


async def body_of(api, **fields):
    answer = await api.complete(**fields)
    assert answer.status == 200, answer.text
    return answer.json


async def test_all_keys_are_there_in_order(api):
    body = await body_of(api)
    assert list(body) == KEYS.split()
    assert list(body["choices"][0]) == CHOICE.split()
    assert body["object"] == "text_completion"
    assert body["id"].startswith("cmpl-")


async def test_what_does_not_apply_is_null(api):
    choice = (await body_of(api))["choices"][0]
    assert [choice[key] for key in CHOICE.split() if key not in ("index", "text", "finish_reason")] == [None] * 6


@pytest.mark.parametrize(
    ("prompt", "ids"),
    [
        ("ab", [[BOS, A, B]]),
        (["ab", "c"], [[BOS, A, B], [BOS, C]]),
        ([A, B], [[A, B]]),
        ([[A, B], [C]], [[A, B], [C]]),
    ],
)
async def test_the_four_forms_of_a_prompt(api, prompt, ids):
    body = await body_of(api, prompt=prompt)
    assert sorted(call.prompt_ids for call in api.llm.calls) == sorted(tuple(one) for one in ids)
    assert body["usage"]["prompt_tokens"] == sum(len(one) for one in ids)


async def test_special_tokens_can_be_left_out(api):
    await body_of(api, add_special_tokens=False)
    assert api.llm.calls[-1].prompt_ids == (A, B)


async def test_choices_are_numbered_over_all_prompts(make_api):
    body = await body_of(make_api(["x"], ["y"]), prompt=["a", "b"], n=2)
    assert [(one["index"], one["text"]) for one in body["choices"]] == [(0, "x"), (1, "y"), (2, "x"), (3, "y")]
    assert body["usage"]["completion_tokens"] == 4


async def test_16_tokens_by_default(api):
    for fields in ({}, {"max_tokens": None}, {"max_completion_tokens": 3}):
        await body_of(api, **fields)
        assert api.llm.calls[-1].params.max_tokens == 16
    await body_of(api, max_tokens=64)
    assert api.llm.calls[-1].params.max_tokens == 61


@pytest.mark.parametrize(
    "prompt",
    [
        None,
        "",
        [],
        [[]],
        ["a", ""],
        ["a", 1],
        [[1], "a"],
        [1, "a"],
        [[1], []],
        [[1.5]],
        [True],
        {},
        [-1],
        [1000],
        [[5], [1000]],
        ["a"] * 1025,
        "x" * 65,
        [5] * 64,
        ["a", "x" * 64],
    ],
    ids=lambda prompt: str(prompt)[:20],
)
async def test_a_prompt_that_cannot_be_served_is_a_400_before_anything_runs(api, prompt):
    answer = await api.complete(prompt=prompt)
    assert (answer.status, answer.error["param"].removeprefix("body.")) == (400, "prompt")
    assert not api.llm.calls


async def test_an_id_out_of_vocabulary_is_named(api):
    message = (await api.complete(prompt=[[5, 1000]])).error["message"]
    assert "1000" in message and "out of vocabulary" in message


async def test_a_missing_prompt_is_400(api):
    answer = await api.post("/v1/completions", {"max_tokens": 1})
    assert (answer.status, answer.error["param"]) == (400, "prompt")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 65}, "max_tokens"),
        ({"suffix": "x"}, "suffix"),
        ({"prompt_embeds": "x"}, "prompt_embeds"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": -1}, "logprobs"),
        ({"logprobs": -2}, "logprobs"),
        ({"prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
        ({"use_beam_search": True, "stream": True}, "use_beam_search"),
        ({"use_beam_search": True, "echo": True, "logprobs": 0}, "use_beam_search"),
        ({"use_beam_search": True, "prompt_logprobs": 0}, "prompt_logprobs"),
        ({"n": 0}, "n"),
        ({"stop": ""}, "stop"),
        ({"thinking_token_budget": 5}, "thinking_token_budget"),
        ({"logprobs": 1, "logprob_token_ids": [1000]}, "logprob_token_ids"),
        ({"logprobs": 1, "logprob_token_ids": [5] * 129}, "logprob_token_ids"),
        ({"logprobs": 1, "logprob_token_ids": [5], "use_beam_search": True}, "logprob_token_ids"),
    ],
    ids=str,
)
async def test_a_wrong_value_is_a_400_naming_the_field(api, fields, param):
    answer = await api.complete(**fields)
    assert (answer.status, answer.error["type"], answer.error["param"]) == (400, "BadRequestError", param)


async def test_chats_own_fields_are_unknown_here(api):
    await body_of(api, best_of=3, tools=[], messages=3, reasoning_effort="x", top_logprobs="x")


class TestLogprobs:
    async def arrays(self, api, **fields):
        return (await body_of(api, max_tokens=3, **fields))["choices"][0]["logprobs"]

    async def test_four_parallel_arrays(self, api):
        assert await self.arrays(api, logprobs=1) == {
            "text_offset": [0, 1, 2],
            "token_logprobs": [-1.0, -1.0, -1.0],
            "tokens": ["H", "e", "l"],
            "top_logprobs": [{"H": -1.0, "G": -0.5}, {"e": -1.0, "d": -0.5}, {"l": -1.0, "k": -0.5}],
        }

    async def test_k_or_k_plus_one_alternatives(self, api):
        """The token stands in second place, so of two it is one."""
        assert [len(one) for one in (await self.arrays(api, logprobs=2))["top_logprobs"]] == [2] * 3
        assert [len(one) for one in (await self.arrays(api, logprobs=0))["top_logprobs"]] == [1] * 3

    async def test_booleans_count_as_numbers(self, api):
        assert (await self.arrays(api, logprobs=True))["top_logprobs"][0] == {"H": -1.0, "G": -0.5}
        assert (await self.arrays(api, logprobs=False))["top_logprobs"][0] == {"H": -1.0}

    async def test_ids_that_are_asked_for_stand_beside_the_token_and_the_best(self, api):
        wanted = {"logprob_token_ids": [ord(one) for one in "zH"]}
        for k, keys in ((0, "Hz"), (1, "HGz"), (2, "HGz")):
            assert list((await self.arrays(api, logprobs=k, **wanted))["top_logprobs"][0]) == list(keys)
        alone = await api.complete(**wanted)
        assert (alone.status, alone.error["param"]) == (400, "logprob_token_ids")

    async def test_tokens_as_ids(self, api):
        arrays = await self.arrays(api, logprobs=0, return_tokens_as_token_ids=True)
        assert arrays["tokens"][0] == "token_id:72"
        assert arrays["text_offset"] == [0, 11, 23]


class TestEcho:
    async def test_a_text_comes_back_as_it_was_sent(self, api):
        assert (await body_of(api, echo=True))["choices"][0]["text"] == "abHello world"

    async def test_ids_come_back_decoded(self, api):
        body = await body_of(api, prompt=[BOS, A], echo=True)
        assert body["choices"][0]["text"] == "<1>aHello world"

    async def test_the_prompts_logprobs_stand_in_front(self, api):
        arrays = (await body_of(api, prompt=[A, B], echo=True, logprobs=1, max_tokens=1))["choices"][0]["logprobs"]
        assert arrays == {
            "text_offset": [0, 1, 2],
            "token_logprobs": [None, -1.0, -1.0],
            "tokens": ["a", "b", "H"],
            "top_logprobs": [None, {"b": -1.0, "a": -0.5}, {"H": -1.0, "G": -0.5}],
        }

    async def test_nothing_is_generated_for_zero_tokens(self, api):
        body = await body_of(api, prompt=[A, B], echo=True, logprobs=1, max_tokens=0)
        choice = body["choices"][0]
        assert (choice["text"], choice["finish_reason"]) == ("ab", "length")
        assert choice["logprobs"]["tokens"] == ["a", "b"]
        assert body["usage"]["completion_tokens"] == 0
        assert api.llm.calls[-1].params.echo_only

    async def test_token_ids_cover_the_output_alone(self, api):
        choice = (await body_of(api, echo=True, return_token_ids=True, max_tokens=1))["choices"][0]
        assert (choice["prompt_token_ids"], choice["token_ids"]) == ([BOS, A, B], [ord("H")])

    async def test_every_choice_has_its_prompts_logprobs(self, make_api):
        body = await body_of(make_api(["x"], ["y"]), prompt=[[A, B], [C, D]], n=2, echo=True, logprobs=0)
        assert [one["logprobs"]["tokens"] for one in body["choices"]] == [
            ["a", "b", "x"],
            ["a", "b", "y"],
            ["c", "d", "x"],
            ["c", "d", "y"],
        ]


async def test_prompt_logprobs_live_in_the_choice(api):
    choice = (await body_of(api, prompt=[A, B], prompt_logprobs=0, echo=True, logprobs=2))["choices"][0]
    assert choice["prompt_logprobs"] == [None, {str(B): {"logprob": -1.0, "rank": 2, "decoded_token": "b"}}]


async def test_cached_tokens_sum_over_prompts(make_api):
    llm = FakeLLM()
    llm.cached_tokens = 1
    api = make_api(llm=llm)
    usage = (await body_of(api, prompt=["a", "b"]))["usage"]
    assert usage["prompt_tokens_details"] == {"cached_tokens": 2}


async def test_one_failing_prompt_fails_all(api):
    api.llm.fail_at, api.llm.generate_error = 0, ValueError()
    assert (await api.complete(prompt=["a", "b"])).status == 500
    assert len(get_state(api.app).slots) == 0


class TestStream:
    async def events(self, api, **fields):
        answer = await api.complete(stream=True, **fields)
        assert answer.status == 200, answer.text
        return answer.events

    async def test_the_form_of_a_chunk(self, api):
        (event,) = await self.events(api)
        assert list(event) == ["id", "object", "created", "model", "choices", "system_fingerprint"]
        assert event["choices"] == [
            {"index": 0, "text": "Hello world", "logprobs": None, "finish_reason": "stop", "stop_reason": None}
        ]

    async def test_streamed_is_whole(self, make_api):
        fields = {"prompt": [[A, B], [C]], "n": 2, "echo": True, "logprobs": 1, "return_token_ids": True}
        api = make_api(["x", "y"], ["z"])
        whole = await body_of(api, **fields)
        *events, last = await self.events(api, stream_options={"include_usage": True}, **fields)
        assert last["usage"] == whole["usage"]
        for expected in whole["choices"]:
            own = [one["choices"][0] for one in events if one["choices"][0]["index"] == expected["index"]]
            assert "".join(one["text"] for one in own) == expected["text"]
            assert [one for choice in own for one in choice["token_ids"]] == expected["token_ids"]
            assert own[0]["prompt_token_ids"] == expected["prompt_token_ids"]
            for key, values in expected["logprobs"].items():
                assert [one for choice in own for one in choice["logprobs"][key]] == values

    async def test_usage_of_each_chunk_is_its_choices(self, make_api):
        options = {"include_usage": True, "continuous_usage_stats": True}
        *events, last = await self.events(make_api(["x"], ["yz"]), prompt=["a", "bc"], n=2, stream_options=options)
        counts = {one["choices"][0]["index"]: one["usage"] for one in events}
        assert [counts[index]["completion_tokens"] for index in range(4)] == [1, 2, 1, 2]
        assert [counts[index]["prompt_tokens"] for index in range(4)] == [2, 2, 3, 3]
        assert (last["choices"], last["usage"]["total_tokens"]) == ([], 11)
