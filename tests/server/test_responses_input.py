"""What becomes of the input of a Responses request: the messages that the template gets."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxserve import load_exact_json
from server.app import get_state
from server.responses.reasoning_seal import seal_reasoning
from tests.fake_llm import FakeLLM
from tests.server.api import Api

CALL = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"a": 1}'}
CUSTOM = {"type": "custom_tool_call", "call_id": "c2", "name": "patch", "input": 'a "b"\n'}
THOUGHT = {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm"}]}
SAID = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "So."}]}
ASKED = {"role": "user", "content": [{"type": "input_text", "text": "Go"}]}


def call(call_id, name, arguments):
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


async def read(api, **fields):
    """The messages of chat, without what is not set."""
    reply = await api.respond(**fields)
    assert reply.status == 200, reply.text
    messages = api.llm.rendered[-1]["messages"]
    return [{key: value for key, value in message.items() if value not in (None, [])} for message in messages]


async def test_items_become_the_messages_of_chat(api):
    assert await read(api, input="Go", instructions="Be brief.") == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Go"},
    ]
    items = [
        ASKED,
        {**THOUGHT, "status": None},
        SAID,
        CALL,
        {"type": "function_call_output", "call_id": "c1", "output": "1"},
    ]
    assert await read(api, input=items) == [
        ASKED,
        {
            "role": "assistant",
            "content": SAID["content"],
            "reasoning": "Hm",
            "tool_calls": [call("c1", "f", '{"a": 1}')],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "1"},
    ]


async def test_calls_at_once_are_one_message_and_each_step_is_its_own(api):
    output = {"type": "custom_tool_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "ok"}]}
    first, tool, second, last = await read(api, input=[CALL, CUSTOM, output, THOUGHT, CALL, SAID])
    assert [one["id"] for one in first["tool_calls"]] == ["c1", "c2"]
    assert first["tool_calls"][1]["function"]["arguments"] == '{"input":"a \\"b\\"\\n"}'
    assert tool["content"] == output["output"]
    assert (second["reasoning"], len(second["tool_calls"])) == ("Hm", 1)
    assert last == {"role": "assistant", "content": SAID["content"]}


async def test_reasoning_in_two_places_of_an_answer_is_in_one_message(api):
    more = {**THOUGHT, "content": [{"type": "reasoning_text", "text": "Well"}]}
    (message,) = await read(api, input=[THOUGHT, SAID, more, SAID, CALL])
    assert (message["reasoning"], message["content"]) == ("Hm\nWell", SAID["content"] * 2)
    assert len(message["tool_calls"]) == 1


async def test_a_type_of_null_is_none(api):
    assert await read(api, input=[{"type": None, **ASKED}]) == [ASKED]


async def test_what_is_kept_of_items_is_what_is_read(api):
    junk = {"junk": [[], {}], "id": "x", "status": "completed", "arguments": [1]}
    asked = {"role": "user", "content": [{"type": "input_text", "text": "Go", "junk": [[]]}], **junk}
    response = (await api.respond(input=[asked, {**THOUGHT, **junk}, {**CALL, "junk": 1}])).json
    entry = get_state(api.app).responses.get("", response["id"], "id")
    thought = {key: one for key, one in THOUGHT.items() if key != "id"}
    [items] = entry.items
    assert load_exact_json(items) == [{"type": "message", **ASKED}, thought, CALL]


async def test_names_in_a_namespace_are_joined(api):
    message, *_ = await read(api, input=[{**CALL, "namespace": "mcp__files__"}])
    assert message["tool_calls"][0]["function"]["name"] == "mcp__files__f"


@pytest.mark.parametrize(
    ("item", "text"),
    [
        ({"type": "reasoning", "summary": [], "content": None, "encrypted_content": seal_reasoning("Hm é")}, "Hm é"),
        ({"type": "reasoning", "summary": [{"type": "summary_text", "text": "In short"}]}, "In short"),
        ({**THOUGHT, "encrypted_content": "gAAAAA"}, "Hm"),
    ],
)
async def test_reasoning_comes_back_in_any_of_its_forms(api, item, text):
    assert (await read(api, input=[ASKED, item, SAID]))[1]["reasoning"] == text


@pytest.mark.parametrize(
    "item",
    [
        {"type": "item_reference", "id": "msg_1"},
        {"type": "web_search_call", "id": "ws_1"},
        {"type": "reasoning", "summary": [], "encrypted_content": "gAAAAA"},
        {"type": "reasoning", "summary": "x"},
        {"type": "function_call", "call_id": "c", "arguments": "{}"},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": {}},
        {"type": "function_call", "call_id": "", "name": "f", "arguments": ""},
        {"type": "function_call_output", "call_id": "c"},
        {"type": "custom_tool_call", "call_id": "c", "name": "f"},
        {"role": "tool", "content": "x"},
        {"role": "user", "content": 1},
        {"role": "user", "content": [1]},
        {"type": 7},
        {},
    ],
)
async def test_an_item_that_cannot_be_read_is_named(api, item):
    reply = await api.respond(input=[ASKED, item])
    assert (reply.status, reply.error["param"]) == (400, "input")
    assert reply.error["message"].startswith("input[1].")


async def test_there_must_be_something(api):
    for nothing in ([], None):
        assert (await api.respond(input=nothing)).status == 400


async def test_images_are_refused_as_in_chat(template_api):
    api = template_api("{{ messages[0].content }}")
    parts = [{"type": "input_image", "image_url": "data:image/png;base64,x"}]
    reply = await api.respond(input=[{"role": "user", "content": parts}])
    assert reply.status == 400 and "image" in reply.error["message"]


values = st.none() | st.booleans() | st.integers() | st.text(max_size=4) | st.lists(st.text(max_size=2), max_size=2)
kinds = st.sampled_from(
    [
        "message",
        "reasoning",
        "function_call",
        "function_call_output",
        "custom_tool_call",
        "custom_tool_call_output",
        "x",
    ]
)
parts = st.dictionaries(st.sampled_from(["type", "text"]), values | st.just("input_text"), max_size=2)
items = st.fixed_dictionaries(
    {},
    optional={
        "type": kinds,
        "role": st.sampled_from(["user", "assistant", "system", "developer"]) | values,
        "content": values | st.lists(parts, max_size=2),
        "call_id": st.just("c") | values,
        "name": st.just("f") | values,
        "namespace": values,
        "arguments": st.just("{}") | values,
        "input": values,
        "output": values | st.lists(parts, max_size=2),
        "summary": st.lists(parts, max_size=2) | values,
        "encrypted_content": values,
    },
)
tools = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["function", "custom", "namespace", "web_search", "x"]) | values,
        "name": st.sampled_from(["f", "g"]) | values,
        "parameters": values | st.just({"type": "object"}),
        "format": values | st.just({"type": "grammar", "syntax": "lark", "definition": 'start: "a"'}),
        "tools": values | st.just([{"type": "function", "name": "h"}]),
    },
)


@pytest.fixture
def rested():
    return Api(FakeLLM(tool_parser="hermes", max_model_len=10_000, max_num_queued_reqs=100_000))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    given_items=st.lists(items, max_size=4),
    given_tools=st.lists(tools, max_size=3),
    choice=st.sampled_from(["auto", "none", "required"]) | st.dictionaries(st.sampled_from(["type", "name"]), values),
    is_stream=st.booleans(),
)
async def test_whatever_is_sent_is_answered_or_refused(rested, given_items, given_tools, choice, is_stream):
    reply = await rested.respond(input=given_items, tools=given_tools, tool_choice=choice, stream=is_stream)
    assert reply.status in (200, 400), reply.text
    assert len(get_state(rested.app).slots) == 0
