"""reasoning_effort, include_reasoning, thinking_token_budget, and the variables that the template gets for them."""

import pytest

from server.schemas.chat import REASONING_EFFORTS
from tests.fake_llm import FakeLLM


def thinker(parser="qwen3"):
    return FakeLLM(reasoning_parser=parser)


async def read(api, **fields):
    answer = await api.chat(**fields)
    assert answer.status == 200, answer.text
    return api.llm.calls[-1].spec


@pytest.mark.parametrize(
    ("fields", "thinking"),
    [
        ({}, None),
        ({"chat_template_kwargs": {"mood": 1}}, None),
        ({"chat_template_kwargs": {"enable_thinking": False}}, False),
        ({"chat_template_kwargs": {"enable_thinking": True}}, True),
        ({"chat_template_kwargs": {"enable_thinking": None}}, None),
        ({"chat_template_kwargs": {"thinking": True}}, True),
        ({"chat_template_kwargs": {"thinking": False}}, False),
        ({"reasoning_effort": "none"}, False),
        ({"reasoning_effort": "high"}, True),
        ({"reasoning_effort": "none", "chat_template_kwargs": {"enable_thinking": True}}, True),
    ],
    ids=str,
)
async def test_the_reader_is_told_what_the_template_was(api, fields, thinking):
    assert (await read(api, **fields)).enable_thinking is thinking


async def test_a_default_of_the_server_counts_unless_the_request_says_otherwise(make_api):
    api = make_api(default_chat_template_kwargs={"enable_thinking": False})
    assert (await read(api)).enable_thinking is False
    assert (await read(api, chat_template_kwargs={"enable_thinking": True})).enable_thinking is True


async def test_include_reasoning_reaches_the_reader(api):
    told = [(await read(api, include_reasoning=value)).include_reasoning for value in (None, True, False, "no")]
    assert told == [True, True, False, False]


@pytest.mark.parametrize("budget", [0, 7, -1])
async def test_a_thinking_token_budget_needs_a_parser(make_api, budget):
    api = make_api(llm=thinker())
    assert (await api.chat(thinking_token_budget=budget)).status == 200
    assert api.llm.calls[-1].params.thinking_token_budget == budget
    error = (await make_api().chat(thinking_token_budget=budget)).error
    assert (error["code"], error["param"]) == (400, "thinking_token_budget")
    assert "--reasoning-parser" in error["message"]


@pytest.mark.parametrize("budget", [0, 7, -1])
async def test_completions_have_a_budget_too_under_the_same_checks(make_api, budget):
    api = make_api(llm=thinker())
    assert (await api.complete(thinking_token_budget=budget)).status == 200
    assert api.llm.calls[-1].params.thinking_token_budget == budget
    for wrong in ({"thinking_token_budget": -2}, {"thinking_token_budget": 3.14}):
        error = (await api.complete(**wrong)).error
        assert error["param"].removeprefix("body.") == "thinking_token_budget"
    error = (await make_api().complete(thinking_token_budget=budget)).error
    assert error["param"] == "thinking_token_budget" and "--reasoning-parser" in error["message"]


@pytest.mark.parametrize("effort", REASONING_EFFORTS)
async def test_a_reasoning_effort_of_gpt_oss_is_low_medium_or_high(make_api, effort):
    assert (await make_api(llm=thinker()).chat(reasoning_effort=effort)).status == 200
    answer = await make_api(llm=thinker("openai_gptoss")).chat(reasoning_effort=effort)
    assert answer.status == (200 if effort in ("low", "medium", "high") else 400)
    assert answer.status == 200 or answer.error["param"] == "reasoning_effort"


async def test_what_counts_is_the_effort_that_the_template_sees(make_api):
    api = make_api(llm=thinker("openai_gptoss"), reasoning_effort_map={"none": "low", "high": "max"})
    assert (await api.chat(reasoning_effort="none")).status == 200
    assert api.llm.rendered[-1]["template_kwargs"]["reasoning_effort"] == "low"
    assert (await api.chat(reasoning_effort="high")).status == 400
