"""What becomes of the fields of a Responses request that are not items or tools."""

from dataclasses import asdict

import pytest

from server.schemas.fields import get_rows
from server.schemas.responses import ResponsesRequest
from tests.fake_llm import CONTEXT, FakeLLM

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


async def get_ready(api, **fields):
    """What the engine was given."""
    reply = await api.respond(**fields)
    assert reply.status == 200, reply.text
    return api.llm.calls[-1]


@pytest.mark.parametrize(
    ("field", "value", "parameter", "expected"),
    [
        ("max_output_tokens", 9, "max_tokens", 9),
        ("temperature", 0.5, "temperature", 0.5),
        ("top_p", 0.4, "top_p", 0.4),
        ("top_k", 7, "top_k", 7),
        ("min_p", 0.1, "min_p", 0.1),
        ("presence_penalty", 0.2, "presence_penalty", 0.2),
        ("frequency_penalty", 0.3, "frequency_penalty", 0.3),
        ("repetition_penalty", 1.2, "repetition_penalty", 1.2),
        ("seed", 5, "seed", 5),
        ("stop", ["END"], "stop", ("END",)),
        ("logit_bias", {"7": 1.5}, "logit_bias", ((7, 1.5),)),
        ("stop_token_ids", [5], "stop_token_ids", (5,)),
        ("include_stop_str_in_output", True, "include_stop_str_in_output", True),
        ("ignore_eos", True, "ignore_eos", True),
        ("skip_special_tokens", False, "skip_special_tokens", False),
        ("priority", 3, "priority", 3),
    ],
)
async def test_a_field_becomes_that_of_chat(make_api, field, value, parameter, expected):
    llm = FakeLLM(scheduling_policy="priority", tool_parser="hermes")
    ready = await get_ready(make_api(llm=llm), **{field: value})
    assert getattr(ready.params, parameter) == expected
    ready = await get_ready(
        make_api(llm=llm), cache_salt="pepper", parallel_tool_calls=False, tools=[{"type": "function", "name": "f"}]
    )
    assert (ready.cache_salt, ready.spec.parallel_tool_calls) == ("pepper", False)


@pytest.mark.parametrize("max_output_tokens", [CONTEXT + 1, 128_000, 2**62])
async def test_more_tokens_than_fit_are_as_many_as_fit(api, max_output_tokens):
    ready = await get_ready(api, max_output_tokens=max_output_tokens)
    assert ready.params.max_tokens == CONTEXT - len(ready.prompt_ids)


@pytest.mark.parametrize(
    ("field", "value"),
    {
        "max_tool_calls": 2,
        "user": "u",
        "safety_identifier": "s",
        "prompt_cache_key": "k",
        "prompt_cache_retention": "24h",
        "prompt_cache_options": {"mode": "implicit"},
        "service_tier": "flex",
        "stream_options": {"include_obfuscation": True},
        "client_metadata": {"x": 1},
        "background_options": {"completion_window": "2h"},
        "access_programs": ["x"],
        "image": {"x": 1},
        "spaces_between_special_tokens": False,
        "session_id": "s",
        "vllm_xargs": {"x": 1},
        "mm_payload": "none",
        "return_mm_kwargs": False,
        "text": {"verbosity": "low"},
        "no_such_field": 1,
    }.items(),
)
async def test_what_has_no_effect_changes_nothing(api, field, value):
    assert asdict((await get_ready(api)).params) == asdict((await get_ready(api, **{field: value})).params)
    assert (await api.respond(text={"verbosity": "shouting"})).error["param"] == "text.verbosity"


@pytest.mark.parametrize(
    ("field", "value"),
    {
        "prompt": {"id": "pmpt_1"},
        "conversation": "conv_1",
        "context_management": [{"type": "compaction"}],
        "moderation": {"model": "omni"},
        "kv_transfer_params": {"do_remote_decode": True},
        "ec_transfer_params": {"x": 1},
        "watermarking": True,
        "enable_response_messages": True,
        "previous_input_messages": [{"role": "user"}],
    }.items(),
)
async def test_what_is_not_offered_is_refused_by_name(api, field, value):
    reply = await api.respond(**{field: value})
    assert (reply.status, reply.error["param"]) == (400, field)
    assert reply.error["message"].startswith(f"{field} is not supported yet")
    for nothing in (None, *get_rows(ResponsesRequest)[field].neutral):
        assert (await api.respond(**{field: nothing})).status == 200


