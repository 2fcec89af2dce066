"""The field routed_experts of choices, and routed_experts_prompt_start: what is sent, and what is refused."""

import io
from base64 import b64decode
from dataclasses import replace

import numpy as np
import pytest

from jaxserve import TextDelta
from server.generation import merge_deltas
from server.routed_experts import LARGE_BYTES, encode_experts
from server.unsent_output import estimate_bytes
from tests.fake_llm import FakeLLM

ROUTED = {"enable_return_routed_experts": True}


class RoutingLLM(FakeLLM):
    """Returns with each choice experts that count its deltas: [n, 2, 3] for n tokens of a delta."""

    def _choice(self, index, call):
        return [
            replace(delta, routed_experts=np.full((len(delta.token_ids), 2, 3), 10 * index + number, np.uint8))
            for number, delta in enumerate(super()._choice(index, call))
        ]


def decode(text):
    return np.load(io.BytesIO(b64decode(text)), allow_pickle=False)


@pytest.fixture
def routing_api(make_api):
    return make_api(llm=RoutingLLM(**ROUTED))


async def test_each_choice_has_an_npy_file_of_its_experts(routing_api):
    for ask in (routing_api.chat, routing_api.complete):
        choices = (await ask(n=2, temperature=1)).json["choices"]
        for index, choice in enumerate(choices):
            experts = decode(choice["routed_experts"])
            assert (experts.shape, experts.dtype) == ((len("Hello world"), 2, 3), np.uint8)
            expected = [10 * index + number for number, piece in enumerate(("Hel", "lo", " world")) for _ in piece]
            assert experts[:, 0, 0].tolist() == expected


async def test_a_batch_of_conversations_has_them(routing_api):
    batch = {"messages": [[{"role": "user", "content": text}] for text in "ab"]}
    choices = (await routing_api.post("/v1/chat/completions/batch", batch)).json["choices"]
    assert [len(decode(choice["routed_experts"])) for choice in choices] == [len("Hello world")] * 2


async def test_a_stream_has_none_as_in_vllm(routing_api):
    for ask in (routing_api.chat, routing_api.complete):
        chunks = (await ask(stream=True)).events
        assert not any("routed_experts" in choice for chunk in chunks for choice in chunk["choices"])


async def test_without_the_flag_there_are_none(api):
    for ask in (api.chat, api.complete):
        assert (await ask()).json["choices"][0]["routed_experts"] is None


async def test_a_start_needs_the_flag_and_a_whole_reply(api, routing_api):
    for ask in (api.chat, api.complete):
        answer = await ask(routed_experts_prompt_start=2)
        assert (answer.status, answer.error["param"]) == (400, "routed_experts_prompt_start")
        assert "--enable-return-routed-experts" in answer.error["message"]
    for ask in (routing_api.chat, routing_api.complete):
        assert (await ask(routed_experts_prompt_start=2)).status == 200
        answer = await ask(routed_experts_prompt_start=2, stream=True)
        assert (answer.status, answer.error["param"]) == (400, "routed_experts_prompt_start")
        assert (await ask(routed_experts_prompt_start=0, stream=True)).status == 200
    assert routing_api.llm.calls[0].params.routed_experts_prompt_start == 2


@pytest.mark.parametrize("start", [-1, 1000])
async def test_a_start_outside_the_prompt_is_refused(routing_api, start):
    for ask in (routing_api.chat, routing_api.complete):
        answer = await ask(routed_experts_prompt_start=start)
        assert (answer.status, answer.error["param"]) == (400, "routed_experts_prompt_start")


async def test_they_count_for_the_size_of_a_reply(make_api):
    api = make_api(llm=RoutingLLM(**ROUTED), max_reply_bytes=5000)
    assert (await api.chat(max_tokens=10)).status == 200
    api.llm.expert_bytes = 1000
    answer = await api.chat(max_tokens=10)
    assert answer.status == 400 and "at most 5000 are allowed" in answer.error["message"]
    assert (await api.chat(max_tokens=10, stream=True)).status == 200


async def test_a_large_array_is_the_same_text():
    experts = np.random.default_rng(0).integers(0, 99, (LARGE_BYTES // 4, 3, 2)).astype(np.uint8)
    text = await encode_experts(experts)
    assert text is not None and (decode(text) == experts).all()
    assert await encode_experts(None) is None


def test_merged_deltas_have_the_experts_of_all():
    def delta(number, num):
        return TextDelta(0, "a", (1,), routed_experts=np.full((num, 1, 2), number, np.uint8))

    merged = merge_deltas([delta(1, 3), TextDelta(0, "b", (2,)), delta(2, 1)])
    assert merged.routed_experts[:, 0, 0].tolist() == [1, 1, 1, 2]
    assert estimate_bytes(delta(1, 300)) - estimate_bytes(delta(1, 0)) == 600
