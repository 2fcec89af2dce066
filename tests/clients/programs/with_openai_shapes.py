"""The openai SDK in Python: structured outputs and tools, with its helpers for pydantic models and for streams."""

import json
import re

import openai
from checks import MODEL, URL, equal, holds, refused, run
from shapes import BY_EXAMPLE, HOW, MESSAGES, TOOLS, GetTime, GetWeather, Person, checked

client = openai.OpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0)
chat = client.chat.completions
ONE_CALL = {"tool_choice": "required", "parallel_tool_calls": False}
HELPED = [openai.pydantic_function_tool(GetWeather), openai.pydantic_function_tool(GetTime)]


def ask(**how):
    return chat.create(**{"model": MODEL, "messages": MESSAGES, **HOW, **how})


def a_model_parsed():
    answer = chat.parse(model=MODEL, messages=MESSAGES, response_format=Person, **HOW)
    (choice,) = answer.choices
    equal((type(choice.message.parsed), choice.finish_reason), (Person, "stop"), "parsed")
    equal(Person.model_validate_json(choice.message.content), choice.message.parsed, "the content")
    return choice.message.content


def a_model_in_a_stream():
    with chat.stream(model=MODEL, messages=MESSAGES, response_format=Person, **HOW) as events:
        seen = list(events)
        final = events.get_final_completion()
    equal(final.choices[0].message.parsed, chat_parsed(), "the final model")
    deltas = [event for event in seen if event.type == "content.delta"]
    holds(deltas and isinstance(deltas[-1].parsed, dict), "no partial objects on the way")
    (done,) = [event for event in seen if event.type == "content.done"]
    equal(done.parsed, final.choices[0].message.parsed, "content.done")
    return f"{len(deltas)} deltas"


def chat_parsed():
    return chat.parse(model=MODEL, messages=MESSAGES, response_format=Person, **HOW).choices[0].message.parsed


def too_short_a_limit_is_told():
    refused(
        openai.LengthFinishReasonError,
        lambda: chat.parse(model=MODEL, messages=MESSAGES, response_format=Person, **HOW | {"max_tokens": 5}),
    )


def json_object():
    (choice,) = ask(messages=BY_EXAMPLE, response_format={"type": "json_object"}).choices
    content = choice.message.content
    if choice.finish_reason == "length":  # nothing bounds it but the model's good sense
        holds(content.lstrip().startswith("{"), content)
        return "an object that is longer than the limit"
    holds(isinstance(json.loads(content), dict), content)
    return content


def a_choice_and_a_pattern():
    choice = ask(extra_body={"structured_outputs": {"choice": ["Paris", "London"]}}).choices[0]
    holds(choice.message.content in ("Paris", "London"), choice.message.content)
    pattern = "[A-Z][a-z]{1,8} [0-9]{2}"
    choices = ask(extra_body={"structured_outputs": {"regex": pattern}}, n=2, temperature=1, seed=7).choices
    for choice in choices:
        holds(re.fullmatch(pattern, choice.message.content), choice.message.content)
    return choices[0].message.content


def a_schema_that_cannot_be_enforced():
    schema = {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}
    shape = {"type": "json_schema", "json_schema": {"name": "set", "schema": schema}}
    error = refused(openai.BadRequestError, lambda: ask(response_format=shape))
    holds("uniqueItems" in error.message, error.message)


def any_tool():
    (choice,) = chat.parse(model=MODEL, messages=MESSAGES, tools=HELPED, **ONE_CALL, **HOW).choices
    equal((choice.finish_reason, choice.message.content or ""), ("tool_calls", ""), "a call and nothing else")
    (call,) = choice.message.tool_calls
    holds(isinstance(call.function.parsed_arguments, GetWeather | GetTime), call.function.arguments)
    return f"{call.function.name}({call.function.arguments})"


