"""Responses in the background: they go on without their client, are read, replayed and cancelled."""

import asyncio
import sys

import pytest

from server.app import get_state
from server.config import ServerConfig
from server.responses.background import PIECE_BYTES, BackgroundRun
from server.responses.store import ResponseStore
from server.writer import Event
from tests.fake_llm import FakeLLM
from tests.server.live_stream import Live


@pytest.fixture
def held_api(make_api):
    """An app whose answers stop before their last delta."""
    llm = FakeLLM()
    llm.hold_at = 2
    return make_api(llm=llm)


async def begin(api, **fields):
    reply = await api.respond(background=True, **fields)
    assert reply.status == 200, reply.text
    await api.llm.wait_until(lambda llm: bool(llm.calls))
    return reply.json


async def wait_for(api, response_id, *states):
    while (response := (await api.get(f"/v1/responses/{response_id}")).json)["status"] not in states:
        await asyncio.sleep(0)
    return response


async def test_it_is_generated_without_its_client(held_api):
    response = await begin(held_api)
    assert (response["status"], response["background"], response["output"]) == ("queued", True, [])
    await wait_for(held_api, response["id"], "in_progress")
    held_api.llm.release.set()
    ended = await wait_for(held_api, response["id"], "completed")
    assert ended["output"][0]["content"][0]["text"] == "Hello world"
    assert len(get_state(held_api.app).slots) == 0


async def test_it_must_be_stored(api):
    reply = await api.respond(background=True, store=False)
    assert (reply.status, reply.error["param"]) == (400, "background")


async def test_what_cannot_be_served_is_refused_at_once(api):
    assert (await api.respond(background=True, input="x" * 99)).error["param"] == "input"
    assert (await api.respond(background=True, model="other")).status == 404
    assert len(get_state(api.app).slots) == 0 and len(get_state(api.app).responses) == 0


async def test_its_events_can_be_read_again_from_any_place(held_api):
    response_id = (await begin(held_api))["id"]
    path = f"/v1/responses/{response_id}?stream=true"
    early = asyncio.create_task(held_api.get(path))
    await wait_for(held_api, response_id, "in_progress")
    held_api.llm.release.set()
    events = (await early).named_events
    assert events[-1]["type"] == "response.completed"
    assert (await held_api.get(path)).named_events == events
    assert (await held_api.get(f"{path}&starting_after=3")).named_events == events[4:]
    assert (await held_api.get(f"{path}&starting_after=x")).status == 400


async def test_it_can_be_streamed_at_once(api):
    events = (await api.respond(background=True, stream=True)).named_events
    assert [event["type"] for event in events][:: len(events) - 1] == ["response.created", "response.completed"]
    assert events[-1]["response"]["background"] is True


async def test_a_client_that_leaves_does_not_end_it(held_api):
    llm = held_api.llm
    body = {"input": "Hi", "background": True, "request_id": "mine"}
    async with Live(held_api, "/v1/responses", body) as connection:
        await llm.wait_until(lambda llm: bool(llm.calls))
        await connection.receive()
        await connection.disconnect()
    assert llm.ends["aborted"] == 0
    llm.release.set()
    assert (await wait_for(held_api, "resp_mine", "completed"))["output"]


async def test_it_can_be_cancelled_once(held_api):
    response_id = (await begin(held_api))["id"]
    cancelled = (await held_api.post(f"/v1/responses/{response_id}/cancel", {})).json
    assert (cancelled["id"], cancelled["status"]) == (response_id, "cancelled")
    await held_api.llm.wait_until(lambda llm: llm.ends["aborted"] == 1)
    assert (await held_api.post(f"/v1/responses/{response_id}/cancel", {})).status == 400
    assert (await held_api.get(f"/v1/responses/{response_id}")).json["status"] == "cancelled"
    events = (await held_api.get(f"/v1/responses/{response_id}?stream=true")).named_events
    assert (events[-1]["type"], events[-1]["response"]["status"]) == ("response.incomplete", "cancelled")
    assert [event["sequence_number"] for event in events] == list(range(len(events)))


async def test_whoever_reads_sees_that_it_was_cancelled(held_api):
    response_id = (await begin(held_api))["id"]
    reading = asyncio.create_task(held_api.get(f"/v1/responses/{response_id}?stream=true"))
    await wait_for(held_api, response_id, "in_progress")
    await held_api.post(f"/v1/responses/{response_id}/cancel", {})
    assert (await reading).named_events[-1]["response"]["status"] == "cancelled"


