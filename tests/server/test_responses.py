"""The whole answer of POST /v1/responses: its keys, its items, its errors."""

import asyncio

import pytest

from tests.fake_llm import FakeLLM

KEYS = """
    id object created_at status background error incomplete_details instructions max_output_tokens max_tool_calls
    metadata model output parallel_tool_calls previous_response_id prompt prompt_cache_key reasoning safety_identifier
    service_tier store temperature text tool_choice tools top_logprobs top_p truncation usage user
"""


async def test_all_keys_are_there(api):
    response = (await api.respond()).json
    assert list(response) == KEYS.split()
    assert response["id"].startswith("resp_") and response["object"] == "response"
    assert (response["status"], response["error"], response["incomplete_details"]) == ("completed", None, None)


async def test_the_text_is_a_message(api):
    (message,) = (await api.respond()).json["output"]
    part = {"type": "output_text", "text": "Hello world", "annotations": [], "logprobs": []}
    assert message.pop("id").startswith("msg_")
    assert message == {"type": "message", "role": "assistant", "content": [part], "status": "completed"}


async def test_an_answer_without_text_is_an_empty_message(make_api):
    (message,) = (await make_api([""]).respond()).json["output"]
    assert message["content"][0]["text"] == ""


async def test_what_was_cut_off_is_incomplete(api):
    response = (await api.respond(max_output_tokens=4)).json
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert [(item["status"], item["content"][0]["text"]) for item in response["output"]] == [("incomplete", "Hell")]


async def test_tokens_are_counted(make_api):
    llm = FakeLLM()
    llm.cached_tokens = 4
    usage = (await make_api(llm=llm).respond()).json["usage"]
    assert usage == {
        "input_tokens": 5,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
        "output_tokens": 11,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 16,
    }
    hidden = (await make_api(llm=llm, enable_prompt_tokens_details=False).respond()).json["usage"]
    assert hidden["input_tokens_details"]["cached_tokens"] == 0


async def test_values_in_effect_are_shown(make_api):
    llm = FakeLLM()
    llm.sampling_defaults = {"temperature": 0.6, "top_p": 0.9}
    response = (await make_api(llm=llm).respond(max_output_tokens=8)).json
    assert [response[name] for name in ("temperature", "top_p", "max_output_tokens")] == [0.6, 0.9, 8]


async def test_what_is_repeated_in_the_reply(api):
    fields = {"metadata": {"a": "b"}, "user": "u", "safety_identifier": "s", "prompt_cache_key": "k", "store": False}
    fields |= {"instructions": "Be brief.", "max_tool_calls": 3, "truncation": "auto", "parallel_tool_calls": False}
    response = (await api.respond(**fields)).json
    assert {name: response[name] for name in fields} == fields


@pytest.mark.parametrize("metadata", [{"k" * 65: "v"}, {"k": "v" * 513}, {str(number): "" for number in range(17)}])
async def test_metadata_is_limited(api, metadata):
    reply = await api.respond(metadata=metadata)
    assert (reply.status, reply.error["param"]) == (400, "metadata")


async def test_the_id_may_be_the_client_s(api):
    assert (await api.respond(request_id="mine")).json["id"] == "resp_mine"
    assert (await api.respond(request_id="mine", headers={"X-Request-Id": "head"})).json["id"] == "resp_head"


@pytest.mark.parametrize("background", [False, True])
async def test_an_id_of_the_client_is_that_of_one_response_only(api, background):
    fields = {"request_id": "mine", "background": background}
    assert (await api.respond(**fields)).status == 200
    again = await api.respond(**fields)
    assert (again.status, again.error["param"]) == (400, "request_id")
    assert (await api.respond(request_id="mine", store=False)).json["id"] == "resp_mine"
    headers = {"X-Request-Id": "mine"}
    by_header = (await api.respond(background=background, headers=headers)).json["id"]
    assert by_header.startswith("resp_mine-") and (await api.get(f"/v1/responses/{by_header}")).status == 200


