"""langchain-openai: ChatOpenAI that asks /v1/responses."""

from checks import MODEL, URL, equal, holds, run
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from tasks import DONE, FUNCTIONS, HELLO, NUM_TURNS, SAID, TASK, THOUGHT

TOOLS = {name: tool(function) for name, function in FUNCTIONS.items()}


def model(**how):
    settings = {"model": MODEL, "max_retries": 0, "use_responses_api": True, **how}
    return ChatOpenAI(base_url=f"{URL}/v1", api_key="none", **settings)


def an_answer():
    answer = model().invoke(HELLO)
    equal(answer.text, SAID, "the text")
    holds(answer.usage_metadata["output_tokens"], "no usage")
    holds(answer.response_metadata["id"].startswith("resp_"), "it is no response")


def a_stream():
    first, *rest = model().stream(HELLO)
    for chunk in rest:
        first += chunk
    equal(first.text, SAID, "the chunks together")
    holds(first.usage_metadata["output_tokens"], "no usage")


def reasoning():
    answer = model(reasoning={"summary": "detailed"}, output_version="responses/v1").invoke(HELLO)
    thought = next(block for block in answer.content if block["type"] == "reasoning")
    equal(thought["summary"][0]["text"], THOUGHT, "the summary")


def a_conversation_that_is_kept():
    first = model().invoke(HELLO)
    second = model().invoke("And you?", previous_response_id=first.response_metadata["id"])
    holds(second.usage_metadata["input_tokens"] > first.usage_metadata["input_tokens"], "it is not longer")


def the_response_before_by_itself():
    bound = model(use_previous_response_id=True).bind_tools(list(TOOLS.values()))
    equal(loop(bound), (DONE, NUM_TURNS), "the last text, and turns")


def tools():
    equal(loop(model().bind_tools(list(TOOLS.values()))), (DONE, NUM_TURNS), "the last text, and turns")


def tools_that_are_not_kept():
    settings = {"store": False, "include": ["reasoning.encrypted_content"], "output_version": "responses/v1"}
    equal(loop(model(**settings).bind_tools(list(TOOLS.values()))), (DONE, NUM_TURNS), "the last text, and turns")


def tools_in_a_stream():
    bound = model().bind_tools(list(TOOLS.values()))

    def ask(messages):
        first, *rest = bound.stream(messages)
        for chunk in rest:
            first += chunk
        return first

    equal(loop(bound, ask), (DONE, NUM_TURNS), "the last text, and turns")


def an_object():
    schema = {"title": "Place", "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    place = model().with_structured_output(schema, method="json_schema").invoke(HELLO)
    equal(place, {"city": "Oslo"}, "the object")


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
    reasoning,
    a_conversation_that_is_kept,
    tools,
    the_response_before_by_itself,
    tools_that_are_not_kept,
    tools_in_a_stream,
    an_object,
)