async def test_its_first_events_do_not_wait_for_a_token(make_api):
    llm = FakeLLM()
    llm.hold_at = 0
    api = make_api(llm=llm, sse_keep_alive_interval=0.01)
    body = {"input": "Hi", "background": True}
    async with Live(api, "/v1/responses", body) as connection:
        received = b""
        while b"keep-alive" not in received:
            received += await connection.receive()
        assert received.index(b"event: response.created") < received.index(b"event: response.queued")
        llm.release.set()
        while b"response.completed" not in received:
            received += await connection.receive()


@pytest.mark.parametrize("query", ["starting_after=1", "include=x", "include[]=x", "stream=true&starting_after=99"])
async def test_what_a_reader_may_not_ask_for_is_named(held_api, query):
    response_id = (await begin(held_api))["id"]
    reply = await held_api.get(f"/v1/responses/{response_id}?{query}")
    assert reply.status == 400 and reply.error["param"] in ("starting_after", "include")


async def test_a_long_history_of_events_is_sent_in_pieces():
    run = BackgroundRun(ResponseStore(ServerConfig()), "", 0)
    run._end([Event("e", {"x": "y" * 40_000})] * 5)
    sizes = [len(piece) async for piece in run.read()]
    assert len(sizes) == 3 and max(sizes) < 2 * PIECE_BYTES


async def test_others_cannot_be_cancelled_or_replayed(api):
    response_id = (await api.respond()).json["id"]
    assert (await api.post(f"/v1/responses/{response_id}/cancel", {})).status == 400
    assert (await api.get(f"/v1/responses/{response_id}?stream=true")).error["param"] == "stream"
    assert (await api.post("/v1/responses/resp_none/cancel", {})).status == 404


async def test_what_is_deleted_ends(held_api):
    response_id = (await begin(held_api))["id"]
    assert (await held_api.call("DELETE", f"/v1/responses/{response_id}")).status == 200
    await held_api.llm.wait_until(lambda llm: llm.ends["aborted"] == 1)


async def test_nothing_goes_on_from_one_that_is_not_finished(held_api):
    response_id = (await begin(held_api))["id"]
    reply = await held_api.respond(previous_response_id=response_id)
    assert (reply.status, reply.error["param"]) == (400, "previous_response_id")


async def test_one_that_fails_says_so(make_api):
    llm = FakeLLM()
    llm.fail_at = llm.hold_at = 1
    api = make_api(llm=llm)
    response_id = (await begin(api))["id"]
    llm.release.set()
    failed = await wait_for(api, response_id, "failed")
    assert failed["error"]["code"] == "server_error"


async def test_what_the_store_has_no_room_for_fails(make_api):
    llm = FakeLLM(["x" * 20] * 2)
    api = make_api(llm=llm, responses_store_bytes=4000)
    response_id = (await begin(api))["id"]
    failed = await wait_for(api, response_id, "failed", "completed")
    assert (failed["status"], "--responses-store-bytes" in failed["error"]["message"]) == ("failed", True)
    assert len(get_state(api.app).slots) == 0


@pytest.mark.parametrize("num_bytes", [1500, 2500, 5500, 20_000])
async def test_whatever_room_there_is_it_ends_or_is_refused_and_the_store_serves_others(make_api, num_bytes):
    llm = FakeLLM(["a", "b", "c" * 500], max_model_len=100_000)
    llm.pause_turns = 10
    api = make_api(llm=llm, responses_store_bytes=num_bytes)
    turn = {"role": "user", "content": "x" * 1000}
    reply = await api.respond(background=True, input=[turn])
    if reply.status == 200:
        ended = await wait_for(api, reply.json["id"], "completed", "failed")
        assert ended["status"] == ("completed" if num_bytes == 20_000 else "failed")
    else:
        assert (reply.status, reply.headers["Retry-After"]) == (503, "1")
    assert len(get_state(api.app).slots) == 0
    store = get_state(api.app).responses
    for entry in store._by_id.values():
        events = entry.run._events
        assert b"".join(events) == b"".join([piece async for piece in entry.run.read()])
        assert entry.num_bytes == sum(map(len, (*entry.items, entry.body))) + sum(map(sys.getsizeof, events))
    assert store.num_bytes == sum(entry.num_bytes for entry in store._by_id.values())
    if num_bytes > 2500:
        other = await api.respond(background=True)
        assert (await wait_for(api, other.json["id"], "completed", "failed"))["id"] == other.json["id"]


async def test_it_counts_for_its_caller_until_it_has_ended(make_api):
    llm = FakeLLM()
    llm.hold_at = 1
    api = make_api(llm=llm, max_concurrency_per_key=1)
    response_id = (await begin(api))["id"]
    assert (await api.respond()).status == 429
    llm.release.set()
    await wait_for(api, response_id, "completed")
    await asyncio.sleep(0)
    assert (await api.respond()).status == 200