def any_number_of_calls():
    """A small model repeats itself until the limit; what is complete by then counts."""
    (choice,) = ask(tools=TOOLS, tool_choice="required").choices
    for call in choice.message.tool_calls:
        checked(call.function.name, call.function.arguments)
    holds(choice.finish_reason in ("tool_calls", "length"), choice.finish_reason)
    return f"{len(choice.message.tool_calls)} calls, {choice.finish_reason}"


def a_named_tool():
    answer = ask(tools=TOOLS, tool_choice={"type": "function", "function": {"name": "GetTime"}})
    (choice,) = answer.choices
    (call,) = choice.message.tool_calls
    equal((call.type, call.function.name, choice.finish_reason), ("function", "GetTime", "stop"), "the call")
    checked(call.function.name, call.function.arguments)


def tools_in_a_stream():
    whole = ask(tools=HELPED, **ONE_CALL).choices[0].message.tool_calls
    with chat.stream(model=MODEL, messages=MESSAGES, tools=HELPED, **ONE_CALL, **HOW) as events:
        seen = list(events)
        (choice,) = events.get_final_completion().choices
    done = [event for event in seen if event.type == "tool_calls.function.arguments.done"]
    found = [(event.index, event.name, event.arguments) for event in done]
    equal(found, [(i, one.function.name, one.function.arguments) for i, one in enumerate(whole)], "calls")
    equal([call.function.arguments for call in choice.message.tool_calls], [one[2] for one in found], "the final calls")
    equal(choice.finish_reason, "tool_calls", "finish_reason")
    return f"{sum(event.type == 'tool_calls.function.arguments.delta' for event in seen)} deltas"


def deltas_of_a_call():
    chunks = list(ask(tools=TOOLS, tool_choice="required", stream=True))
    deltas = [one for chunk in chunks for choice in chunk.choices for one in choice.delta.tool_calls or ()]
    firsts = [one for one in deltas if one.id]
    equal([one.index for one in firsts], list(range(len(firsts))), "indices")
    holds(all(one.function.name and one.type == "function" for one in firsts), "a first delta without name or type")
    holds(not any(one.function.name or one.type for one in deltas if not one.id), "a name told twice")
    equal(len({one.id for one in firsts}), len(firsts), "different ids")


def tools_as_the_model_likes():
    """A call, an answer in words, or the refusal of a model that knows no calls."""
    try:
        (choice,) = ask(tools=TOOLS, tool_choice="auto").choices
    except openai.BadRequestError as error:
        holds("--tool-call-parser" in error.message, error.message)
        return "refused: the model knows no calls"
    calls = choice.message.tool_calls or ()
    holds(calls or choice.message.content, "neither a call nor words")
    holds(
        "<tool_call>" not in (choice.message.content or "") or choice.finish_reason == "length", "markup in the words"
    )
    return choice.message.content or str([call.function.name for call in calls])


def a_call_and_its_result():
    (choice,) = ask(tools=TOOLS, tool_choice={"type": "function", "function": {"name": "GetTime"}}).choices
    result = {"role": "tool", "tool_call_id": choice.message.tool_calls[0].id, "content": "12:30"}
    answer = ask(messages=[*MESSAGES, choice.message, result], tools=TOOLS, tool_choice="none", max_tokens=24)
    holds(answer.choices[0].message.content and not answer.choices[0].message.tool_calls, "no words")


def tools_beside_a_constraint():
    shape = {"structured_outputs": {"regex": "a+"}}
    refused(openai.BadRequestError, lambda: ask(tools=TOOLS, tool_choice="required", extra_body=shape))


run(
    a_model_parsed,
    a_model_in_a_stream,
    too_short_a_limit_is_told,
    json_object,
    a_choice_and_a_pattern,
    a_schema_that_cannot_be_enforced,
    any_tool,
    any_number_of_calls,
    a_named_tool,
    tools_in_a_stream,
    deltas_of_a_call,
    tools_as_the_model_likes,
    a_call_and_its_result,
    tools_beside_a_constraint,
)
