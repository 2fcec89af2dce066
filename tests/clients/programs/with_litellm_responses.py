"""litellm's Responses and Messages, each by the route of the same name and by translation to another."""

import asyncio
import json
import os

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else importing it asks the network for prices

import litellm
from checks import MODEL, UNKNOWN_MODEL, URL, equal, holds, refused, run
from tasks import CITY, DONE, FUNCTIONS, HELLO, NUM_TURNS, SAID, TASK

litellm.suppress_debug_info = True
OPENAI = {"model": f"openai/{MODEL}", "api_base": f"{URL}/v1", "api_key": "none"}
VLLM = {**OPENAI, "model": f"hosted_vllm/{MODEL}"}
ANTHROPIC = {"model": f"anthropic/{MODEL}", "api_base": URL, "api_key": "none"}
FUNCTION_TOOLS = [
    {"type": "function", "name": name, "description": function.__doc__, "parameters": CITY}
    for name, function in FUNCTIONS.items()
]
MESSAGE_TOOLS = [
    {"name": name, "description": function.__doc__, "input_schema": CITY} for name, function in FUNCTIONS.items()
]


def text_of(response):
    return "".join(part.text for item in response.output if item.type == "message" for part in item.content)


def a_response():
    response = litellm.responses(input=HELLO, **OPENAI)
    equal((text_of(response), response.status), (SAID, "completed"), "the response")
    holds(response.usage.input_tokens, "no usage")


def a_stream():
    events = list(litellm.responses(input=HELLO, stream=True, **OPENAI))
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    equal("".join(deltas), SAID, "the deltas together")
    equal(events[-1].type, "response.completed", "the last event")


def a_conversation_that_is_kept():
    first = litellm.responses(input=HELLO, **OPENAI)
    second = litellm.responses(input="And you?", previous_response_id=first.id, **OPENAI)
    holds(second.usage.input_tokens > first.usage.input_tokens, "the conversation is not longer")
    read = litellm.get_responses(response_id=second.id, custom_llm_provider="openai", **without_model(OPENAI))
    equal(text_of(read), text_of(second), "what is kept")
    litellm.delete_responses(response_id=second.id, custom_llm_provider="openai", **without_model(OPENAI))


def without_model(settings):
    return {name: value for name, value in settings.items() if name != "model"}


def tools():
    items = [{"role": "user", "content": TASK}]
    for turn in range(1, 6):
        response = litellm.responses(input=items, tools=FUNCTION_TOOLS, **OPENAI)
        calls = [item for item in response.output if item.type == "function_call"]
        if not calls:
            equal((text_of(response), turn), (DONE, NUM_TURNS), "the last text, and turns")
            return
        items += [item.model_dump(exclude_none=True) for item in response.output]
        for call in calls:
            output = FUNCTIONS[call.name](**json.loads(call.arguments))
            items.append({"type": "function_call_output", "call_id": call.call_id, "output": output})
    raise AssertionError("the calls do not end")


def a_response_by_way_of_hosted_vllm():
    response = litellm.responses(input=HELLO, **VLLM)
    equal(text_of(response), SAID, "the text")


def unknown_model():
    refused(
        litellm.NotFoundError, lambda: litellm.responses(input=HELLO, **{**OPENAI, "model": f"openai/{UNKNOWN_MODEL}"})
    )


def message(settings, **how):
    fields = {"max_tokens": 4000, "messages": [{"role": "user", "content": HELLO}], **settings, **how}
    return asyncio.run(collected(litellm.anthropic.messages.acreate(**fields)))


async def collected(coming):
    answer = await coming
    return b"".join([as_bytes(piece) async for piece in answer]) if hasattr(answer, "__aiter__") else answer


def as_bytes(piece):
    return piece if isinstance(piece, bytes) else f"data: {json.dumps(piece)}\n\n".encode()


def message_text(answer):
    return "".join(block["text"] for block in answer["content"] if block["type"] == "text")


def a_message():
    answer = message(ANTHROPIC)
    equal((message_text(answer), answer["stop_reason"]), (SAID, "end_turn"), "the message")


def a_message_in_a_stream():
    lines = message(ANTHROPIC, stream=True).decode().splitlines()
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    pieces = [event["delta"]["text"] for event in events if event.get("delta", {}).get("type") == "text_delta"]
    equal("".join(pieces), SAID, "the pieces together")


def message_tools(settings):
    messages = [{"role": "user", "content": TASK}]
    for turn in range(1, 6):
        answer = message(settings, messages=messages, tools=MESSAGE_TOOLS)
        calls = [block for block in answer["content"] if block["type"] == "tool_use"]
        if not calls:
            equal((message_text(answer), turn), (DONE, NUM_TURNS), "the last text, and turns")
            return
        results = [
            {"type": "tool_result", "tool_use_id": call["id"], "content": FUNCTIONS[call["name"]](**call["input"])}
            for call in calls
        ]
        messages += [{"role": "assistant", "content": answer["content"]}, {"role": "user", "content": results}]
    raise AssertionError("the calls do not end")


def tools_of_messages():
    message_tools(ANTHROPIC)


def messages_by_way_of_responses():
    message_tools(OPENAI)


def messages_by_way_of_chat():
    message_tools(VLLM)


def chat_by_way_of_messages():
    answer = litellm.completion(messages=[{"role": "user", "content": HELLO}], max_tokens=4000, **ANTHROPIC)
    equal(answer.choices[0].message.content, SAID, "the text")


run(
    a_response,
    a_stream,
    a_conversation_that_is_kept,
    tools,
    a_response_by_way_of_hosted_vllm,
    unknown_model,
    a_message,
    a_message_in_a_stream,
    tools_of_messages,
    messages_by_way_of_responses,
    messages_by_way_of_chat,
    chat_by_way_of_messages,
)
