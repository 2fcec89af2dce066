"""Random requests: each gets a reply that the API allows, and the next client is not affected."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.app import get_state
from server.schemas.chat import ChatRequest
from server.schemas.completions import CompletionRequest
from tests.fake_llm import FakeLLM
from tests.server.api import CHAT, Api

ODD = [
    0,
    -1,
    1,
    2**31,
    2**63,
    -(2**63) - 1,
    2**64,
    10**40,
    10**307,
    1e308,
    0.5,
    "9" * 5000,
    "",
    "nan",
    "inf",
    "1",
    "\0",
    "x" * 300,
    [],
    {},
]
odd = st.sampled_from(ODD) | st.booleans() | st.none()
values = st.recursive(
    odd | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
parts = st.dictionaries(st.sampled_from(["type", "text", "image_url", "x"]), values | st.just("text"), max_size=3)
messages = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "tool", "x"]) | values},
        optional={"content": values | st.lists(parts | values, max_size=3), "tool_calls": values, "name": values},
    )
    | values,
    max_size=3,
)
slow = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


async def probe(api: Api) -> None:
    assert (await api.chat()).json["choices"][0]["message"]["content"] == "Hello world"
    assert len(get_state(api.app).slots) == 0


def check(answer) -> None:
    assert answer.status in (200, 400, 404), answer.text
    assert len(answer.text) < 100_000
    if answer.status != 200:
        assert list(answer.error) == ["message", "type", "param", "code"]
        assert len(answer.error["message"]) <= 2000


@pytest.fixture
def rested():
    return Api(FakeLLM(max_num_queued_reqs=100_000))


@slow
@given(fields=st.dictionaries(st.sampled_from(sorted(ChatRequest.model_fields)), values, max_size=3))
async def test_chat_with_any_values(rested, fields):
    check(await rested.chat(**fields))
    await probe(rested)


@slow
@given(turns=messages)
async def test_chat_with_any_messages(rested, turns):
    check(await rested.chat(messages=turns))
    await probe(rested)


@slow
@given(fields=st.dictionaries(st.sampled_from(sorted(CompletionRequest.model_fields)), values, max_size=3))
async def test_completions_with_any_values(rested, fields):
    check(await rested.complete(**fields))


@slow
@given(
    path=st.sampled_from(["/tokenize", "/detokenize"]),
    body=st.dictionaries(
        st.sampled_from(
            ["prompt", "messages", "tokens", "model", "add_special_tokens", "tools", "chat_template_kwargs"]
        ),
        values,
        max_size=3,
    ),
)
async def test_tokens_with_any_values(rested, path, body):
    check(await rested.post(path, body))


@slow
@given(data=st.binary(max_size=50) | st.text(max_size=50).map(str.encode))
async def test_any_bytes(rested, data):
    check(await rested.post("/v1/chat/completions", data))


@slow
@given(cut=st.integers(0, 200), flip=st.integers(0, 255), place=st.integers(0, 100))
async def test_a_damaged_body(rested, cut, flip, place):
    data = bytearray(json.dumps({**CHAT, "temperature": 0.5, "stop": ["a", "\u00e4"]}).encode()[: cut or None])
    if data:
        data[place % len(data)] = flip
    check(await rested.post("/v1/chat/completions", bytes(data)))
