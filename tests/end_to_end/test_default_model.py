"""The default model on a real server, through the openai SDK and plain HTTP."""

import asyncio
import json
import random
import shlex
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import httpx
import openai
import pytest

from jaxserve import llm_inputs
from server.assets import ASSETS
from server.chat import client as client_of_the_terminal
from server.startup import make_curl_command
from tests import assets
from tests.end_to_end.running_server import RunningServer

pytestmark = pytest.mark.assets

# Its answer leads by nats; that of "France" by less than the file's int8 products move a token.
CAPITAL_QUESTION = [{"role": "user", "content": "What is the capital of Japan?"}]
STORY = [{"role": "user", "content": "Tell me a short story about a fox."}]
# Fewer shapes than the defaults, so that a clean machine compiles them in a minute.
SHAPES = ("--max-model-len", "1024", "--max-num-seqs", "8", "--max-num-batched-tokens", "64")
SERVER_FLAGS = (*SHAPES, "--disable-access-log", "--enable-prompt-tokens-details")


@pytest.fixture(scope="module")
def smollm2() -> Iterator[RunningServer]:
    assets.model()
    with RunningServer("smollm2-135m-instruct", *SERVER_FLAGS) as server:
        yield server


@pytest.fixture
def client(smollm2: RunningServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=smollm2.url + "/v1", api_key="none", timeout=300) as client:
        yield client


def ask(client, messages=CAPITAL_QUESTION, **how):
    return client.chat.completions.create(model="", messages=messages, **({"temperature": 0} | how))


def metric(server: RunningServer, name: str) -> float:
    text = httpx.get(server.url + "/metrics", timeout=60).text
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith((name + "{", name + " ")))


def test_it_answers_in_sensible_english(client):
    reply = ask(client)
    assert "Tokyo" in reply.choices[0].message.content
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage.completion_tokens == 8


def test_the_line_that_is_printed_has_one_right_answer_without_doubt(smollm2):
    """At every token the best leads the next by so much that another machine's rounding changes nothing."""
    words = shlex.split(make_curl_command(smollm2.url, has_key=False))
    body = json.loads(words[words.index("-d") + 1])
    assert certain_answer(smollm2, body, least_margin=0.5) == "The capital of Japan is Tokyo."


PAGE = json.loads(ASSETS["/assets/defaults.json"].body)
IDEAS = {
    "What is the capital of Japan?": "The capital of Japan is Tokyo.",
    "In which city is the Colosseum?": "The Colosseum is located in Rome, Italy.",
    "What is the plural of mouse?": "The plural of mouse is mice.",
    "How many days are in a week?": "A week is approximately 7 days.",
}


def test_so_have_the_ideas_of_the_chat_page(smollm2):
    asked = {**PAGE["idea_sampling"], "max_tokens": PAGE["max_tokens"]}
    asked["repetition_detection"] = PAGE["repetition_detection"]
    assert set(PAGE["ideas"]) == IDEAS.keys()
    for idea, answer in IDEAS.items():
        body = {**asked, "messages": [{"role": "user", "content": idea}]}
        assert certain_answer(smollm2, body, least_margin=0.2) == answer


def test_people_s_clients_bound_their_answers_alike():
    assert PAGE["max_tokens"] == client_of_the_terminal.MAX_TOKENS == llm_inputs.MAX_CHAT_TOKENS
    ours = asdict(llm_inputs.REPETITION_DETECTION)
    assert PAGE["repetition_detection"] == client_of_the_terminal.REPETITION_DETECTION == ours


def certain_answer(server: RunningServer, body: dict[str, Any], least_margin: float) -> str:
    """The one text that 20 seeds have, whose tokens lead by this many nats."""
    texts = set()
    for seed in range(20):
        asked = {**body, "seed": seed, "logprobs": True, "top_logprobs": 2}
        choice = httpx.post(f"{server.url}/v1/chat/completions", json=asked, timeout=60).json()["choices"][0]
        assert choice["finish_reason"] == "stop"
        for entry in choice["logprobs"]["content"]:
            best, second = (one["logprob"] for one in entry["top_logprobs"])
            assert best - second > least_margin, entry
        texts.add(choice["message"]["content"])
    [text] = texts
    return text


def test_streamed_is_as_whole(client):
    whole = ask(client, STORY, max_tokens=60, temperature=0.8, seed=5)
    chunks = list(
        ask(client, STORY, max_tokens=60, temperature=0.8, seed=5, stream=True, stream_options={"include_usage": True})
    )
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == whole.choices[0].message.content
    assert (chunks[-1].usage.completion_tokens, chunks[-1].usage.prompt_tokens) == (
        whole.usage.completion_tokens,
        whole.usage.prompt_tokens,
    )
    assert len(pieces) > 10  # a busy client gets several tokens at once


def test_logprobs_are_ordered_and_the_chosen_is_the_best(client):
    reply = ask(client, logprobs=True, top_logprobs=4, max_tokens=6)
    for entry in reply.choices[0].logprobs.content:
        others = [other.logprob for other in entry.top_logprobs]
        assert len(others) == 4 and others == sorted(others, reverse=True)
        assert entry.top_logprobs[0].token == entry.token and entry.logprob <= 0


