"""What becomes of the conversation of a Messages request: the messages that the template gets."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.app import get_state
from server.responses.reasoning_seal import seal_reasoning
from tests.fake_llm import FakeLLM
from tests.server.api import Api

BILLING = "x-anthropic-billing-header: cc_version=2.1.77.{}; cc_entrypoint=cli; cch=abc;"
TEXT = {"type": "text", "text": "So."}
USE = {"type": "tool_use", "id": "t1", "name": "f", "input": {"b": 1, "a": "x"}}
RESULT = {"type": "tool_result", "tool_use_id": "t1", "content": "1"}


async def read(api, **fields):
    """The messages of chat, without what is not set."""
    reply = await api.message(**fields)
    assert reply.status == 200, reply.text
    messages = api.llm.rendered[-1]["messages"]
    return [{key: value for key, value in message.items() if value not in (None, [])} for message in messages]


async def test_blocks_become_the_messages_of_chat(make_api):
    api = make_api(llm=FakeLLM(max_model_len=500))
    thinking = {"type": "thinking", "thinking": "Hm", "signature": "x"}
    assistant = {"role": "assistant", "content": [thinking, {"type": "redacted_thinking", "data": "x"}, TEXT, USE]}
    turns = [
        {"role": "user", "content": "Go"},
        assistant,
        {"role": "user", "content": [RESULT, {**TEXT, "cache_control": {}}]},
    ]
    system = [{"type": "text", "text": "A", "cache_control": {"type": "ephemeral"}}, {"type": "text", "text": "B"}]
    assert await read(api, system=system, messages=turns) == [
        {"role": "system", "content": "A\n\nB"},
        {"role": "user", "content": "Go"},
        {
            "role": "assistant",
            "content": [TEXT],
            "reasoning": "Hm",
            "tool_calls": [{"id": "t1", "type": "function", "function": {"name": "f", "arguments": '{"b":1,"a":"x"}'}}],
        },
        {"role": "tool", "tool_call_id": "t1", "content": "1"},
        {"role": "user", "content": [TEXT]},
    ]


async def test_a_result_may_have_blocks_and_may_be_an_error(api):
    results = [
        {**RESULT, "content": [TEXT], "is_error": True},
        {**RESULT, "content": "no", "is_error": True},
        {"type": "tool_result", "tool_use_id": "t1"},
    ]
    first, second, third = await read(api, messages=[{"role": "user", "content": results}])
    assert first["content"] == [{"type": "text", "text": "Error:"}, TEXT]
    assert second["content"] == "Error: no" and "content" not in third


async def test_a_system_message_among_the_others_is_part_of_the_turn_before_it(api):
    """Claude Code sends one behind the first message of the user; many templates refuse or drop it there."""
    note = {"type": "text", "text": f"<system-reminder>\n{TEXT['text']}\n</system-reminder>"}
    late = {"role": "system", "content": [{**TEXT, "cache_control": {"type": "ephemeral"}}]}
    user, assistant = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
    merged = {"role": "user", "content": [{"type": "text", "text": "a"}, note]}
    assert await read(api, messages=[user, late, assistant, user]) == [merged, assistant, user]
    assert await read(api, messages=[user, {"role": "system", "content": TEXT["text"]}, assistant, user]) == [
        merged,
        assistant,
        user,
    ]
    result = {"role": "user", "content": [RESULT]}
    *_, tool, last = await read(api, messages=[user, {"role": "assistant", "content": [USE]}, result, late])
    assert (tool["role"], last) == ("tool", {"role": "user", "content": [note]})


async def test_there_is_one_system_message_at_the_beginning(api):
    first = {"role": "system", "content": "B"}
    system, _ = await read(api, system="A", messages=[first, first, {"role": "user", "content": "a"}])
    assert (system["role"], [part["text"] for part in system["content"]]) == ("system", ["A", "B", "B"])
    reply = await api.message(messages=[{"role": "system", "content": [{"type": "tool_addition"}]}])
    assert reply.status == 400 and reply.error["message"].startswith("messages[0].content[0]")


async def test_the_billing_line_is_left_out_so_that_the_prefix_stays_the_same(make_api):
    api, prompts = make_api(llm=FakeLLM(max_model_len=500)), []
    for turn in range(2):
        system = [{"type": "text", "text": BILLING.format(turn)}, {"type": "text", "text": "You are an agent."}]
        await read(api, system=system)
        prompts.append(api.llm.calls[-1].prompt_ids)
        await read(api, system=f"{BILLING.format(turn)}\nYou are an agent.")
        prompts.append(api.llm.calls[-1].prompt_ids)
    assert len(set(prompts)) == 1
    assert [one["role"] for one in await read(api, system=BILLING.format(1))] == ["user"]


async def test_the_last_message_of_the_assistant_is_continued(api):
    await read(api, messages=[{"role": "user", "content": "a"}, {"role": "assistant", "content": "The answer is"}])
    assert api.llm.rendered[-1]["continue_final_message"] and not api.llm.rendered[-1]["add_generation_prompt"]
    await read(api)
    assert api.llm.rendered[-1]["add_generation_prompt"]


async def test_thinking_that_was_omitted_comes_back_from_its_signature(api):
    thinking = {"type": "thinking", "thinking": "", "signature": seal_reasoning("Hm")}
    turns = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": [thinking, USE]},
        {"role": "user", "content": [RESULT]},
    ]
    assert (await read(api, messages=turns))[1]["reasoning"] == "Hm"


@pytest.mark.parametrize(
    ("role", "block"),
    [
        ("user", {"type": "document", "source": {}}),
        ("user", {"type": "text"}),
        ("user", {"type": "tool_result"}),
        ("user", {"type": "tool_result", "tool_use_id": "t", "content": 1}),
        ("user", {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "video"}]}),
        ("user", USE),
        ("assistant", RESULT),
        ("assistant", {"type": "thinking"}),
        ("assistant", {"type": "tool_use", "id": "t", "name": "f", "input": "x"}),
        ("assistant", {"type": "server_tool_use"}),
        ("tool", TEXT),
    ],
)
async def test_a_block_that_cannot_be_read_is_named(api, role, block):
    reply = await api.message(messages=[{"role": "user", "content": "a"}, {"role": role, "content": [block]}])
    assert (reply.status, reply.error["type"]) == (400, "invalid_request_error")
    assert reply.error["message"].startswith("messages[1].")


async def test_images_are_refused_as_in_chat(template_api):
    api = template_api("{{ messages[0].content }}")
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "x"}}
    for content in ([image], [{**RESULT, "content": [image]}]):
        reply = await api.message(messages=[{"role": "user", "content": content}])
        assert reply.status == 400 and "image" in reply.error["message"]


values = st.none() | st.booleans() | st.integers() | st.text(max_size=4) | st.lists(st.text(max_size=2), max_size=2)
kinds = st.sampled_from(["text", "thinking", "redacted_thinking", "tool_use", "tool_result", "image", "x"]) | values
inner = st.fixed_dictionaries({}, optional={"type": kinds, "text": values})
blocks = st.fixed_dictionaries(
    {},
    optional={
        "type": kinds,
        "text": st.just("a") | values,
        "thinking": values,
        "signature": values,
        "id": st.just("t") | values,
        "tool_use_id": st.just("t") | values,
        "name": st.just("f") | values,
        "input": st.just({}) | values,
        "content": values | st.lists(inner, max_size=2),
        "is_error": values,
    },
)
turns = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["user", "assistant", "system"]) | values,
        "content": values | st.lists(blocks, max_size=3),
    }
)
tools = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["custom", "bash_20250124", "x"]) | values,
        "name": st.just("f") | values,
        "input_schema": st.just({"type": "object"}) | values,
    },
)


@pytest.fixture
def rested():
    return Api(FakeLLM(tool_parser="hermes", max_model_len=10_000, max_num_queued_reqs=100_000))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    given_turns=st.lists(turns, max_size=3),
    given_tools=st.none() | st.lists(tools, max_size=2),
    choice=st.none()
    | st.dictionaries(st.sampled_from(["type", "name"]), st.sampled_from(["auto", "any", "tool", "f"])),
    system=values | st.lists(blocks, max_size=2),
    is_stream=st.booleans(),
)
async def test_whatever_is_sent_is_answered_or_refused(rested, given_turns, given_tools, choice, system, is_stream):
    fields = {"messages": given_turns, "tools": given_tools, "tool_choice": choice, "system": system}
    reply = await rested.message(**fields, stream=is_stream)
    assert reply.status in (200, 400), reply.text
    counted = await rested.post("/v1/messages/count_tokens", {"model": "fake/model", **fields})
    assert counted.status == reply.status or "auto" in reply.text, counted.text
    assert len(get_state(rested.app).slots) == 0
