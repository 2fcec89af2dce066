"""The events of POST /v1/responses: their order, and that they add up to the whole answer."""

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from jaxserve import ToolCallDelta
from tests.fake_llm import FakeLLM, Piece
from tests.server.api import Api
from tests.server.live_stream import Live
from tests.server.test_responses_tools import BUILT_IN, FUNCTION, PATCH, SPACE, calling

EVENTS = TypeAdapter(ResponseStreamEvent)
NODE_SDK = {"X-Stainless-Lang": "js"}  # which throws at a type of event that it does not know
ENDS = {"completed": "response.completed", "incomplete": "response.incomplete"}
MESSAGE = """
    output_item.added content_part.added output_text.delta output_text.delta output_text.delta output_text.done
    content_part.done output_item.done
"""


def stepwise(*pieces, **how):
    """A model each of whose deltas a stream takes alone."""
    llm = FakeLLM(*pieces, **how)
    llm.pause_turns = 10
    return llm


def types_of(events):
    return [event["type"].removeprefix("response.") for event in events]


async def test_the_events_of_a_text_in_order(make_api):
    api = make_api(llm=stepwise(["Hel", "lo", " world"]))
    events = (await api.respond(stream=True)).named_events
    assert types_of(events) == ["created", "in_progress", *MESSAGE.split(), "completed"]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [event["delta"] for event in events if "delta" in event] == ["Hel", "lo", " world"]


@pytest.mark.parametrize(("headers", "part"), [({}, "reasoning_part"), (NODE_SDK, "content_part")])
async def test_the_events_of_reasoning_in_order(make_api, headers, part):
    api = make_api(llm=FakeLLM([Piece(reasoning="Hm"), Piece("Yes")], reasoning_parser="qwen3"))
    plain = (await api.respond(headers, stream=True)).named_events
    assert types_of(plain)[2:8] == [
        "output_item.added",
        f"{part}.added",
        "reasoning_text.delta",
        "reasoning_text.done",
        f"{part}.done",
        "output_item.done",
    ]


async def test_the_events_of_a_summary_of_reasoning_in_order(make_api):
    api = make_api(llm=FakeLLM([Piece(reasoning="Hm"), Piece("Yes")], reasoning_parser="qwen3"))
    summed = types_of((await api.respond(stream=True, reasoning={"summary": "auto"})).named_events)
    parts = [kind for kind in summed if "summary" in kind]
    assert [kind.removeprefix("reasoning_summary_") for kind in parts] == [
        "part.added",
        "text.delta",
        "text.done",
        "part.done",
    ]


async def test_the_events_of_calls_in_order(make_api):
    llm = stepwise(calling("f", '{"a"', ": 1}"), tool_parser="hermes")
    events = (await make_api(llm=llm).respond(stream=True, tools=[FUNCTION])).named_events
    kind = "function_call_arguments"
    added, *pieces, done = types_of(events)[2:-1]
    assert (added, done) == ("output_item.added", "output_item.done")
    assert pieces == [f"{kind}.delta", f"{kind}.delta", f"{kind}.done"]
    llm = stepwise(calling("apply_patch", '{"input": "a', '\\n"}'), tool_parser="hermes")
    events = (await make_api(llm=llm).respond(stream=True, tools=[PATCH])).named_events
    assert [event["delta"] for event in events if "delta" in event] == ["a", "\n"]
    assert events[-2]["item"]["input"] == events[-3]["input"] == "a\n"


async def test_a_stream_that_breaks_ends_with_what_was_complete(make_api):
    llm = FakeLLM([Piece(reasoning="Hm"), Piece("Y"), Piece("es")], reasoning_parser="qwen3")
    llm.fail_at, llm.hold_at = 2, 2
    api = make_api(llm=llm)
    running = asyncio.create_task(api.respond(stream=True))
    await llm.wait_until(lambda llm: bool(llm.calls))
    llm.release.set()
    events = (await running).named_events
    assert types_of(events)[-1] == "failed"
    response = events[-1]["response"]
    assert (response["status"], response["error"]["code"]) == ("failed", "server_error")
    assert [item["type"] for item in response["output"]] == ["reasoning"]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))


