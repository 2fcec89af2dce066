"""pydantic-ai with its provider for vLLM: typed answers in its three ways, and tools."""

from checks import MODEL, QUESTION, UNKNOWN_MODEL, URL, equal, holds, refused, run
from pydantic_ai import Agent, NativeOutput, PromptedOutput, ToolOutput, UsageLimits
from pydantic_ai.exceptions import ModelHTTPError, UnexpectedModelBehavior, UsageLimitExceeded
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.vllm import VLLMProvider
from pydantic_ai.settings import ModelSettings
from shapes import MESSAGES, GetTime, Person

ASKED = MESSAGES[0]["content"]
provider = VLLMProvider(base_url=f"{URL}/v1", api_key="none")


def agent(name=MODEL, max_tokens=400, **how):
    settings = ModelSettings(temperature=0, max_tokens=max_tokens)
    return Agent(OpenAIChatModel(name, provider=provider), model_settings=settings, retries=0, **how)


def words():
    answer = agent(max_tokens=24).run_sync(QUESTION)
    holds(answer.output and answer.usage.output_tokens, "an empty answer")
    return answer.output


def a_model_by_its_schema():
    answer = agent(output_type=NativeOutput(Person)).run_sync(ASKED)
    holds(isinstance(answer.output, Person), repr(answer.output))
    return repr(answer.output)


def a_model_by_a_tool():
    answer = agent(output_type=ToolOutput(Person, name="person")).run_sync(ASKED)
    holds(isinstance(answer.output, Person), repr(answer.output))


def one_of_several_models_by_tools():
    answer = agent(output_type=[ToolOutput(Person), ToolOutput(GetTime)]).run_sync(ASKED)
    holds(isinstance(answer.output, Person | GetTime), repr(answer.output))
    return type(answer.output).__name__


def a_model_by_a_prompt():
    """In JSON mode: whether it fits, and fits into the limit, is the model's luck; that it is JSON is not."""
    try:
        answer = agent(output_type=PromptedOutput(GetTime)).run_sync(ASKED)
    except UnexpectedModelBehavior as error:
        why = str(error.__cause__ or error)
        holds("json_invalid" not in why or "EOF while parsing" in why, why)
        return "JSON, of another shape or cut by the limit"
    holds(isinstance(answer.output, GetTime), repr(answer.output))


def a_tool_on_the_way():
    """The model must call one of two tools each time: its own, or the one that ends the run."""
    asked = []
    trip = agent(output_type=ToolOutput(GetTime, name="done"))

    @trip.tool_plain
    def weather(city: str) -> str:
        """The weather in a city."""
        asked.append(city)
        return "sunny"

    try:
        answer = trip.run_sync(ASKED, usage_limits=UsageLimits(request_limit=4))
    except UsageLimitExceeded:
        equal(len(asked) >= 4, True, "a call in each turn")
        return f"called {len(asked)} times, and never done"
    holds(isinstance(answer.output, GetTime), repr(answer.output))
    return f"called {len(asked)} times"


def a_model_in_a_stream():
    streamed = agent(output_type=NativeOutput(Person)).run_stream_sync(ASKED)
    *_, last = streamed.stream_output(debounce_by=None)
    equal(last, agent(output_type=NativeOutput(Person)).run_sync(ASKED).output, "the last one")


def unknown_model():
    error = refused(ModelHTTPError, lambda: agent(UNKNOWN_MODEL).run_sync(QUESTION))
    equal(error.status_code, 404, "status")


run(
    words,
    a_model_by_its_schema,
    a_model_by_a_tool,
    one_of_several_models_by_tools,
    a_model_by_a_prompt,
    a_tool_on_the_way,
    a_model_in_a_stream,
    unknown_model,
)
