"""The whole answer of the chat route: keys, their order, and what stands in them."""

from dataclasses import replace

import pytest

from tests.fake_llm import FakeLLM
from tests.server.api import CHAT

KEYS = """
    id object created model choices service_tier system_fingerprint usage prompt_logprobs prompt_token_ids
    kv_transfer_params ec_transfer_params metrics
"""
CHOICE = ["index", "message", "logprobs", "finish_reason", "stop_reason", "token_ids", "routed_experts"]
MESSAGE = ["role", "content", "refusal", "annotations", "audio", "function_call", "reasoning"]
PROMPT = [ord(one) for one in "u:Hi|"]


async def test_all_keys_are_there_in_order(api):
    body = (await api.chat()).json
    assert list(body) == KEYS.split()
    assert list(body["choices"][0]) == CHOICE
    assert list(body["choices"][0]["message"]) == MESSAGE
    assert body["object"] == "chat.completion"


async def test_what_does_not_apply_is_null(api):
    body = (await api.chat()).json
    choice = body["choices"][0]
    assert {body[key] for key in ("service_tier", *KEYS.split()[-5:])} == {None}
    assert [choice[key] for key in ("logprobs", "stop_reason", "token_ids", "routed_experts")] == [None] * 4
    assert [choice["message"][key] for key in MESSAGE[2:]] == [None] * 5


async def test_the_text_and_its_end(api):
    choice = (await api.chat()).json["choices"][0]
    assert choice["message"]["content"] == "Hello world"
    assert choice["finish_reason"] == "stop"
    assert (await api.chat(max_tokens=4)).json["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("reason", [7, "END"])
async def test_the_stop_reason_is_the_string_or_the_id(api, reason):
    api.llm.stop_reason = reason
    assert (await api.chat()).json["choices"][0]["stop_reason"] == reason


async def test_choices_are_sorted_and_the_prompt_counts_once(make_api):
    body = (await make_api(["ab"], ["c", "d"], ["e"]).chat(n=3)).json
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    assert [choice["message"]["content"] for choice in body["choices"]] == ["ab", "cd", "e"]
    assert (body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]) == (5, 5)


async def test_usage_shows_cached_tokens_unless_told_not_to(make_api):
    llm = FakeLLM()
    llm.cached_tokens = 4
    usage = (await make_api(llm=llm).chat()).json["usage"]
    assert usage == {
        "prompt_tokens": 5,
        "completion_tokens": 11,
        "total_tokens": 16,
        "prompt_tokens_details": {"cached_tokens": 4},
    }
    hidden = await make_api(llm=llm, enable_prompt_tokens_details=False).chat()
    assert hidden.json["usage"]["prompt_tokens_details"] is None


class QueuingLLM(FakeLLM):
    """Its second choice starts when the first has computed the prompt, and finds that."""

    def _choice(self, index, call):
        first, *others = super()._choice(index, call)
        return [replace(first, num_cached_tokens=4 * index), *others]


@pytest.mark.parametrize("stream", [False, True])
async def test_what_a_choice_finds_of_another_one_was_not_cached(make_api, stream):
    options = {"stream_options": {"include_usage": True}} if stream else {}
    reply = await make_api(llm=QueuingLLM()).chat(n=2, stream=stream, **options)
    usage = (reply.events[-1] if stream else reply.json)["usage"]
    assert usage["prompt_tokens_details"] == {"cached_tokens": 0}


class TestId:
    path = "/v1/chat/completions"

    async def test_it_is_random_by_default(self, api):
        first, second = [(await api.chat()).json["id"] for _ in range(2)]
        assert first != second
        assert first.startswith("chatcmpl-") and len(first) == len("chatcmpl-") + 16
        assert int(first.removeprefix("chatcmpl-"), 16) >= 0

    async def test_the_bodys_id_is_taken(self, api):
        assert (await api.chat(request_id="mine")).json["id"] == "chatcmpl-mine"

    async def test_the_header_wins(self, api):
        answer = await api.post(self.path, {**CHAT, "request_id": "mine"}, headers={"X-Request-Id": "its"})
        assert answer.json["id"] == "chatcmpl-its"
        assert "X-Request-Id" not in answer.headers

    async def test_it_is_echoed_as_a_header_on_demand(self, make_api):
        api = make_api(enable_request_id_headers=True)
        assert (await api.post(self.path, CHAT, headers={"X-Request-Id": "its"})).headers["X-Request-Id"] == "its"
        assert len((await api.get("/health")).headers["X-Request-Id"]) == 32


@pytest.mark.parametrize(
    ("config", "shown"),
    [({"fingerprint_mode": "none"}, None), ({"fingerprint_mode": "custom", "fingerprint_value": "x"}, "x")],
)
async def test_the_fingerprint_is_as_configured(make_api, config, shown):
    assert (await make_api(**config).chat()).json["system_fingerprint"] == shown


async def test_the_fingerprint_stays_and_follows_the_configuration(make_api):
    one, same, other = make_api(), make_api(), make_api(llm=FakeLLM(block_size=32))
    shown = [(await api.chat()).json["system_fingerprint"] for api in (one, same, other)]
    assert shown[0] == shown[1] != shown[2]
    assert shown[0].startswith("jaxserve-0")