async def test_what_fails_before_anything_came_is_told_as_a_failed_response(make_api, monkeypatch):
    monkeypatch.setattr("server.sse.FIRST_RESULT_TIMEOUT_S", 0)
    llm = FakeLLM()
    llm.fail_at, llm.hold_at = 0, 0
    api = make_api(llm=llm)
    running = asyncio.create_task(api.respond(stream=True))
    await llm.wait_until(lambda llm: bool(llm.calls))
    await asyncio.sleep(0)
    llm.release.set()
    reply = await running
    if reply.status == 200:
        assert types_of(reply.named_events) == ["created", "in_progress", "failed"]
    else:
        assert reply.status == 500


async def test_a_stream_opens_before_the_first_token(make_api, monkeypatch):
    monkeypatch.setattr("server.sse.FIRST_RESULT_TIMEOUT_S", 0)
    llm = FakeLLM()
    llm.hold_at = 0
    async with Live(make_api(llm=llm), "/v1/responses", {"input": "Hi"}) as connection:
        received = await connection.receive()
        assert b"response.created" in received and b"response.in_progress" in received
        llm.release.set()
        while b"response.completed" not in received:
            received += await connection.receive()
    assert received.count(b"event: response.created") == received.count(b"event: response.in_progress") == 1


@pytest.fixture
def reused():
    """An app that many examples have in turn."""
    return Api(FakeLLM(tool_parser="hermes", reasoning_parser="qwen3", max_num_queued_reqs=100_000))


@pytest.fixture
def merging():
    """Like `reused`, but a stream waits for seven tokens at once."""
    model = FakeLLM(tool_parser="hermes", reasoning_parser="qwen3", max_num_queued_reqs=100_000)
    return Api(model, stream_interval=7)


@st.composite
def calls(draw, index):
    """A call in up to three pieces, the last of which may have what follows it, too."""
    name = draw(st.sampled_from(["f", "apply_patch", "mcp__files__read", "unknown"]))
    arguments = draw(st.sampled_from(['{"input": "a\\n\\ud83d\\ude00b"}', '{"input": "x', "{}", "no JSON", ""]))
    first, second = sorted(draw(st.tuples(*[st.integers(0, len(arguments))] * 2)))
    last = draw(st.sampled_from([Piece(), Piece("t"), Piece(" "), Piece(reasoning="h")]))
    return [
        Piece(calls=(ToolCallDelta(index, arguments[:first], f"chatcmpl-tool-{index}", name),)),
        Piece(calls=(ToolCallDelta(index, arguments[first:second]),)),
        Piece(last.text, last.reasoning, (ToolCallDelta(index, arguments[second:]),)),
    ]


@st.composite
def answers(draw):
    """Reasoning, text and calls in any order, each in some pieces, and pieces that stand on a border."""
    said, num_calls = [Piece()], 0
    for kind in draw(st.lists(st.sampled_from(["reasoning", "text", "border", "call"]), max_size=6)):
        if kind == "reasoning":
            said += [Piece(reasoning=piece) for piece in draw(st.lists(st.text("th \u00e9", max_size=3), max_size=3))]
        elif kind == "text":
            said += [Piece(piece) for piece in draw(st.lists(st.text("c \n\u2028", max_size=3), max_size=3))]
        elif kind == "border":
            said.append(Piece(draw(st.text(" c", max_size=2)), draw(st.text("t", max_size=2))))
        else:
            said += draw(calls(num_calls))
            num_calls += 1
    return said


fields = st.fixed_dictionaries(
    {},
    optional={
        "max_output_tokens": st.integers(1, 12),
        "include_reasoning": st.booleans(),
        "reasoning": st.sampled_from([{"summary": "auto"}, {"effort": "high"}]),
        "tool_choice": st.sampled_from(["auto", "required", {"type": "function", "name": "f"}]),
    },
)
included = st.sampled_from([[], ["reasoning.encrypted_content"]])
many = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def without_ids(response):
    items = [{key: value for key, value in item.items() if key != "id"} for item in response["output"]]
    return {**response, "id": None, "created_at": None, "output": items}


