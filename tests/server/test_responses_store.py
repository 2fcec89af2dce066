"""Responses that are kept: reading, forgetting, going on from them, and the limits of the store."""

import threading
import tracemalloc

import pytest

from jaxserve import ToolCallDelta
from server.app import get_state
from server.config import ServerConfig
from server.errors import ApiError
from server.responses.mapper import map_request
from server.responses.store import ResponseStore, StoredResponse
from tests.fake_llm import FakeLLM, Piece
from tests.server.api import Api
from tests.server.test_responses_tools import FUNCTION, calling


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


async def test_what_is_stored_can_be_read_again(api):
    response = (await api.respond(store=True)).json
    path = f"/v1/responses/{response['id']}"
    read, head = await api.get(path), await api.call("HEAD", path)
    assert read.json == response
    assert (head.status, head.headers["Content-Length"]) == (200, read.headers["Content-Length"])
    streamed = (await api.respond(stream=True)).named_events[-1]["response"]
    assert (await api.get(f"/v1/responses/{streamed['id']}")).json == streamed


async def test_what_is_not_stored_cannot(api):
    response = (await api.respond(store=False)).json
    reply = await api.get(f"/v1/responses/{response['id']}")
    assert (reply.status, reply.error["param"]) == (404, "response_id")
    assert (await api.respond(previous_response_id=response["id"])).status == 404


async def test_a_response_can_be_forgotten(api):
    response_id = (await api.respond()).json["id"]
    deleted = (await api.call("DELETE", f"/v1/responses/{response_id}")).json
    assert deleted == {"id": response_id, "object": "response.deleted", "deleted": True}
    assert (await api.call("DELETE", f"/v1/responses/{response_id}")).status == 404


async def test_a_conversation_goes_on(make_api):
    api = make_api(["Yes"], max_stop_strings=4, llm=FakeLLM(["Yes"], max_model_len=500))
    first = (await api.respond(input="One", instructions="Be brief.")).json
    second = (await api.respond(input="Two", previous_response_id=first["id"])).json
    assert second["previous_response_id"] == first["id"]
    await api.respond(input="Three", previous_response_id=second["id"], instructions="Be long.")
    messages = [(one["role"], api_text(one)) for one in api.llm.rendered[-1]["messages"]]
    assert messages == [
        ("system", "Be long."),
        ("user", "One"),
        ("assistant", "Yes"),
        ("user", "Two"),
        ("assistant", "Yes"),
        ("user", "Three"),
    ]


def api_text(message):
    content = message["content"]
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


async def test_calls_and_reasoning_are_part_of_the_conversation(make_api):
    pieces = [Piece(reasoning="Hm"), *calling("f", '{"a": 1}')]
    api = make_api(llm=FakeLLM(pieces, tool_parser="hermes", reasoning_parser="qwen3", max_model_len=500))
    first = (await api.respond(tools=[FUNCTION])).json
    output = {"type": "function_call_output", "call_id": first["output"][-1]["call_id"], "output": "2"}
    await api.respond(input=[output], previous_response_id=first["id"], tools=[FUNCTION])
    _, said, result = api.llm.rendered[-1]["messages"]
    assert (said["reasoning"], said["tool_calls"][0]["function"]) == ("Hm", {"name": "f", "arguments": '{"a": 1}'})
    assert (result["role"], result["tool_call_id"]) == ("tool", said["tool_calls"][0]["id"])


async def test_an_id_of_another_form_is_a_400(api):
    reply = await api.respond(previous_response_id="chatcmpl-1")
    assert (reply.status, reply.error["param"]) == (400, "previous_response_id")


async def test_a_response_belongs_to_its_key(make_api):
    api = make_api(api_key=("a", "b"))
    response_id = (await api.respond(headers=bearer("a"))).json["id"]
    assert (await api.get(f"/v1/responses/{response_id}", headers=bearer("a"))).status == 200
    assert (await api.get(f"/v1/responses/{response_id}", headers=bearer("b"))).status == 404
    assert (await api.respond(previous_response_id=response_id, headers=bearer("b"))).status == 404
    assert (await api.call("DELETE", f"/v1/responses/{response_id}", headers=bearer("b"))).status == 404


@pytest.mark.parametrize("limit", [{"responses_store_size": 0}, {"responses_store_bytes": 99}])
async def test_what_is_not_kept_says_so(make_api, limit):
    api = make_api(**limit)
    response = (await api.respond()).json
    streamed = (await api.respond(stream=True)).named_events[-1]["response"]
    for one in (response, streamed):
        assert one["store"] is False and (await api.get(f"/v1/responses/{one['id']}")).status == 404


async def test_a_long_history_is_read_beside_the_event_loop(make_api, monkeypatch):
    monkeypatch.setattr("server.request_reader.LARGE_BODY_BYTES", 3000)
    api = make_api(llm=FakeLLM(["Yes"], max_model_len=50_000))
    threads = []

    def map_in_thread(*given):
        threads.append(threading.current_thread() is threading.main_thread())
        return map_request(*given)

    monkeypatch.setattr("server.responses.runner.map_request", map_in_thread)
    first = (await api.respond(input="x" * 1500)).json
    second = (await api.respond(input="y" * 1500, previous_response_id=first["id"])).json
    await api.respond(input="z", previous_response_id=second["id"])
    assert threads == [True, True, False]


