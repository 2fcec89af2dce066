"""The OpenAI Agents SDK in Python in both of its modes, Responses and chat completions: loops with tools."""

import asyncio

import openai
from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    SQLiteSession,
    function_tool,
    handoff,
    set_tracing_disabled,
)
from checks import MODEL, URL, equal, run
from pydantic import BaseModel
from tasks import DONE, FUNCTIONS, HELLO, NUM_TURNS, SAID, TASK

set_tracing_disabled(True)
TOOLS = [function_tool(function) for function in FUNCTIONS.values()]


class Place(BaseModel):
    city: str


def make_agent(kind, **how):
    """Make an agent with a client of its own: each trial has its own event loop."""
    client = openai.AsyncOpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0)
    return Agent(name="agent", instructions="Be brief.", model=kind(model=MODEL, openai_client=client), **how)


def loop(kind):
    result = Runner.run_sync(make_agent(kind, tools=TOOLS), TASK)
    equal((result.final_output, len(result.raw_responses)), (DONE, NUM_TURNS), "the last text, and turns")


def streamed_loop(kind):
    async def collect():
        result = Runner.run_streamed(make_agent(kind, tools=TOOLS), TASK)
        kinds = [event.type async for event in result.stream_events()]
        return kinds.count("run_item_stream_event") > 0, result.final_output

    equal(asyncio.run(collect()), (True, DONE), "items, and the last text")


def typed_answer(kind):
    result = Runner.run_sync(make_agent(kind, output_type=Place), HELLO)
    equal(result.final_output, Place(city="Oslo"), "the answer")


def tools_in_the_default_mode():
    loop(OpenAIResponsesModel)


def tools_in_a_stream_in_the_default_mode():
    streamed_loop(OpenAIResponsesModel)


def a_type_in_the_default_mode():
    typed_answer(OpenAIResponsesModel)


def tools_by_chat_completions():
    loop(OpenAIChatCompletionsModel)


def tools_in_a_stream_by_chat_completions():
    streamed_loop(OpenAIChatCompletionsModel)


def a_type_by_chat_completions():
    typed_answer(OpenAIChatCompletionsModel)


def the_response_before():
    first = Runner.run_sync(make_agent(OpenAIResponsesModel), HELLO)
    agent = make_agent(OpenAIResponsesModel, tools=TOOLS)
    result = Runner.run_sync(agent, TASK, previous_response_id=first.last_response_id)
    equal(result.final_output, DONE, "the last text")


def a_response_before_each_turn():
    agent = make_agent(OpenAIResponsesModel, tools=TOOLS)
    result = Runner.run_sync(agent, TASK, auto_previous_response_id=True)
    equal(result.final_output, DONE, "the last text")


def a_session():
    async def talk():
        agent, session = make_agent(OpenAIResponsesModel, tools=TOOLS), SQLiteSession("one")
        await Runner.run(agent, TASK, session=session)
        return (await Runner.run(agent, HELLO, session=session)).final_output

    equal(asyncio.run(talk()), SAID, "the text")


def a_handoff():
    worker = make_agent(OpenAIResponsesModel, tools=TOOLS)
    worker.name = "worker"
    desk = make_agent(OpenAIResponsesModel, handoffs=[handoff(worker)])
    result = Runner.run_sync(desk, 'call transfer_to_worker with {} then call get_time with {"city":"Oslo"}')
    equal(result.last_agent.name, "worker", "the last agent")


def nothing_is_kept():
    settings = ModelSettings(store=False, response_include=["reasoning.encrypted_content"])
    result = Runner.run_sync(make_agent(OpenAIResponsesModel, tools=TOOLS, model_settings=settings), TASK)
    equal(result.final_output, DONE, "the last text")


run(
    tools_in_the_default_mode,
    tools_in_a_stream_in_the_default_mode,
    a_type_in_the_default_mode,
    tools_by_chat_completions,
    tools_in_a_stream_by_chat_completions,
    a_type_by_chat_completions,
    the_response_before,
    a_response_before_each_turn,
    a_session,
    a_handoff,
    nothing_is_kept,
)
