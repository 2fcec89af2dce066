"""The Responses API by the openai SDK in Python."""

import time

import openai
from checks import MODEL, QUESTION, UNKNOWN_MODEL, URL, equal, holds, run

client = openai.OpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0)
TOOL = {
    "type": "function",
    "name": "get_weather",
    "description": "Tells the weather in a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
YES_OR_NO = {
    "type": "custom",
    "name": "vote",
    "description": "Takes a vote.",
    "format": {"type": "grammar", "syntax": "lark", "definition": 'start: "yes" | "no"'},
}


def ask(**how):
    fields = {"model": MODEL, "input": QUESTION, "max_output_tokens": 24, "temperature": 0}
    return client.responses.create(**{**fields, **how})


def plain_response():
    response = ask()
    equal((response.status, response.incomplete_details.reason), ("incomplete", "max_output_tokens"), "ends")
    equal(response.usage.output_tokens, 24, "output_tokens")
    holds(response.output, "an empty answer")
    return response.output_text


def stream():
    with client.responses.stream(model=MODEL, input=QUESTION, max_output_tokens=24, temperature=0) as events:
        pieces = [event.delta for event in events if event.type == "response.output_text.delta"]
    equal("".join(pieces), ask().output_text, "the pieces together")
    return f"{len(pieces)} pieces"


def a_conversation_that_is_kept():
    first = ask()
    second = ask(input="And at night?", previous_response_id=first.id)
    holds(second.usage.input_tokens > first.usage.input_tokens, "the conversation is not longer")
    equal(client.responses.retrieve(second.id).output_text, second.output_text, "what is kept")
    client.responses.delete(first.id)


def in_the_background():
    response = ask(background=True)
    while response.status in ("queued", "in_progress"):
        time.sleep(0.1)
        response = client.responses.retrieve(response.id)
    equal(response.output_text, ask().output_text, "the answer")


def a_call_that_is_forced():
    call, *_ = ask(tools=[TOOL], tool_choice="required", max_output_tokens=60).output
    equal((call.type, call.name), ("function_call", "get_weather"), "the item")
    return call.arguments


def a_custom_tool_with_a_grammar():
    (call,) = ask(tools=[YES_OR_NO], tool_choice={"type": "custom", "name": "vote"}).output
    equal((call.type, call.input in ("yes", "no")), ("custom_tool_call", True), "the item")
    return call.input


def unknown_model():
    try:
        ask(model=UNKNOWN_MODEL)
    except openai.NotFoundError as error:
        return str(error)
    raise AssertionError("it was answered")


run(
    plain_response,
    stream,
    a_conversation_that_is_kept,
    in_the_background,
    a_call_that_is_forced,
    a_custom_tool_with_a_grammar,
    unknown_model,
)