async def test_without_a_store_nothing_is_kept(make_api):
    api = make_api(responses_store_size=0)
    response = await api.respond()
    assert response.status == 200 and len(get_state(api.app).responses) == 0
    assert (await api.respond(background=True)).error["param"] == "background"


@pytest.mark.parametrize("name", ["responses_store_bytes", "responses_store_age_s", "responses_store_size"])
def test_limits_make_sense(name):
    with pytest.raises(Exception, match=name):
        ServerConfig(**{name: -1})


def entry(number, size=0, status="completed"):
    response = {"id": f"resp_{number}", "status": status, "output": [], "x": "x" * size}
    return StoredResponse.from_response(response)


def kept(store, count):
    found = []
    for number in range(count):
        try:
            found.append(store.get("", f"resp_{number}", "id").id)
        except ApiError:
            continue
    return found


def test_what_is_kept_takes_the_memory_that_is_counted():
    odd = {"output": [], "x": "a" * 10_000 + "\u20ac", "y": [[[[]]]] * 2000}
    response = {"id": "resp_0", "status": "completed", **odd}
    store, fixed = ResponseStore(ServerConfig()), 2000
    StoredResponse.from_response(response)  # texts keep their UTF-8
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    store.put("", StoredResponse.from_response(response))
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert store.num_bytes <= taken < store.num_bytes + fixed


def test_numbers_that_are_kept_have_all_their_digits():
    response = {"id": "resp_0", "status": "completed", "output": [], "x": [2**70, 0.1, -0.0, 1e300]}
    entry = StoredResponse.from_response(response)
    assert entry.response == response and str(entry.response["x"]) == str(response["x"])
    assert StoredResponse.from_response(entry.response).body == entry.body


def test_the_oldest_go_when_there_are_too_many():
    store = ResponseStore(ServerConfig(responses_store_size=2))
    for number in range(4):
        store.put("", entry(number))
    assert kept(store, 4) == ["resp_2", "resp_3"]


def test_the_oldest_go_when_they_are_too_large():
    store = ResponseStore(ServerConfig(responses_store_bytes=500))
    for number in range(4):
        store.put("", entry(number, size=150))
    assert kept(store, 4) == ["resp_2", "resp_3"]
    assert not store.put("", entry(4, size=900))
    assert kept(store, 5) == ["resp_2", "resp_3"], "one that is never kept is no reason to forget others"


def test_what_is_too_old_goes():
    now = [0.0]
    store = ResponseStore(ServerConfig(responses_store_age_s=10), lambda: now[0])
    store.put("", entry(0))
    now[0] = 6.0
    store.put("", entry(1))
    now[0] = 11.0
    assert kept(store, 2) == ["resp_1"]


def test_what_is_being_generated_stays():
    store = ResponseStore(ServerConfig(responses_store_size=1))
    store.put("", entry(0, status="in_progress"))
    store.put("", entry(1))
    assert kept(store, 2) == ["resp_0"]


def test_the_bytes_are_those_of_what_is_kept():
    store = ResponseStore(ServerConfig())
    for number in (0, 1, 0):
        store.put("", entry(number, size=100))
    one = store.get("", "resp_0", "id")
    store.grow("", one, 50)
    assert store.num_bytes == one.num_bytes + store.get("", "resp_1", "id").num_bytes
    store.delete("", "resp_0")
    store.delete("", "resp_1")
    assert store.num_bytes == 0
    store.grow("", one, 50)
    assert store.num_bytes == 0, "it is no longer kept"


async def test_twenty_turns_with_tools_are_one_conversation():
    """As an agent does it: a call in every turn, its result in the next, an answer at the end; streamed and whole."""
    for is_stream in (False, True):
        llm = FakeLLM(calling("f", '{"a": 1}'), tool_parser="hermes", max_model_len=20_000)
        api, previous, new_items = Api(llm), None, [{"role": "user", "content": "Go"}]
        for turn in range(20):
            if turn == 19:
                llm.pieces = (["Done"],)
            reply = await api.respond(
                input=new_items, previous_response_id=previous, tools=[FUNCTION], stream=is_stream, instructions="Act."
            )
            response = reply.named_events[-1]["response"] if is_stream else reply.json
            previous, last = response["id"], response["output"][-1]
            if last["type"] == "function_call":
                new_items = [{"type": "function_call_output", "call_id": last["call_id"], "output": f"{turn}"}]
        assert last["content"][0]["text"] == "Done"
        messages = llm.rendered[-1]["messages"]
        assert [one["role"] for one in messages] == ["system", "user", *["assistant", "tool"] * 19]
        assert [one["content"] for one in messages[3::2]] == [str(turn) for turn in range(19)]
        assert ToolCallDelta  # the calls come from deltas of the engine's parser
