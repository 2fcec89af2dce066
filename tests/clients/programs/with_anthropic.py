"""The anthropic SDK in Python."""

import anthropic
from checks import MESSAGES, MODEL, UNKNOWN_MODEL, URL, equal, holds, run

client = anthropic.Anthropic(base_url=URL, api_key="none", max_retries=0)
GREEDY = {"extra_body": {"temperature": 0}}
TOOL = {
    "name": "get_weather",
    "description": "Tells the weather in a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


def ask(**how):
    return client.messages.create(**{"model": MODEL, "max_tokens": 24, "messages": MESSAGES, **GREEDY, **how})


def text_of(message):
    return "".join(block.text for block in message.content if block.type == "text")


def plain_message():
    message = ask()
    equal((message.type, message.role, message.model), ("message", "assistant", MODEL), "is")
    equal((message.stop_reason, message.usage.output_tokens), ("max_tokens", 24), "ends")
    holds(message.content, "an empty answer")
    return text_of(message)


def stream():
    with client.messages.stream(model=MODEL, max_tokens=24, messages=MESSAGES, **GREEDY) as events:
        pieces = list(events.text_stream)
        final = events.get_final_message()
    equal("".join(pieces), text_of(final), "the pieces together")
    equal(text_of(final), text_of(ask()), "the stream")
    return f"{len(pieces)} pieces"


def tokens_are_counted():
    counted = client.messages.count_tokens(model=MODEL, messages=MESSAGES)
    equal(counted.input_tokens, ask().usage.input_tokens, "input_tokens")


def a_call_that_is_forced():
    message = ask(tools=[TOOL], tool_choice={"type": "tool", "name": "get_weather"}, max_tokens=60)
    (use,) = message.content
    equal((use.type, use.name), ("tool_use", "get_weather"), "the block")
    return str(use.input)


def unknown_model():
    try:
        ask(model=UNKNOWN_MODEL)
    except anthropic.NotFoundError as error:
        return str(error)
    raise AssertionError("it was answered")


run(plain_message, stream, tokens_are_counted, a_call_that_is_forced, unknown_model)
