"""The events of POST /v1/messages: their order, and that Anthropic's SDK makes the whole answer of them."""

import asyncio

import pytest
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import Message, RawMessageStreamEvent
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from jaxserve import ToolCallDelta
from tests.fake_llm import FakeLLM, Piece
from tests.server.api import CHAT, Api
from tests.server.live_stream import Live
from tests.server.test_messages_reply import TOOL, calling

EVENTS = TypeAdapter(RawMessageStreamEvent)
BODY = {"model": "fake/model", "max_tokens": 30, **CHAT}


def types_of(events):
    return [event["type"] for event in events]


@pytest.fixture
def stepwise_api(make_api):
    """Make an app whose streams take each delta alone."""

    def make(*pieces):
        llm = FakeLLM(*pieces, tool_parser="hermes", reasoning_parser="qwen3")
        llm.pause_turns = 10
        return make_api(llm=llm)

    return make


async def test_the_events_of_a_text_in_order(stepwise_api):
    events = (await stepwise_api(["Hel", "lo"]).message(stream=True)).named_events
    delta = "content_block_delta"
    assert types_of(events) == [
        *("message_start", "content_block_start", delta, delta, "content_block_stop", "message_delta", "message_stop"),
    ]
    start = events[0]["message"]
    assert (start["content"], start["stop_reason"], start["usage"]["input_tokens"]) == ([], None, 5)
    assert events[-2]["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert events[-2]["usage"]["output_tokens"] == 5


async def test_thinking_ends_with_its_signature(stepwise_api):
    api = stepwise_api([Piece(reasoning="H"), Piece(reasoning="m"), Piece("Yes")])
    deltas = [event["delta"] for event in (await api.message(stream=True)).named_events if "delta" in event]
    assert [delta.get("type") for delta in deltas] == [
        *("thinking_delta", "thinking_delta", "signature_delta", "text_delta", None)
    ]
    omitted = await api.message(stream=True, thinking={"type": "adaptive", "display": "omitted"})
    assert "thinking_delta" not in omitted.text and "signature_delta" in omitted.text


async def test_a_call_comes_as_pieces_of_json(stepwise_api):
    events = (await stepwise_api(calling('{"a"', ": 1}")).message(stream=True, tools=[TOOL])).named_events
    assert events[1]["content_block"] == {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}}
    pieces = [event["delta"]["partial_json"] for event in events if event["type"] == "content_block_delta"]
    assert pieces == ['{"a"', ": 1}"]
    assert events[-2]["delta"]["stop_reason"] == "tool_use"


async def test_silence_is_filled_with_pings(make_api):
    llm = FakeLLM(["a", "b"])
    llm.hold_at = 1
    async with Live(make_api(llm=llm, sse_keep_alive_interval=0.01), "/v1/messages", BODY) as connection:
        assert b"message_start" in await connection.receive()
        assert await connection.receive() == b'event: ping\ndata: {"type":"ping"}\n\n'
        llm.release.set()


async def test_a_stream_that_breaks_ends_with_an_error(make_api):
    llm = FakeLLM(["a", "b"])
    llm.fail_at = llm.hold_at = 1
    api = make_api(llm=llm)
    running = asyncio.create_task(api.message(stream=True))
    await llm.wait_until(lambda llm: bool(llm.calls))
    llm.release.set()
    events = (await running).named_events
    assert events[-1]["error"]["type"] == "api_error" and "message_stop" not in types_of(events)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_ends_its_request(make_api, stream):
    llm = FakeLLM()
    llm.hold_at = 1
    async with Live(make_api(llm=llm), "/v1/messages", BODY, stream=stream) as connection:
        await llm.wait_until(lambda llm: bool(llm.calls))
        await connection.disconnect()
        await llm.wait_until(lambda llm: llm.ends["aborted"] == 1)


@st.composite
def answers(draw):
    """Thinking, text and calls in any order, each in some pieces, and pieces that stand on a border."""
    said, num_calls = [Piece()], 0
    for kind in draw(st.lists(st.sampled_from(["thinking", "text", "border", "call"]), max_size=6)):
        if kind == "thinking":
            said += [Piece(reasoning=piece) for piece in draw(st.lists(st.text("th é", max_size=3), max_size=3))]
        elif kind == "text":
            said += [Piece(piece) for piece in draw(st.lists(st.text("c \n\u2028", max_size=3), max_size=3))]
        elif kind == "border":
            said.append(Piece(draw(st.text(" c", max_size=2)), draw(st.text("t", max_size=2))))
        else:
            arguments = draw(st.sampled_from(['{"a": "b\\n"}', "{}", '{"a": "x']))
            cut = draw(st.integers(0, len(arguments)))
            call_id = f"chatcmpl-tool-{num_calls}"
            said.append(Piece(calls=(ToolCallDelta(num_calls, arguments[:cut], call_id, "f"),)))
            said.append(Piece(calls=(ToolCallDelta(num_calls, arguments[cut:]),)))
            num_calls += 1
    return said


fields = st.fixed_dictionaries(
    {},
    optional={
        "max_tokens": st.integers(1, 30),
        "thinking": st.sampled_from([{"type": "disabled"}, {"type": "adaptive", "display": "omitted"}]),
        "tool_choice": st.sampled_from([{"type": "auto"}, {"type": "any"}, {"type": "tool", "name": "f"}]),
    },
)


@pytest.fixture
def reused():
    """An app that many examples have in turn."""
    return Api(FakeLLM(tool_parser="hermes", reasoning_parser="qwen3", max_num_queued_reqs=100_000))


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pieces=answers(), given_fields=fields, is_stepwise=st.booleans())
async def test_anthropic_s_sdk_makes_the_whole_answer_of_the_events(reused, pieces, given_fields, is_stepwise):
    reused.llm.pieces, reused.llm.pause_turns = (pieces,), 10 * is_stepwise
    whole = Message.model_validate((await reused.message(tools=[TOOL], **given_fields)).json)
    events = (await reused.message(tools=[TOOL], stream=True, **given_fields)).named_events
    snapshot, texts = None, {}
    for event in map(EVENTS.validate_python, events):
        snapshot = accumulate_event(event=event, current_snapshot=snapshot, json_bufs=texts)
    assert snapshot is not None
    given_keys = {"content", "stop_reason", "stop_sequence", "usage", "role", "model"}
    assert snapshot.model_dump(include=given_keys) == whole.model_dump(include=given_keys)
    indices = [event["index"] for event in events if event["type"] == "content_block_start"]
    assert indices == list(range(len(whole.content)))