async def test_token_ids_on_demand(api):
    body = (await api.chat(return_token_ids=True, max_tokens=2)).json
    assert body["prompt_token_ids"] == PROMPT
    assert body["choices"][0]["token_ids"] == [ord("H"), ord("e")]


class TestLogprobs:
    async def content(self, api, **fields):
        return (await api.chat(logprobs=True, max_tokens=2, **fields)).json["choices"][0]["logprobs"]["content"]

    async def test_one_entry_for_each_token(self, api):
        first, second = await self.content(api)
        assert first == {"token": "H", "logprob": -1.0, "bytes": [72], "top_logprobs": []}
        assert second["token"] == "e"

    async def test_exactly_k_alternatives_the_token_itself_first(self, api):
        for k in (1, 2, 3):
            entry = (await self.content(api, top_logprobs=k))[0]
            assert [one["token"] for one in entry["top_logprobs"]] == ["H", "G", "I"][:k]

    async def test_ids_that_are_asked_for_stand_behind_the_best(self, api):
        wanted = {"logprob_token_ids": [ord(one) for one in "zHG"]}
        for k in (0, 1, 2, 3):
            entry = (await self.content(api, top_logprobs=k, **wanted))[0]
            assert [one["token"] for one in entry["top_logprobs"]] == list(["HzG", "HGz", "HGz", "HGIz"][k])
        assert {"token": "z", "logprob": -5.0, "bytes": [122]} in entry["top_logprobs"]
        entry = (await self.content(api, logprob_token_ids=[ord("z")]))[0]  # without top_logprobs, too
        assert [one["token"] for one in entry["top_logprobs"]] == ["H", "z"]

    async def test_tokens_as_ids_keep_their_bytes(self, make_api):
        entry = (await self.content(make_api(), top_logprobs=1, return_tokens_as_token_ids=True))[0]
        assert (entry["token"], entry["bytes"]) == ("token_id:72", [72])
        assert entry["top_logprobs"][0]["token"] == "token_id:72"
        flagged = make_api(return_tokens_as_token_ids=True)
        assert (await self.content(flagged))[0]["token"] == "token_id:72"
        assert (await self.content(flagged, return_tokens_as_token_ids=False))[0]["token"] == "H"

    async def test_zero_top_logprobs_needs_no_logprobs(self, api):
        assert (await api.chat(top_logprobs=0)).json["choices"][0]["logprobs"] is None


class TestPromptLogprobs:
    async def test_a_table_for_each_token_but_the_first(self, api):
        table = (await api.chat(prompt_logprobs=1)).json["prompt_logprobs"]
        assert len(table) == len(PROMPT)
        assert table[0] is None
        own, best = str(ord(":")), str(ord(":") - 1)
        assert list(table[1]) == [own, best]
        assert table[1][own] == {"logprob": -1.0, "rank": 2, "decoded_token": ":"}
        assert table[1][best] == {"logprob": -0.5, "rank": 1, "decoded_token": "9"}

    async def test_zero_shows_the_token_alone(self, api):
        assert len((await api.chat(prompt_logprobs=0)).json["prompt_logprobs"][1]) == 1

    async def test_echo_with_logprobs_asks_for_them(self, api):
        body = (await api.chat(echo=True, logprobs=True, top_logprobs=1)).json
        assert len(body["prompt_logprobs"][1]) == 2

    async def test_ranks_go_on_past_the_tokens_own_place(self, api):
        table = (await api.chat(prompt_logprobs=3)).json["prompt_logprobs"][1]
        assert [one["rank"] for one in table.values()] == [2, 1, 3]


class TestEcho:
    def fields(self, content):
        last = {"role": "assistant", "content": content}
        return {"messages": [last], "add_generation_prompt": False, "continue_final_message": True}

    async def test_the_last_message_is_repeated(self, api):
        body = (await api.chat(echo=True, **self.fields(["So", "it is: "]))).json
        assert body["choices"][0]["message"]["content"] == "So\nit is: Hello world"
        assert body["usage"]["completion_tokens"] == 11

    async def test_another_role_is_not(self, api):
        assert (await api.chat(echo=True)).json["choices"][0]["message"]["content"] == "Hello world"

    async def test_the_role_is_the_last_messages_when_it_goes_on(self, make_api):
        api = make_api(response_role="bot")
        assert (await api.chat()).json["choices"][0]["message"]["role"] == "bot"
        continued = await api.chat(**self.fields("x"))
        assert continued.json["choices"][0]["message"]["role"] == "assistant"


async def test_balancers_get_their_header(api):
    answer = await api.post("/v1/chat/completions", CHAT, headers={"endpoint-load-metrics-format": "TEXT"})
    expected = "TEXT named_metrics.kv_cache_usage_perc=0.0, named_metrics.num_requests_waiting=0"
    assert answer.headers["endpoint-load-metrics"] == expected
    answer = await api.post("/v1/chat/completions", CHAT, headers={"endpoint-load-metrics-format": "JSON"})
    assert answer.headers["endpoint-load-metrics"].startswith('JSON {"named_metrics"')
