"""What clients get when replicas are lost: another one's whole answer, or an error at the end of what had begun."""

import asyncio
import json
from collections.abc import AsyncGenerator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.errors import ENGINE_DEAD, ApiError
from server.ray.forwarding import LOST, ForwardedRequest
from server.ray.relay import MAX_TRIES, ReplicaLost, relay
from server.writer import KEEP_ALIVE

CHAT, COMPLETIONS, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses"
STREAM = [(b"content-type", b"text/event-stream; charset=utf-8")]
WHOLE = [(b"content-type", b"application/json")]
EVENT = b"event: x\ndata: {}\n\n"


def start(headers=STREAM, status=200):
    return {"type": "http.response.start", "status": status, "headers": headers}


def body(data, more=True):
    return {"type": "http.response.body", "body": data, "more_body": more}


END = body(b"", more=False)
ANSWER = [start(), body(EVENT), body(EVENT), END]


class Replicas:
    """Replicas by what each of them does: it sends messages, and raises an exception if that is the last item."""

    def __init__(self, *scripts) -> None:
        self.scripts = list(scripts)
        self.requests: list[ForwardedRequest] = []

    async def respond(self, request) -> AsyncGenerator[list[dict], None]:
        self.requests.append(request)
        for item in self.scripts.pop(0):
            if isinstance(item, Exception):
                raise item
            yield [item]


async def ask(replicas, path=CHAT):
    """Return what a client gets: status, headers, bytes, and whether the answer has ended."""
    sent = []

    async def send(message) -> None:
        sent.append(message)

    await relay(ForwardedRequest({"path": path}, b""), replicas.respond, send)
    assert [message["type"] for message in sent[1:]] == ["http.response.body"] * (len(sent) - 1)
    return sent[0]["status"], b"".join(message["body"] for message in sent[1:]), not sent[-1]["more_body"]


def lost(replica=None):
    return ReplicaLost("killed", replica)


async def test_an_answer_is_passed_on_as_it_is():
    assert await ask(Replicas(ANSWER)) == (200, EVENT + EVENT, True)
    assert await ask(Replicas([start(WHOLE, 404), body(b"{}", more=False)])) == (404, b"{}", True)
    assert await ask(Replicas([start(WHOLE, 204), END])) == (204, b"", True)


@pytest.mark.parametrize("before", [[], [start()], [start(), body(b"")]], ids=["nothing", "head", "empty body"])
async def test_before_the_first_byte_another_replica_answers(before):
    replicas = Replicas([*before, lost("a")], [*before, {"type": LOST, "replica": "b"}], ANSWER)
    assert await ask(replicas) == (200, EVENT + EVENT, True)
    assert [set(request.avoided) for request in replicas.requests] == [set(), {"a"}, {"a", "b"}]


async def test_a_request_does_not_end_all_replicas():
    replicas = Replicas(*[[lost()]] * (MAX_TRIES + 1))
    status, data, has_ended = await ask(replicas)
    assert (status, has_ended, len(replicas.requests)) == (503, True, MAX_TRIES)
    assert "try again" in json.loads(data)["error"]["message"]
    assert json.loads((await ask(Replicas(*[[lost()]] * MAX_TRIES), MESSAGES))[1])["type"] == "error"


async def test_a_stream_that_had_begun_ends_with_the_error_of_its_api():
    broken = [start(), body(EVENT), body(KEEP_ALIVE), body(EVENT + EVENT), lost()]
    for path in (CHAT, COMPLETIONS):
        status, data, has_ended = await ask(Replicas(broken), path)
        *_, error, done, _ = data.split(b"\n\n")
        assert (status, has_ended, done) == (200, True, b"data: [DONE]")
        assert json.loads(error.removeprefix(b"data: "))["error"]["message"] == ENGINE_DEAD
    last = (await ask(Replicas(broken), MESSAGES))[1].split(b"\n\n")[-2]
    assert last.startswith(b"event: error\n") and json.loads(last.split(b"data: ")[1])["type"] == "error"
    last = (await ask(Replicas(broken), RESPONSES))[1].split(b"\n\n")[-2]
    event = json.loads(last.removeprefix(b"event: error\ndata: "))
    assert event == {
        "type": "error", "code": "server_error", "message": ENGINE_DEAD, "param": None, "sequence_number": 3
    }  # fmt: skip


async def test_an_answer_that_is_no_stream_breaks_off():
    with pytest.raises(ReplicaLost, match="killed"):
        await ask(Replicas([start(WHOLE), body(b"[1, "), lost()]))


async def test_other_errors_are_told_and_not_tried_again():
    replicas = Replicas([ApiError(503, "full")])
    assert (await ask(replicas))[0] == 503
    assert (await ask(Replicas([start(), ValueError("x")])))[0] == 500
    assert b"Internal server error" in (await ask(Replicas([start(), body(EVENT), ValueError("x")])))[1]


@settings(deadline=None)
@given(st.lists(st.integers(0, len(ANSWER)), max_size=MAX_TRIES - 1))
def test_no_request_that_had_not_begun_is_lost(kills):
    """Replicas are killed after so many messages, and the last one never: the client gets one whole answer.

    Or, if a byte of an earlier one was sent, that with an error at its end.
    """
    replicas = Replicas(*([*ANSWER[:number], lost()] for number in kills), ANSWER)
    status, data, has_ended = asyncio.run(ask(replicas))
    begun = next((number for number in kills if number > 1), None)
    assert (status, has_ended) == (200, True)
    if begun is None:
        assert data == EVENT + EVENT
    else:
        assert data.startswith(EVENT * min(begun - 1, 2)) and ENGINE_DEAD.encode() in data
