"""The OpenAI Agents SDK in Python, in its default mode, which is the Responses API."""

import asyncio

import openai
from agents import Agent, ModelSettings, Runner, function_tool, set_default_openai_client, set_tracing_disabled
from checks import MODEL, URL, equal, holds, run

QUESTION = "What is the capital of Japan?"  # whose answer ends: the SDK takes one that was cut off for an error
set_tracing_disabled(True)
asked: list[str] = []


@function_tool
def get_weather(city: str) -> str:
    """Tells the weather in a city."""
    asked.append(city)
    return "sunny"


def make_agent(**how):
    """Make an agent with a client of its own: each trial has its own event loop."""
    set_default_openai_client(openai.AsyncOpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0))
    settings = ModelSettings(temperature=0, max_tokens=60, **how)
    return Agent(name="agent", instructions="Be brief.", model=MODEL, model_settings=settings)


def an_answer():
    result = Runner.run_sync(make_agent(), QUESTION)
    holds(result.final_output, "an empty answer")
    return result.final_output


def an_answer_streamed():
    async def collect():
        result = Runner.run_streamed(make_agent(), QUESTION)
        kinds = [event.data.type async for event in result.stream_events() if event.type == "raw_response_event"]
        return kinds, result.final_output

    kinds, text = asyncio.run(collect())
    holds("response.output_text.delta" in kinds, "no delta")
    holds(text, "an empty answer")


def a_tool_and_its_result():
    agent = make_agent(tool_choice="required")
    agent.tools = [get_weather]
    agent.tool_use_behavior = "stop_on_first_tool"
    result = Runner.run_sync(agent, "What is the weather in Paris?")
    equal((result.final_output, bool(asked)), ("sunny", True), "the result")
    return asked[0]


run(an_answer, an_answer_streamed, a_tool_and_its_result)