def accumulate(events):
    """The items that the events add up to, as a client puts them together."""
    items = []
    for event in events:
        kind = event["type"].removeprefix("response.")
        if kind == "output_item.added":
            assert event["output_index"] == len(items)
            items.append({"added": event["item"], "text": ""})
        elif kind in ("output_text.delta", "reasoning_text.delta"):
            assert event["item_id"] == items[-1]["added"]["id"]
            items[-1]["text"] += event["delta"]
        elif kind in ("function_call_arguments.delta", "custom_tool_call_input.delta"):
            items[-1]["text"] += event["delta"]
        elif kind == "output_item.done":
            items[-1]["done"] = event["item"]
    return items


def text_of(item):
    if "content" in item:
        return "".join(part["text"] for part in item["content"])
    return item.get("arguments", item.get("input"))


@many
@given(pieces=answers(), given_fields=fields, include=included, is_stepwise=st.booleans(), is_merging=st.booleans())
async def test_the_events_add_up_to_the_whole_answer_and_openai_reads_them(
    reused, merging, pieces, given_fields, include, is_stepwise, is_merging
):
    api = merging if is_merging else reused
    api.llm.pieces, api.llm.pause_turns = (pieces,), 10 * is_stepwise
    request = {"tools": [FUNCTION, PATCH, SPACE, *BUILT_IN], "include": include, **given_fields}
    whole = (await api.respond(**request)).json
    events = (await api.respond(NODE_SDK, **request, stream=True)).named_events
    Response.model_validate(whole)
    for event in events:
        EVENTS.validate_python(event)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[-1]["type"] == ENDS[whole["status"]]
    assert without_ids(events[-1]["response"]) == without_ids(whole)
    items = accumulate(events)
    assert [item["done"] for item in items] == events[-1]["response"]["output"]
    assert [item["text"] for item in items] == [text_of(item["done"]) for item in items]


@pytest.mark.parametrize("interval", [1, 7])
async def test_a_call_keeps_its_arguments_whatever_follows(make_api, interval):
    first, last = calling("f", '{"a"')
    after = Piece(calls=(ToolCallDelta(1, "{}", "chatcmpl-tool-2", "f"),))
    pieces = [first, last, Piece(calls=(ToolCallDelta(0, ":1}"),)), Piece(reasoning="Hm"), after]
    api = make_api(llm=stepwise(pieces, tool_parser="hermes", reasoning_parser="qwen3"), stream_interval=interval)
    output = (await api.respond(stream=True, tools=[FUNCTION])).named_events[-1]["response"]["output"]
    assert [text_of(item) for item in output] == ['{"a":1}', "Hm", "{}"]


async def test_reasoning_in_two_places_is_two_items_whole_and_streamed(make_api):
    pieces = [Piece(reasoning="plan"), Piece("Look:"), Piece(reasoning="more"), *calling("f", "{}")]
    api = make_api(llm=stepwise(pieces, tool_parser="hermes", reasoning_parser="qwen3"))
    whole = (await api.respond(tools=[FUNCTION])).json["output"]
    streamed = (await api.respond(stream=True, tools=[FUNCTION])).named_events[-1]["response"]["output"]
    for output in (whole, streamed):
        assert [text_of(item) for item in output] == ["plan", "Look:", "more", "{}"]


@many
@given(pieces=st.lists(st.text("ab \n", max_size=3), min_size=1, max_size=4), top=st.integers(0, 2))
async def test_logprobs_add_up_too(reused, pieces, top):
    reused.llm.pieces, reused.llm.pause_turns = (pieces,), 10
    request = {"include": ["message.output_text.logprobs"], "top_logprobs": top}
    whole = (await reused.respond(**request)).json
    events = (await reused.respond(**request, stream=True)).named_events
    expected = whole["output"][0]["content"][0]["logprobs"]
    assert [entry for event in events if "delta" in event for entry in event["logprobs"]] == expected
    assert len(expected) == len("".join(pieces))


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_ends_its_request(make_api, stream):
    llm = FakeLLM()
    llm.hold_at = 1
    async with Live(make_api(llm=llm), "/v1/responses", {"input": "Hi"}, stream=stream) as connection:
        await llm.wait_until(lambda llm: bool(llm.calls))
        await connection.disconnect()
        await llm.wait_until(lambda llm: llm.ends["aborted"] == 1)
