"""The whole answer of POST /v1/messages and count_tokens: blocks, why it stopped, tokens, errors, keys."""

import asyncio

import pytest

from jaxserve import ToolCallDelta
from server.messages.writer import parse_input
from server.responses.reasoning_seal import open_reasoning
from tests.fake_llm import FakeLLM, Piece
from tests.server.api import CHAT

TOOL = {"name": "f", "description": "Does f.", "input_schema": {"type": "object", "properties": {"a": {}}}}
COUNT = "/v1/messages/count_tokens"


def calling(*arguments):
    first = Piece(calls=(ToolCallDelta(0, "", "chatcmpl-tool-1", "f"),))
    return [first, *(Piece(calls=(ToolCallDelta(0, piece),)) for piece in arguments)]


async def test_the_text_is_a_block(api):
    message = (await api.message()).json
    assert message.pop("id").startswith("msg_")
    assert message == {
        "type": "message",
        "role": "assistant",
        "model": "fake/model",
        "content": [{"type": "text", "text": "Hello world"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 5,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": 11,
        },
    }


async def test_an_empty_answer_is_one_empty_text(make_api):
    assert (await make_api([""]).message()).json["content"] == [{"type": "text", "text": ""}]


async def test_thinking_is_a_block_with_a_signature(make_api):
    api = make_api(llm=FakeLLM([Piece(reasoning="Hm"), Piece("Yes")], reasoning_parser="qwen3"))
    thinking, text = (await api.message()).json["content"]
    assert (thinking["thinking"], text["text"]) == ("Hm", "Yes")
    assert thinking["signature"].startswith("jaxserve-") and open_reasoning(thinking["signature"]) is None
    omitted = (await api.message(thinking={"type": "adaptive", "display": "omitted"})).json["content"][0]
    assert (omitted["thinking"], open_reasoning(omitted["signature"])) == ("", "Hm")


async def test_a_call_is_a_block_with_an_object(make_api):
    api = make_api(llm=FakeLLM(["Let me.", *calling('{"a"', ": 1}")], tool_parser="hermes"))
    message = (await api.message(tools=[TOOL])).json
    assert message["content"] == [
        {"type": "text", "text": "Let me."},
        {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"a": 1}},
    ]
    assert message["stop_reason"] == "tool_use"
    forced = make_api(llm=FakeLLM(calling("{}"), tool_parser="hermes"))
    assert (await forced.message(tools=[TOOL], tool_choice={"type": "tool", "name": "f"})).json[
        "stop_reason"
    ] == "tool_use"


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ('{"a": 1}', {"a": 1}),
        ('{"a": "x', {}),
        ('{"a": 1, "b', {"a": 1}),
        ("[1]", {}),
        ("nonsense", {}),
        ("", {}),
    ],
)
def test_the_input_of_a_call_is_an_object_whatever_the_model_wrote(arguments, value):
    assert parse_input(arguments) == value


async def test_why_it_stopped(api):
    assert (await api.message(max_tokens=4)).json["stop_reason"] == "max_tokens"
    api.llm.stop_reason = "END"
    message = (await api.message(stop_sequences=["END"])).json
    assert (message["stop_reason"], message["stop_sequence"]) == ("stop_sequence", "END")
    api.llm.stop_reason = 7  # a stop token
    assert (await api.message()).json["stop_reason"] == "end_turn"


async def test_cached_tokens_are_not_input_tokens(make_api):
    llm = FakeLLM()
    llm.cached_tokens = 4
    usage = (await make_api(llm=llm).message()).json["usage"]
    assert (usage["input_tokens"], usage["cache_read_input_tokens"]) == (1, 4)
    hidden = (await make_api(llm=llm, enable_prompt_tokens_details=False).message()).json["usage"]
    assert (hidden["input_tokens"], hidden["cache_read_input_tokens"]) == (5, 0)


async def test_tokens_are_counted_without_an_answer(api):
    body = {"model": "fake/model", **CHAT}
    assert (await api.post(COUNT, body)).json == {"input_tokens": 5}
    assert (await api.post(COUNT, {**body, "system": "Be brief."})).json == {"input_tokens": 5 + len("s:Be brief.|")}
    assert not api.llm.calls
    assert (await api.message(system="Be brief.")).json["usage"]["input_tokens"] == 5 + len("s:Be brief.|")


@pytest.mark.parametrize("missing", ["model", "messages", "max_tokens"])
async def test_what_is_missing_is_named(api, missing):
    body = {"model": "fake/model", "max_tokens": 9, **CHAT}
    del body[missing]
    reply = await api.post("/v1/messages", body)
    assert (reply.status, reply.json["type"], reply.error["type"]) == (400, "error", "invalid_request_error")
    assert f"body.{missing}: Field required" in reply.error["message"]


async def test_the_model_is_checked(api):
    reply = await api.message(model="claude")
    assert (reply.status, reply.error["type"]) == (404, "not_found_error")
    assert (await api.post(COUNT, {"model": "claude", **CHAT})).status == 404


async def test_errors_are_in_anthropic_s_form(make_api):
    api = make_api(max_body_bytes=300, max_headers=20)
    assert (await api.message(messages=[])).error["type"] == "invalid_request_error"
    assert (await api.post("/v1/messages", b"x" * 400)).error["type"] == "request_too_large"
    assert (await api.get("/v1/messages")).json["type"] == "error"
    assert (await api.get("/v1/messages/none")).error["type"] == "not_found_error"
    crowded = await api.message(headers={f"X-{number}": "1" for number in range(30)})
    assert (crowded.status, crowded.json["type"]) == (431, "error")
    assert "code" in (await api.chat(messages=[])).error, "other routes keep theirs"


async def test_failures_and_refusals_have_their_types(make_api):
    llm = FakeLLM()
    llm.fail_at = 0
    reply = await make_api(llm=llm).message()
    assert (reply.status, reply.error) == (
        500,
        {"type": "api_error", "message": "The server had an error while processing your request."},
    )
    llm = FakeLLM()
    llm.is_healthy = False
    reply = await make_api(llm=llm).message()
    assert (reply.status, reply.error["type"]) == (503, "overloaded_error") and "Retry-After" in reply.headers


async def test_a_key_may_stand_in_either_header(make_api):
    api = make_api(api_key=("k",))
    reply = await api.message()
    assert (reply.status, reply.error["type"]) == (401, "authentication_error")
    good, bad = {"X-Api-Key": "k"}, {"X-Api-Key": "x"}
    bearer = {"Authorization": "Bearer k"}
    for headers, status in (
        (good, 200),
        (bad, 401),
        (bearer, 200),
        (bearer | bad, 200),
        (good | {"Authorization": "Bearer x"}, 200),
    ):
        assert (await api.message(headers=headers)).status == status, headers
    assert (await api.chat(headers=good)).status == 401, "the header counts on these routes only"


async def test_callers_are_told_apart_by_either_header(make_api):
    llm = FakeLLM()
    llm.hold_at = 0
    api = make_api(llm=llm, api_key=("a", "b"), max_concurrency_per_key=1)
    first = asyncio.create_task(api.message(headers={"X-Api-Key": "a"}))
    await llm.wait_until(lambda llm: bool(llm.calls))
    reply = await api.message(headers={"Authorization": "Bearer a"})
    assert (reply.status, reply.error["type"]) == (429, "rate_limit_error")
    llm.release.set()
    assert (await api.message(headers={"X-Api-Key": "b"})).status == 200
    assert (await first).status == 200
