"""langchain-anthropic: ChatAnthropic with a base URL."""

import anthropic
from checks import MODEL, UNKNOWN_MODEL, URL, equal, holds, refused, run
from langchain_anthropic import ChatAnthropic
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from tasks import DONE, FUNCTIONS, HELLO, NUM_TURNS, SAID, TASK, THOUGHT

TOOLS = {name: tool(function) for name, function in FUNCTIONS.items()}
THINKING = {"type": "enabled", "budget_tokens": 1024}


def model(**how):
    settings = {"model": MODEL, "max_tokens": 4000, "max_retries": 0, **how}
    return ChatAnthropic(base_url=URL, api_key="none", **settings)


def an_answer():
    answer = model().invoke(HELLO)
    equal(answer.text, SAID, "the text")
    holds(answer.usage_metadata["output_tokens"], "no usage")


def a_stream():
    first, *rest = model().stream(HELLO)
    for chunk in rest:
        first += chunk
    equal(first.text, SAID, "the chunks together")


def thinking():
    answer = model(thinking=THINKING).invoke(HELLO)
    equal([block["type"] for block in answer.content], ["thinking", "text"], "the blocks")
    equal(answer.content[0]["thinking"], THOUGHT, "the thinking")


def tokens_are_counted():
    counted = model().get_num_tokens_from_messages([HumanMessage(HELLO)])
    equal(counted, model().invoke(HELLO).usage_metadata["input_tokens"], "input tokens")


def tools():
    equal(loop(model().bind_tools(list(TOOLS.values()))), (DONE, NUM_TURNS), "the last text, and turns")


def tools_in_a_stream_with_thinking():
    bound = model(thinking=THINKING).bind_tools(list(TOOLS.values()))

    def ask(messages):
        first, *rest = bound.stream(messages)
        for chunk in rest:
            first += chunk
        return first

    equal(loop(bound, ask), (DONE, NUM_TURNS), "the last text, and turns")


def an_object():
    schema = {"title": "Place", "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    place = model().with_structured_output(schema).invoke(HELLO)
    equal(place, {"city": "Oslo"}, "the object")


def unknown_model():
    refused(anthropic.NotFoundError, lambda: model(model=UNKNOWN_MODEL).invoke(HELLO))


def loop(bound, ask=None):
    messages = [HumanMessage(TASK)]
    for turn in range(1, 6):
        answer = (ask or bound.invoke)(messages)
        messages.append(answer)
        if not answer.tool_calls:
            return answer.text, turn
        results = [(call["id"], TOOLS[call["name"]].invoke(call["args"])) for call in answer.tool_calls]
        messages += [ToolMessage(output, tool_call_id=call_id) for call_id, output in results]
    raise AssertionError("the calls do not end")


run(
    an_answer,
    a_stream,
    thinking,
    tokens_are_counted,
    tools,
    tools_in_a_stream_with_thinking,
    an_object,
    unknown_model,
)