async def test_two_at_once_cannot_have_one_id(make_api):
    llm = FakeLLM()
    llm.hold_at = 1
    api = make_api(llm=llm)
    first = asyncio.create_task(api.respond(request_id="mine"))
    await llm.wait_until(lambda llm: bool(llm.calls))
    assert (await api.respond(request_id="mine")).error["param"] == "request_id"
    llm.release.set()
    assert (await first).json["id"] == "resp_mine"
    assert len(llm.calls) == 1


@pytest.mark.parametrize("given", ["a/b", "a b", "\u00e9", "a?b"])
async def test_an_id_that_no_path_can_hold_is_refused_or_replaced(api, given):
    assert (await api.respond(request_id=given)).error["param"] == "request_id"
    assert (await api.respond(request_id=given, store=False)).status == 200
    if given.isascii():
        response = (await api.respond(headers={"X-Request-Id": given})).json
        assert (await api.get(f"/v1/responses/{response['id']}")).json == response


async def test_the_model_is_checked_as_for_chat(api):
    reply = await api.respond(model="other")
    assert (reply.status, reply.error["param"]) == (404, "model")
    assert (await api.respond(model="fake/model")).json["model"] == "fake/model"


@pytest.mark.parametrize(
    "name", ["message.output_text.logprobs", "reasoning.encrypted_content", "file_search_call.results"]
)
async def test_what_may_be_included(api, name):
    assert (await api.respond(include=[name])).status == 200
    reply = await api.respond(include=[name, "everything"])
    assert (reply.status, reply.error["param"]) == (400, "include")


async def test_logprobs_of_the_text_on_demand(api):
    fields = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    part = (await api.respond(**fields)).json["output"][0]["content"][0]
    assert "".join(entry["token"] for entry in part["logprobs"]) == part["text"]
    assert all(len(entry["top_logprobs"]) == 2 for entry in part["logprobs"])
    reply = await api.respond(top_logprobs=2)
    assert (reply.status, reply.error["param"]) == (400, "top_logprobs")
    tools = [{"type": "function", "name": "f"}]
    assert (await api.respond(**fields, tools=tools)).error["param"] == "include"


async def test_a_stream_is_as_large_as_its_copies_of_the_text(make_api):
    api = make_api(max_reply_bytes=20_000)
    fields = {"include": ["message.output_text.logprobs"], "top_logprobs": 2, "max_output_tokens": 30}
    assert (await api.respond(**fields)).status == 200
    for how in ({"stream": True}, {"background": True}):
        reply = await api.respond(**fields, **how)
        assert reply.status == 400 and "at most 20000 are allowed" in reply.error["message"]


async def test_an_engine_that_fails_is_a_500(make_api):
    llm = FakeLLM()
    llm.fail_at = 0
    reply = await make_api(llm=llm).respond()
    assert (reply.status, reply.error["type"]) == (500, "InternalServerError")


async def test_errors_name_the_client_s_fields(api):
    reply = await api.respond(input="x" * 99)
    assert (reply.status, reply.error["param"]) == (400, "input")
    reply = await api.respond(max_output_tokens=0)
    assert reply.error["param"] == "max_output_tokens" and reply.error["message"].startswith("max_output_tokens must")


async def test_without_a_key_nothing_is_said(make_api):
    api = make_api(api_key=("k",))
    assert (await api.respond()).status == 401
    assert (await api.respond(headers={"X-Api-Key": "k"})).status == 401, "that header is for Messages"
    assert (await api.respond(headers={"Authorization": "Bearer k"})).status == 200


async def test_parses_for_calls_are_counted(make_api):
    api = make_api(llm=FakeLLM(tool_parser="hermes"))
    await api.respond(tools=[{"type": "function", "name": "f"}])
    metrics = (await api.get("/metrics")).text
    assert (
        'mode="non_streaming",model_name="fake/model",outcome="no_tool_call",request_type="responses"} 1.0' in metrics
    )