def test_two_choices_are_those_of_two_seeds(client):
    both = ask(client, STORY, n=2, seed=7, temperature=1.0, max_tokens=24)
    other = ask(client, STORY, seed=8, temperature=1.0, max_tokens=24)
    texts = [choice.message.content for choice in both.choices]
    assert texts[0] != texts[1] == other.choices[0].message.content
    assert both.usage.prompt_tokens == other.usage.prompt_tokens


async def test_two_streams_interleave(smollm2):
    order: list[str] = []

    async def read(client, name):
        stream = await ask(client, STORY, max_tokens=40, stream=True, extra_body={"ignore_eos": True})
        async for _ in stream:
            order.append(name)

    async with openai.AsyncOpenAI(base_url=smollm2.url + "/v1", api_key="none", timeout=300) as client:
        await asyncio.gather(read(client, "a"), read(client, "b"))
    assert order.index("b") < len(order) - 1 - order[::-1].index("a"), "b began before a had ended"
    assert order.index("a") < len(order) - 1 - order[::-1].index("b")


def test_a_prompt_s_log_likelihood_is_asked_as_lm_eval_asks(client):
    ids = httpx.post(str(client.base_url).replace("/v1/", "/tokenize"), json={"prompt": "The sky is blue."}).json()
    reply = client.completions.create(
        model="", prompt=[ids["tokens"]], echo=True, max_tokens=1, logprobs=1, temperature=0
    )
    logprobs = reply.choices[0].logprobs
    assert len(logprobs.tokens) == ids["count"] + 1
    assert logprobs.token_logprobs[0] is None and all(value <= 0 for value in logprobs.token_logprobs[1:])
    assert "".join(logprobs.tokens) == reply.choices[0].text


def test_a_client_that_leaves_frees_its_pages(smollm2):
    body = {"messages": STORY, "stream": True, "max_tokens": 900, "ignore_eos": True}
    with httpx.stream("POST", smollm2.url + "/v1/chat/completions", json=body, timeout=60) as reply:
        next(reply.iter_lines())
    ask_until(lambda: metric(smollm2, "vllm:num_requests_running") == 0)
    assert metric(smollm2, "vllm:kv_cache_usage_perc") == 0


def ask_until(holds) -> None:
    """Asks again until it holds; each question is a round trip, so this is bounded."""
    for _ in range(2000):
        if holds():
            return
    raise AssertionError("it never held")


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"messages": []}, 400, "messages"),
        ({"messages": [{"content": "hi"}]}, 400, "role"),
        ({"messages": [{"role": "user", "content": [{"type": "hologram"}]}]}, 400, "hologram"),
        ({"temperature": 3}, 400, "temperature"),
        ({"temperature": "hot"}, 400, "temperature"),
        ({"max_tokens": 10**400}, 400, ""),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"messages": [{"role": "user", "content": "word " * 3000}]}, 400, "maximum context length"),
        ({"model": "gpt-17"}, 404, "gpt-17"),
        ({"n": 2, "temperature": 0}, 400, "greedy"),
        ({"top_logprobs": 3}, 400, "logprobs"),
        ({"logit_bias": {"x": 5}}, 400, "token ids"),
    ],
)
def test_bad_input_is_named_and_the_server_goes_on(smollm2, client, change, status, words):
    reply = httpx.post(smollm2.url + "/v1/chat/completions", json={"messages": CAPITAL_QUESTION} | change, timeout=60)
    error = reply.json()["error"]
    assert (reply.status_code, error["code"]) == (status, status)
    assert words in error["message"]
    assert "Tokyo" in ask(client, max_tokens=8).choices[0].message.content


def test_malformed_json_is_a_400(smollm2):
    for body in (b"{", b"[]", b'{"messages": NaN}', b"\xff\xfe", b"", b'{"messages":' + b"[" * 5000):
        reply = httpx.post(
            smollm2.url + "/v1/chat/completions", content=body, headers={"content-type": "application/json"}
        )
        assert reply.status_code == 400 and reply.json()["error"]["type"] == "Bad Request"


async def test_two_hundred_mixed_requests_compile_nothing_and_leave_no_page(smollm2):
    before, rng = metric(smollm2, "jaxserve_compilations_total"), random.Random(1)
    assert before > 0 or metric(smollm2, "jaxserve_compilation_cache_hits_total") > 0

    def body() -> dict:
        return {
            "messages": [{"role": "user", "content": "word " * rng.randint(1, 150)}],
            "max_tokens": rng.randint(1, 12),
            "temperature": rng.choice([0, 0.7, 1.3]),
            "top_p": rng.choice([1, 0.9]),
            "top_k": rng.choice([0, 40]),
            "min_tokens": rng.choice([0, 1]),
            "stream": rng.random() < 0.5,
            **({"logprobs": True, "top_logprobs": 2} if rng.random() < 0.3 else {}),
        }

    limits = httpx.Limits(max_connections=24)
    async with httpx.AsyncClient(base_url=smollm2.url, timeout=600, limits=limits) as http:
        replies = await asyncio.gather(*(http.post("/v1/chat/completions", json=body()) for _ in range(200)))
    assert {reply.status_code for reply in replies} == {200}
    assert metric(smollm2, "jaxserve_compilations_total") == before
    assert metric(smollm2, "vllm:num_requests_running") == metric(smollm2, "vllm:num_requests_waiting") == 0
    assert metric(smollm2, "vllm:kv_cache_usage_perc") == 0
