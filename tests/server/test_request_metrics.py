"""The field metrics of replies, with --enable-per-request-metrics: the times of a request with one choice."""

import openai
import pytest

from jaxserve import OutputTimes
from server.replies import METRICS_KEYS
from tests.fake_llm import FakeLLM
from tests.server.live_server import serve_live

TIMES = OutputTimes(queue_s=0.25, prefill_s=0.5, decode_s=2.0)
NUM_TOKENS = len("Hello world")
EXPECTED = {
    "time_to_first_token_ms": 500.0,
    "generation_time_ms": 2000.0,
    "queue_time_ms": 250.0,
    "mean_itl_ms": 2000.0 / (NUM_TOKENS - 1),
    "tokens_per_second": NUM_TOKENS / 2.5,
    "speculative_decoding": None,
}


@pytest.fixture
def timed_api(make_api):
    api = make_api(enable_per_request_metrics=True)
    api.llm.times = TIMES
    return api


async def test_a_reply_tells_the_times_of_its_request(timed_api):
    for ask in (timed_api.chat, timed_api.complete):
        assert (await ask()).json["metrics"] == EXPECTED


async def test_a_stream_tells_them_with_its_usage(timed_api):
    for ask in (timed_api.chat, timed_api.complete):
        *chunks, last = (await ask(stream=True, stream_options={"include_usage": True})).events
        assert last["metrics"] == EXPECTED and last["choices"] == []
        assert all("metrics" not in chunk for chunk in chunks + (await ask(stream=True)).events)


async def test_without_the_flag_nothing_is_measured(make_api):
    llm = FakeLLM()
    llm.times = TIMES
    api = make_api(llm=llm)
    assert (await api.chat()).json["metrics"] is None
    assert "metrics" not in (await api.chat(stream=True, stream_options={"include_usage": True})).events[-1]


async def test_of_several_choices_nothing_is_told(timed_api):
    assert (await timed_api.chat(n=2, temperature=1)).json["metrics"] is None
    assert (await timed_api.complete(prompt=["a", "b"])).json["metrics"] is None
    batch = {"messages": [[{"role": "user", "content": text}] for text in "ab"]}
    assert (await timed_api.post("/v1/chat/completions/batch", batch)).json["metrics"] is None


async def test_what_one_token_cannot_tell_is_null(timed_api):
    timed_api.llm.times = OutputTimes(0.25, 0.5, 0.0)
    metrics = (await timed_api.chat(max_tokens=1)).json["metrics"]
    assert (metrics["mean_itl_ms"], metrics["tokens_per_second"]) == (None, 2.0)


async def test_an_answer_without_tokens_has_no_times(timed_api):
    timed_api.llm.times = None
    metrics = (await timed_api.complete(echo=True, max_tokens=0)).json["metrics"]
    assert metrics == dict.fromkeys(METRICS_KEYS)


async def test_the_official_client_reads_them():
    llm = FakeLLM()
    llm.times = TIMES
    async with (
        serve_live(llm, enable_per_request_metrics=True) as server,
        openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="k", max_retries=0) as client,
    ):
        asked = {"model": "fake/model", "messages": [{"role": "user", "content": "Hi"}]}
        reply = await client.chat.completions.create(**asked)
        assert reply.model_extra is not None and reply.model_extra["metrics"] == EXPECTED
