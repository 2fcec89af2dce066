"""POST /v1/chat/completions/batch: several conversations in one request, answered as each of them alone would be."""

import openai
import pytest
from openai.types.chat import ChatCompletion

from tests.fake_llm import FakeLLM, Piece
from tests.server.live_server import serve_live
from tests.server.test_tools import F

BATCH = "/v1/chat/completions/batch"
TEXTS = ("a", "bc", "def")
CONVERSATIONS = [[{"role": "user", "content": text}] for text in TEXTS]


async def send(api, messages=None, **fields):
    """Return the whole reply to a batch."""
    answer = await api.post(BATCH, {"messages": messages or CONVERSATIONS, **fields})
    assert answer.status == 200, answer.text
    return answer.json


async def expect_refusal(api, body):
    answer = await api.post(BATCH, body)
    assert answer.status == 400 and not api.llm.calls, answer.text
    return answer.error


async def test_each_conversation_has_its_choice(api):
    reply = await send(api, messages=CONVERSATIONS)
    assert [choice["index"] for choice in reply["choices"]] == [0, 1, 2]
    assert (reply["object"], reply["id"][:9]) == ("chat.completion", "chatcmpl-")
    prompts = ["".join(map(chr, call.prompt_ids)) for call in api.llm.calls]
    assert prompts == [f"u:{text}|" for text in TEXTS]
    assert reply["usage"]["prompt_tokens"] == sum(map(len, prompts))
    assert reply["usage"]["completion_tokens"] == 3 * len("Hello world")


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"max_tokens": 4, "temperature": 0.5, "seed": 7, "stop": ["x"]},
        {"logprobs": True, "top_logprobs": 2, "return_token_ids": True},
        {"add_generation_prompt": False, "continue_final_message": True, "echo": True},
        {"response_format": {"type": "json_object"}},
        {"include_reasoning": False},
    ],
    ids=str,
)
async def test_each_choice_is_that_of_its_conversation_alone(make_api, fields):
    llm = FakeLLM([Piece(reasoning="Hm"), Piece("Hel"), Piece("lo")], reasoning_parser="qwen3")
    together = (await send(make_api(llm=llm), **fields))["choices"]
    calls = llm.calls.copy()
    alone = [(await make_api(llm=llm).chat(messages=each, **fields)).json["choices"][0] for each in CONVERSATIONS]
    assert [choice | {"index": 0} for choice in together] == alone
    assert calls == [one for one in llm.calls[len(calls) :]]


async def test_one_conversation_is_answered_as_by_chat(api):
    fields = {"return_token_ids": True, "request_id": "mine"}
    batch, chat = await send(api, CONVERSATIONS[:1], **fields), await api.chat(messages=CONVERSATIONS[0], **fields)
    assert batch | {"created": 0} == chat.json | {"created": 0}


async def test_what_choices_of_a_batch_have(api):
    reply = await send(api, return_token_ids=True)
    assert reply["prompt_token_ids"] is None and reply["prompt_logprobs"] is None
    assert {tuple(choice["token_ids"]) for choice in reply["choices"]} == {tuple(map(ord, "Hello world"))}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("stream", True),
        ("stream_options", {"include_usage": True}),
        ("n", 2),
        ("use_beam_search", True),
        ("tools", [F]),
        ("tool_choice", "auto"),
        ("prompt_logprobs", 0),
        ("return_prompt_text", True),
    ],
)
async def test_what_a_batch_cannot_have_is_refused_by_name(api, field, value):
    error = await expect_refusal(api, {"messages": CONVERSATIONS, field: value})
    assert error["param"] == field and error["message"].startswith(f"{field} is not supported yet")


@pytest.mark.parametrize(("field", "value"), [("stream", False), ("n", 1), ("tool_choice", "none"), ("tools", None)])
async def test_what_asks_for_nothing_changes_nothing(api, field, value):
    assert (await send(api, **{field: value}))["choices"] == (await send(api))["choices"]


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([], "body.messages"),
        ([[]], "body.messages.0"),
        ([CONVERSATIONS[0], []], "body.messages.1"),
        (CONVERSATIONS[0], "body.messages.0"),
        ([[{"role": "user", "content": 3}]], "body.messages.0.0.content"),
        (None, "body.messages"),
        ([*CONVERSATIONS, [{"role": "user", "content": "x" * 900}]], "messages"),
    ],
    ids=str,
)
async def test_one_conversation_that_cannot_be_refuses_all(api, messages, param):
    assert (await expect_refusal(api, {"messages": messages}))["param"] == param


async def test_a_field_is_checked_once_for_all(api):
    assert (await expect_refusal(api, {"messages": CONVERSATIONS, "temperature": 3}))["param"] == "temperature"


async def test_there_are_at_most_so_many(make_api):
    error = await expect_refusal(make_api(max_completion_prompts=2), {"messages": CONVERSATIONS})
    assert error["param"] == "messages" and "3 conversations; at most 2" in error["message"]
    llm = FakeLLM(max_num_queued_reqs=2)
    assert (await expect_refusal(make_api(llm=llm), {"messages": CONVERSATIONS}))["param"] == "messages"


async def test_the_reply_of_all_has_to_fit(make_api):
    api = make_api(max_reply_bytes=1000)
    assert len((await send(api, CONVERSATIONS[:2], max_tokens=50))["choices"]) == 2
    llm = FakeLLM()
    body = {"messages": CONVERSATIONS, "max_tokens": 50}
    assert "at most 1000" in (await expect_refusal(make_api(llm=llm, max_reply_bytes=1000), body))["message"]


async def test_the_official_client_reads_it():
    async with (
        serve_live(FakeLLM()) as server,
        openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="k", max_retries=0) as client,
    ):
        body = {"model": "fake/model", "messages": CONVERSATIONS}
        reply = await client.post("/chat/completions/batch", body=body, cast_to=ChatCompletion)
        assert [choice.message.content for choice in reply.choices] == ["Hello world"] * 3
        with pytest.raises(openai.BadRequestError, match="stream"):
            await client.post("/chat/completions/batch", body=body | {"stream": True}, cast_to=ChatCompletion)