async def test_variables_of_the_template_reach_it(api):
    await get_ready(api, chat_template_kwargs={"enable_thinking": False})
    assert api.llm.rendered[-1]["template_kwargs"] == {"enable_thinking": False}
    for wrong in ({"tokenize": True}, {"chat_template": "x"}):
        assert (await api.respond(chat_template_kwargs=wrong)).error["param"] == "chat_template_kwargs"


@pytest.mark.parametrize("field", ["mm_processor_kwargs", "media_io_kwargs"])
async def test_media_arguments_need_a_flag(make_api, field):
    value = {"image": {"size": 2}}
    reply = await make_api().respond(**{field: value})
    assert (reply.status, reply.error["param"]) == (400, field)
    await get_ready(make_api(trust_request_mm_kwargs=True), **{field: value})


async def test_what_has_no_effect_is_checked_all_the_same(api):
    assert (await api.respond(vllm_xargs={"x": {}})).error["param"] == "vllm_xargs"
    assert (await api.respond(mm_payload="some")).error["param"] == "body.mm_payload"


@pytest.mark.parametrize("effort", ["none", "minimal", "low", "medium", "high", "xhigh", "max"])
async def test_the_effort_reaches_the_template(api, effort):
    await get_ready(api, reasoning={"effort": effort})
    assert api.llm.rendered[-1]["template_kwargs"] == {"reasoning_effort": effort, "enable_thinking": effort != "none"}
    assert (await api.respond(reasoning={"effort": "huge"})).error["param"] == "reasoning.effort"


async def test_the_text_format_is_the_constraint_of_the_answer(api):
    form = {"type": "json_schema", "name": "n", "description": "d", "schema": SCHEMA, "strict": False}
    constraint = (await get_ready(api, text={"format": form})).params.structured_outputs
    assert constraint == (await get_ready(api, structured_outputs={"json": SCHEMA})).params.structured_outputs
    assert (await get_ready(api, text={"format": {"type": "json_object"}})).params.structured_outputs.json_object
    assert (await get_ready(api, text={"format": {"type": "text"}})).params.structured_outputs is None
    reply = await api.respond(text={"format": form}, structured_outputs={"regex": "a"})
    assert (reply.status, reply.error["param"]) == (400, "structured_outputs")
    for wrong in ({"type": "json_schema", "name": "n"}, {"type": "yaml"}):
        assert (await api.respond(text={"format": wrong})).error["param"] == "text.format"


async def test_a_grammar_that_does_not_compile_is_about_the_format(make_api):
    from jaxserve import InvalidParameter

    llm = FakeLLM()
    llm.plan_error = InvalidParameter("structured_outputs has a schema that nothing matches.", "structured_outputs")
    reply = await make_api(llm=llm).respond(text={"format": {"type": "json_schema", "name": "n", "schema": SCHEMA}})
    assert reply.error["param"] == "text.format"
    assert reply.error["message"] == "text.format has a schema that nothing matches."


async def test_truncation_drops_the_oldest_tokens(api):
    ready = await get_ready(api, input="x" * 99 + "y", truncation="auto")
    assert len(ready.prompt_ids) == CONTEXT - 1 and ready.prompt_ids[-2] == ord("y")
    assert (await api.respond(input="x" * 99, truncation="disabled")).error["param"] == "input"
    assert (await api.respond(truncation="some")).error["param"] == "truncation"


async def test_long_labels_are_refused(api):
    for name in ("user", "safety_identifier", "prompt_cache_key", "request_id", "session_id"):
        assert (await api.respond(**{name: "x" * 257})).error["param"] == name
