"""An exchange with an ASGI application without a connection: the server's application answers as over HTTP."""

import asyncio
import json
import pickle

import pytest

from jaxserve import PromptPages
from server.app import create_app
from server.config import ServerConfig
from server.ray.forwarding import MAX_PENDING, AsgiExchange, ForwardedRequest, copy_scope
from tests.fake_llm import FakeLLM
from tests.server.api import CHAT, Api

HEADERS = [(b"content-type", b"application/json"), (b"host", b"x")]


def make_scope(path="/", method="POST", **more):
    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http"}
    scope |= {"path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "", "headers": HEADERS}
    return scope | {"client": ("10.0.0.1", 5), "server": ("x", 80), "state": {}, "app": asyncio} | more


def make_request(path="/", body=b"", **scope):
    return ForwardedRequest(copy_scope(make_scope(path, **scope)), body)


async def run(app, request):
    return [message async for messages in AsgiExchange(app, request).run() for message in messages]


async def respond(app, path, body):
    start, *rest = await run(app, make_request(path, json.dumps(body).encode()))
    return start["status"], dict(start["headers"]), b"".join(message["body"] for message in rest).decode()


async def test_the_server_answers_as_it_does_over_http():
    api, path = Api(FakeLLM("Hello")), "/v1/chat/completions"
    for fields in ({}, {"stream": True}):
        body = CHAT | fields | {"request_id": "r", "seed": 1}
        expected = await api.post(path, body)
        status, headers, text = await respond(create_app(FakeLLM("Hello"), ServerConfig()), path, body)
        assert (status, headers[b"content-type"].decode()) == (expected.status, expected.headers["Content-Type"])
        assert _without_times(text) == _without_times(expected.text)


def _without_times(text):
    return [line.partition('"created"')[0] for line in text.splitlines()]


async def test_who_closes_an_exchange_ends_the_request():
    llm = FakeLLM(["a", "b"])
    llm.hold_at = 1
    app = create_app(llm, ServerConfig())
    body = json.dumps(CHAT | {"stream": True}).encode()
    exchange = AsgiExchange(app, make_request("/v1/chat/completions", body)).run()
    await anext(exchange)
    await llm.wait_until(lambda llm: bool(llm.calls))
    await exchange.aclose()
    assert llm.ends == {"aborted": 1}


async def test_an_application_gets_the_body_and_then_waits_for_the_client_to_leave():
    received = []

    async def app(scope, receive, send):
        received.append(await receive())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        received.append(await receive())

    exchange = AsgiExchange(app, make_request(body=b"data")).run()
    assert [message["type"] for message in await anext(exchange)] == ["http.response.start"]
    await exchange.aclose()
    assert received == [
        {"type": "http.request", "body": b"data", "more_body": False},
        {"type": "http.disconnect"},
    ]


async def test_an_application_waits_for_who_reads_slowly():
    numbers = []

    async def app(scope, receive, send):
        for number in range(3 * MAX_PENDING):
            await send({"type": "http.response.body", "body": b"", "number": number})
            numbers.append(number)

    exchange = AsgiExchange(app, make_request()).run()
    messages = list(await anext(exchange))
    assert len(numbers) < 3 * MAX_PENDING
    messages += [message async for more in exchange for message in more]
    assert [message["number"] for message in messages] == numbers == list(range(3 * MAX_PENDING))


async def test_an_error_of_the_application_is_raised_behind_its_messages():
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise LookupError("x")

    exchange = AsgiExchange(app, make_request()).run()
    assert len(await anext(exchange)) == 1
    with pytest.raises(LookupError):
        await anext(exchange)


@pytest.mark.parametrize(
    ("root", "path", "expected"),
    [("", "/v1/x", "/v1/x"), ("/llm", "/llm/v1/x", "/v1/x"), ("/llm/", "/llm", "/"), ("/llm", "/llmx", "/llmx")],
)
def test_the_path_is_that_below_the_application(root, path, expected):
    scope = copy_scope(make_scope(path, root_path=root))
    assert scope["path"] == expected and "root_path" not in scope


def test_a_request_pickles():
    request = make_request("/v1/x", b"{}").avoid("a").avoid("b").avoid(None)
    assert request.avoided == {"a", "b"} and request.prompt == PromptPages()
    assert pickle.loads(pickle.dumps(request)) == request
