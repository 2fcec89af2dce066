"""What becomes of the fields of a Messages request that are not messages."""

from dataclasses import asdict

import pytest

from jaxserve import NamedTool
from server.schemas.fields import get_rows
from server.schemas.messages import MessagesRequest
from tests.fake_llm import CONTEXT, FakeLLM
from tests.server.test_messages_reply import TOOL

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
BUILT_IN = [{"type": "web_search_20250305", "name": "web_search"}, {"type": "bash_20250124", "name": "bash"}]
LONG = {"max_tokens": 4000}


async def get_ready(api, **fields):
    """What the engine was given."""
    reply = await api.message(**fields)
    assert reply.status == 200, reply.text
    return api.llm.calls[-1]


@pytest.mark.parametrize(
    ("field", "value", "parameter", "expected"),
    [
        ("max_tokens", 9, "max_tokens", 9),
        ("temperature", 0.5, "temperature", 0.5),
        ("top_p", 0.4, "top_p", 0.4),
        ("top_k", 7, "top_k", 7),
        ("stop_sequences", ["END"], "stop", ("END",)),
    ],
)
async def test_a_field_becomes_that_of_chat(api, field, value, parameter, expected):
    assert getattr((await get_ready(api, **{field: value})).params, parameter) == expected


@pytest.mark.parametrize(
    ("field", "value"),
    {
        "metadata": {"user_id": "user_1_account__session_2"},
        "service_tier": "auto",
        "cache_control": {"type": "ephemeral"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "speed": "fast",
        "inference_geo": "eu",
        "diagnostics": {"previous_message_id": None},
        "billing_policy": {"type": "x"},
        "fallbacks": [{"model": "claude"}],
        "fallback_credit_token": "x",
        "vllm_xargs": {"x": 1},
        "mm_payload": "none",
        "return_mm_kwargs": False,
        "no_such_field": 1,
    }.items(),
)
async def test_what_has_no_effect_changes_nothing(api, field, value):
    assert asdict((await get_ready(api)).params) == asdict((await get_ready(api, **{field: value})).params)


@pytest.mark.parametrize(
    ("field", "value"),
    {
        "mcp_servers": [{"type": "url"}],
        "container": "c",
        "compaction": {"type": "x"},
        "thread": {"type": "create"},
        "kv_transfer_params": {"do_remote_decode": True},
        "ec_transfer_params": {"x": 1},
        "watermarking": True,
    }.items(),
)
async def test_what_is_not_offered_is_refused_by_name(api, field, value):
    reply = await api.message(**{field: value})
    assert reply.status == 400 and reply.error["message"].startswith(f"{field} is not supported yet")
    for nothing in (None, *get_rows(MessagesRequest)[field].neutral):
        assert (await api.message(**{field: nothing})).status == 200


async def test_the_salt_reaches_the_engine(api):
    assert (await get_ready(api, cache_salt="pepper")).cache_salt == "pepper"
    assert (await api.message(cache_salt="a/b")).error["message"].startswith("cache_salt must have")


async def test_a_thread_is_refused_as_the_sdk_expects_it(api):
    error = (await api.message(thread={"type": "create"})).error
    assert error["details"] == {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}
    assert "details" not in (await api.message(container="c")).error


@pytest.mark.parametrize("max_tokens", [CONTEXT + 1, 32_000, 2**62])
async def test_more_tokens_than_fit_are_as_many_as_fit(api, max_tokens):
    ready = await get_ready(api, max_tokens=max_tokens)
    assert ready.params.max_tokens == CONTEXT - len(ready.prompt_ids)


async def test_thinking_is_switched_and_limited(make_api):
    api = make_api(llm=FakeLLM(reasoning_parser="qwen3", max_model_len=10_000))
    ready = await get_ready(api, **LONG, thinking={"type": "enabled", "budget_tokens": 2000, "display": "summarized"})
    assert ready.params.thinking_token_budget == 2000
    assert api.llm.rendered[-1]["template_kwargs"] == {"enable_thinking": True, "thinking": True}
    ready = await get_ready(api, thinking={"type": "disabled"})
    assert not api.llm.rendered[-1]["template_kwargs"]["enable_thinking"] and ready.params.thinking_token_budget is None
    await get_ready(api, thinking={"type": "adaptive", "display": "updates"})
    assert api.llm.rendered[-1]["template_kwargs"] == {}
    plain = make_api(llm=FakeLLM(max_model_len=10_000))
    ready = await get_ready(plain, **LONG, thinking={"type": "enabled", "budget_tokens": 2000})
    assert ready.params.thinking_token_budget is None, "this model does not reason"


async def test_variables_of_the_template_reach_it(api):
    await get_ready(api, chat_template_kwargs={"mood": "good", "enable_thinking": True})
    assert api.llm.rendered[-1]["template_kwargs"] == {"mood": "good", "enable_thinking": True}
    await get_ready(api, chat_template_kwargs={"mood": "good", "thinking": True}, thinking={"type": "disabled"})
    off = {"enable_thinking": False, "thinking": False}
    assert api.llm.rendered[-1]["template_kwargs"] == {"mood": "good", **off}
    wrong = await api.message(chat_template_kwargs={"tokenize": True})
    assert wrong.status == 400 and wrong.error["message"].startswith("chat_template_kwargs")


@pytest.mark.parametrize(
    "thinking",
    [
        {"type": "enabled"},
        {"type": "enabled", "budget_tokens": 1023},
        {"type": "enabled", "budget_tokens": 4000},
        {"type": "between_tools"},
        {"type": "adaptive", "display": "loud"},
    ],
)
async def test_thinking_that_cannot_be_served_is_refused(make_api, thinking):
    reply = await make_api(llm=FakeLLM(max_model_len=10_000)).message(**LONG, thinking=thinking)
    assert reply.status == 400 and reply.error["message"].startswith("thinking.")


async def test_effort_and_format_are_those_of_chat(api):
    form = {"type": "json_schema", "schema": SCHEMA}
    ready = await get_ready(api, output_config={"effort": "max", "format": form})
    assert api.llm.rendered[-1]["template_kwargs"]["reasoning_effort"] == "max"
    assert ready.params.structured_outputs.json is not None
    assert (await get_ready(api, output_format=form)).params.structured_outputs == ready.params.structured_outputs
    for wrong in ({"effort": "huge"}, {"format": {"type": "yaml"}}, {"format": {"type": "json_schema"}}):
        reply = await api.message(output_config=wrong)
        assert reply.status == 400 and reply.error["message"].startswith("output_config.")


async def test_tools_become_functions(make_api):
    api = make_api(llm=FakeLLM(tool_parser="hermes"))
    tools = [{**TOOL, "type": "custom", "cache_control": {"type": "ephemeral"}}, {**TOOL, "name": "g", "strict": True}]
    reply = await api.message(tools=[*tools, *BUILT_IN])
    functions = [tool["function"] for tool in api.llm.rendered[-1]["tools"]]
    plain = {"name": "f", "description": TOOL["description"], "parameters": TOOL["input_schema"]}
    assert functions == [plain, {**plain, "name": "g", "strict": True}]
    assert reply.headers["x-jaxserve-ignored-tools"] == "web_search_20250305, bash_20250124"
    for wrong in ({"name": "f"}, {**TOOL, "type": "function"}, {**TOOL, "name": ""}):
        refused = await api.message(tools=[wrong])
        assert refused.status == 400 and refused.error["message"].startswith("tools[0]")


@pytest.mark.parametrize(
    ("choice", "chat_choice"),
    [
        (None, "auto"),
        ({"type": "auto"}, "auto"),
        ({"type": "any"}, "required"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "f"}, NamedTool("f")),
    ],
)
async def test_what_a_tool_choice_comes_to(make_api, choice, chat_choice):
    api = make_api(llm=FakeLLM(tool_parser="hermes"))
    spec = (await get_ready(api, tools=[TOOL], tool_choice=choice)).spec
    assert (spec.tool_choice, spec.parallel_tool_calls) == (chat_choice, True)
    if choice is not None:
        one = {**choice, "disable_parallel_tool_use": True}
        assert not (await get_ready(api, tools=[TOOL], tool_choice=one)).spec.parallel_tool_calls


@pytest.mark.parametrize("choice", [{"type": "tool", "name": "web_search"}, {"type": "tool"}, {"type": "some"}])
async def test_a_choice_that_cannot_be_served_is_refused(make_api, choice):
    reply = await make_api(llm=FakeLLM(tool_parser="hermes")).message(tools=[TOOL, *BUILT_IN], tool_choice=choice)
    assert reply.status == 400 and reply.error["message"].startswith("tool_choice")
    assert "function" not in reply.error["message"], "clients of this API know no functions"
