"""Over real sockets: SDKs, clients that disconnect, heads and bodies that are too large, and bytes that are no HTTP."""

import asyncio
import json
from socket import SO_RCVBUF, SOL_SOCKET

import httpx
import openai
import pytest

from jaxserve import GenerationFailed
from server import lifecycle
from tests.fake_llm import FakeLLM
from tests.server.api import CHAT
from tests.server.live_server import get, post, serve_live

PATH = "/v1/chat/completions"
STREAM = {**CHAT, "stream": True}


@pytest.fixture
async def live_server():
    async with serve_live(FakeLLM()) as live_server:
        yield live_server


class TestOpenAI:
    @pytest.fixture
    async def client(self, live_server):
        async with openai.AsyncOpenAI(base_url=f"{live_server.url}/v1", api_key="any", max_retries=0) as client:
            yield client

    async def test_an_answer(self, client):
        answer = await client.chat.completions.create(model="fake/model", messages=CHAT["messages"])
        assert answer.choices[0].message.content == "Hello world"
        assert answer.usage.completion_tokens == 11

    async def test_two_choices_with_logprobs(self, client):
        answer = await client.chat.completions.create(
            model="fake/model", messages=CHAT["messages"], n=2, seed=1, logprobs=True, top_logprobs=2
        )
        assert [choice.index for choice in answer.choices] == [0, 1]
        first = answer.choices[0].logprobs.content[0]
        assert (first.token, [one.token for one in first.top_logprobs]) == ("H", ["H", "G"])

    async def test_a_stream(self, client):
        options = {"include_usage": True}
        stream = await client.chat.completions.create(
            model="fake/model", messages=CHAT["messages"], stream=True, stream_options=options
        )
        chunks = [chunk async for chunk in stream]
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert (text, chunks[-1].usage.completion_tokens) == ("Hello world", 11)

    async def test_completions_and_models(self, client):
        answer = await client.completions.create(model="fake/model", prompt=["a", "b"], echo=True, logprobs=1)
        assert [choice.text for choice in answer.choices] == ["aHello world", "bHello world"]
        assert (await client.models.retrieve("fake/model")).id == "fake/model"

    async def test_errors(self, client):
        with pytest.raises(openai.NotFoundError, match="nope"):
            await client.chat.completions.create(model="nope", messages=CHAT["messages"])
        with pytest.raises(openai.BadRequestError, match="temperature"):
            await client.chat.completions.create(model="", messages=CHAT["messages"], temperature=3)

    async def test_a_stream_that_breaks_raises(self, client, live_server):
        live_server.llm.fail_at, live_server.llm.hold_at, live_server.llm.generate_error = (
            1,
            1,
            GenerationFailed("broken"),
        )
        stream = await client.chat.completions.create(model="", messages=CHAT["messages"], stream=True)
        with pytest.raises(openai.APIError, match="Internal server error"):
            async for _ in stream:
                live_server.llm.release.set()


async def test_streams_interleave(live_server):
    live_server.llm.hold_at = 1
    async with (
        httpx.AsyncClient(base_url=live_server.url) as client,
        asyncio.timeout(10),
        client.stream("POST", PATH, json=STREAM) as one,
        client.stream("POST", PATH, json=STREAM) as two,
    ):
        readers = [response.aiter_text() for response in (one, two)]
        for reader in readers:
            assert "Hel" in await anext(reader)
        live_server.llm.release.set()
        for reader in readers:
            assert "".join([part async for part in reader]).endswith("data: [DONE]\n\n")


async def test_lines_of_httpx_are_events_whatever_is_said(live_server):
    live_server.llm.pieces = (["one\u2028two", "\x85\u2029three\x1c"],)
    async with (
        httpx.AsyncClient(base_url=live_server.url) as client,
        client.stream("POST", PATH, json=STREAM) as response,
    ):
        lines = [line.removeprefix("data: ") async for line in response.aiter_lines() if line]
    assert lines.pop() == "[DONE]"
    told = [choice["delta"].get("content", "") for line in lines for choice in json.loads(line)["choices"]]
    assert "".join(told) == "one\u2028two\x85\u2029three\x1c"


@pytest.mark.parametrize("body", [CHAT, STREAM], ids=["whole", "stream"])
@pytest.mark.parametrize("hold_at", [0, 1], ids=["queued", "running"])
@pytest.mark.parametrize("behind", [b"", b"\r\n", b"G"], ids=["nothing", "newline", "byte"])
@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_client_that_leaves_is_aborted(live_server, body, hold_at, behind, how):
    """Also when it has sent something behind its request, which stops Hypercorn from reading on."""
    live_server.llm.hold_at = hold_at
    async with live_server.connection() as peer:
        await peer.send(post(PATH, body) + behind)
        await live_server.llm.wait_until(lambda llm: llm.calls)
        peer.abort() if how == "reset" else peer.writer.close()
        async with asyncio.timeout(10):
            await live_server.llm.wait_until(lambda llm: llm.ends["aborted"] == 1)


async def test_a_client_that_closes_its_own_direction_only_is_taken_to_have_left(live_server):
    live_server.llm.hold_at = 1
    async with live_server.connection() as peer:
        await peer.send(post(PATH, STREAM))
        await peer.read_until(b'"Hel"')
        peer.writer.write_eof()
        async with asyncio.timeout(10):
            await live_server.llm.wait_until(lambda llm: llm.ends["aborted"] == 1)


async def test_no_time_limit_of_quart_ends_a_reply(live_server):
    """The default, 60 s, would end a stream without its terminator."""
    assert live_server.app.config["RESPONSE_TIMEOUT"] is None
    live_server.app.config["RESPONSE_TIMEOUT"] = 0
    requests = [post(PATH, CHAT), post(PATH, {**CHAT, "temperature": -1}), post("/v1/completions", {"prompt": "a"})]
    for request, status in zip(requests, (200, 400, 200), strict=True):
        async with live_server.connection() as peer:
            await peer.send(request)
            assert (await peer.read_reply())[0] == status
    live_server.llm.hold_at = 1
    async with live_server.connection() as peer:
        await peer.send(post(PATH, STREAM))
        await peer.read_until(b'"Hel"')
        live_server.llm.release.set()
        await peer.read_until(b"data: [DONE]\n\n")


@pytest.mark.parametrize("body", [CHAT, STREAM], ids=["whole", "stream"])
async def test_a_client_that_is_silent_while_it_waits_keeps_its_reply(body, monkeypatch):
    monkeypatch.setattr(lifecycle, "SILENCE_S", 0.05)
    monkeypatch.setattr(lifecycle, "KEEP_ALIVE_S", 0.05)
    async with serve_live(FakeLLM(), head_timeout_s=0.05, body_timeout_s=0.05) as live, live.connection() as waiting:
        live.llm.hold_at = 1
        await waiting.send(post(PATH, body))
        await live.llm.wait_until(lambda llm: llm.calls)
        for _ in range(2):  # as long as two connections that are closed for their silence, one after the other
            async with live.connection() as silent:
                assert await silent.read_to_end() == b""
        live.llm.release.set()
        assert b"world" in await waiting.read_until(b"[DONE]" if body is STREAM else b"}")


async def test_requests_behind_each_other_are_answered_in_order(live_server):
    async with live_server.connection() as peer:
        await peer.send(get("/version") + post("/tokenize", {"prompt": "a"}) + get("/v1/models/none"))
        answers = [await peer.read_reply() for _ in range(3)]
        assert [status for status, _ in answers] == [200, 200, 404]
        await peer.send(get("/load"))
        assert await peer.read_reply() == (200, b'{"server_load":0}')


@pytest.mark.parametrize(("path", "status"), [("/v1/models", 200), ("/v1/models/none", 404), ("/docs", 200)])
async def test_head_is_answered_without_a_body(live_server, path, status):
    async with live_server.connection() as peer:
        await peer.send(get(path).replace(b"GET", b"HEAD") + get("/load"))
        head = (await peer.read_until(b"\r\n\r\n")).lower()
        assert head.startswith(b"http/1.1 %d" % status)
        assert b"content-length: 0" not in head and b"content-length: " in head
        assert await peer.read_reply() == (200, b'{"server_load":0}')


async def test_too_much_behind_a_request_closes_the_connection(live_server):
    live_server.llm.hold_at = 0
    async with live_server.connection() as peer:
        await peer.send(post(PATH, CHAT))
        await live_server.llm.wait_until(lambda llm: llm.calls)
        await peer.send(b"x" * 70_000)
        assert await peer.read_to_end() == b""
    await live_server.llm.wait_until(lambda llm: llm.ends["aborted"] == 1)


LENIENT = {
    "bare line ends": b"GET /version HTTP/1.1\nHost: x\n\n",
    "one bare line end": b"GET /version HTTP/1.1\r\nHost: x\nX-A: b\r\n\r\n",
    "folded line": get("/version", "X-A: b\r\n  c"),
    "two lengths in one": get("/version", "content-LENGTH: 1, 1"),
    "chunks of HTTP/1.0": b"POST /version HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("size", [1, 9, 1000])
@pytest.mark.parametrize("name", LENIENT)
async def test_a_head_that_another_server_may_read_otherwise_is_400(live_server, name, size):
    """However it arrives, and behind a request that is sound, a list and a body with bare line ends included."""
    sound, head = post("/tokenize", {"prompt": "a\nb"}, "X-A: 1, 1\t2"), LENIENT[name]
    async with live_server.connection() as peer:
        for start in range(0, len(sound), size):
            await peer.send(sound[start : start + size])
        assert (await peer.read_reply())[0] == 200
        for start in range(0, len(head), size):
            peer.writer.write(head[start : start + size])
            await asyncio.sleep(0)
        assert (await peer.read_reply())[0] == 400
    async with live_server.connection() as peer:
        await peer.send(sound + head)
        assert [(await peer.read_reply())[0] for _ in range(2)] == [200, 400]


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"garbage\r\n\r\n", 400),
        (b"GET /version HTTP/1.1\r\n\r\n", 400),
        (b"GET http://[bad HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"PRI * HTTP/2.0\r\n\r\n", 404),
        (get("/version", "X-Long: " + "x" * 40_000), 431),
        (get("/version", "X-Long: " + "x" * 200_000), 431),
        (get("/version", *(f"X-{number}: 1" for number in range(200))), 431),
        (get("/version", "Content-Length: 3", "Transfer-Encoding: chunked"), 400),
        (get("/version", "Content-Length: " + "1" * 21), 400),
        (get("/version", "Content-Length: " + "1" * 5000), 400),
        (get("//version"), 404),
        (get("/version", "Upgrade: h2c", "Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: x"), 200),
        (get("/version", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"), 200),
        (get("http://elsewhere/version"), 200),
        (get("/v1/models/fake%2Fmodel"), 200),
        (b"GET /version HTTP/1.0\r\n\r\n", 200),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_any_head_gets_an_answer_in_our_shape(live_server, head, status):
    async with live_server.connection() as peer:
        await peer.send(head)
        seen, body = await peer.read_reply()
        assert seen == status
        assert ("error" in json.loads(body)) == (status >= 400)


async def test_a_head_that_does_not_end_is_closed():
    async with serve_live(FakeLLM(), head_timeout_s=0.05) as live_server, live_server.connection() as peer:
        await peer.send(b"GET /version HTTP/1.1\r\nHost")
        assert await peer.read_to_end() == b""


async def test_a_body_that_does_not_end_is_408_and_closed():
    async with serve_live(FakeLLM(), body_timeout_s=0.05) as live_server, live_server.connection() as peer:
        await peer.send(post(PATH, CHAT)[:-5])
        assert (await peer.read_reply())[0] == 408
        assert await peer.read_to_end() == b""


@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_that_is_too_large_is_413_and_the_answer_arrives(declared):
    """The client is still sending when the answer comes; closing at once would reset it."""
    async with serve_live(FakeLLM(), max_body_bytes=100_000) as live_server, live_server.connection() as peer:
        length = "Content-Length: 3000000" if declared else "Transfer-Encoding: chunked"
        await peer.send(
            f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{length}\r\n\r\n".encode()
        )
        for _ in range(30):
            await peer.send((b"" if declared else b"186a0\r\n") + b"x" * 100_000 + (b"" if declared else b"\r\n"))
        assert (await peer.read_reply())[0] == 413


async def test_a_chunked_body_is_read(live_server):
    data = json.dumps(CHAT).encode()
    chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(data), data)
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with live_server.connection() as peer:
        await peer.send(head.encode() + chunked)
        assert (await peer.read_reply())[0] == 200


async def test_a_body_is_asked_for_only_when_it_will_be_read():
    wanted = post(PATH, CHAT, "Expect: 100-continue", "Authorization: Bearer k")
    unwanted = post(PATH, CHAT, "Expect: 100-continue")
    async with serve_live(FakeLLM(), api_key=("k",)) as live_server:
        async with live_server.connection() as peer:
            head, _, body = wanted.partition(b"\r\n\r\n")
            await peer.send(head + b"\r\n\r\n")
            assert (await peer.read_until(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
            await peer.send(body)
            assert (await peer.read_reply())[0] == 200
        async with live_server.connection() as peer:
            await peer.send(unwanted.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
            assert (await peer.read_reply())[0] == 401


@pytest.mark.parametrize(
    ("path", "more", "status"),
    [
        ("/nowhere", (), 404),
        ("/v1/models", (), 405),
        (PATH, ("Content-Encoding: gzip",), 415),
        (PATH, ("Content-Type: text/plain",), 400),
    ],
)
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_connection_outlives_an_answer_that_came_before_the_body(live_server, path, more, status, chunked):
    """Clients that send head and body apart do not know yet that they were refused, and go on with the connection."""
    head, _, body = post(path, CHAT, *more).partition(b"\r\n\r\n")
    if "Content-Type: text/plain" in more:
        head = head.replace(b"Content-Type: application/json\r\n", b"")
    if chunked:
        length = b"Content-Length: %d" % len(body)
        head, body = head.replace(length, b"Transfer-Encoding: chunked"), b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    async with live_server.connection() as peer:
        for _ in range(3):
            await peer.send(head + b"\r\n\r\n")
            assert (await peer.read_reply())[0] == status
            await peer.send(body[:7])
            await peer.send(body[7:] + get("/load"))
            assert await peer.read_reply() == (200, b'{"server_load":0}')


async def test_who_was_not_asked_for_the_body_hears_that_the_connection_ends():
    """It may send the body or not, so what comes behind the answer could be either."""
    async with serve_live(FakeLLM(), api_key=("k",)) as live_server, live_server.connection() as peer:
        await peer.send(post(PATH, CHAT, "Expect: 100-continue").partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
        assert b"connection: close" in (await peer.read_until(b"\r\n\r\n")).lower()


async def test_a_slow_reader_does_not_stop_the_others(live_server):
    live_server.llm.pieces = (["x"] * 50,)
    async with live_server.connection() as slow, live_server.connection() as quick:
        await slow.send(post(PATH, {**STREAM, "n": 16, "logprobs": True, "top_logprobs": 20}))
        await quick.send(post(PATH, CHAT))
        assert (await quick.read_reply())[0] == 200


async def test_every_event_comes_as_it_is_made(live_server):
    live_server.llm.hold_at = 1
    async with live_server.connection() as peer:
        await peer.send(post(PATH, STREAM))
        head = await peer.read_until(b"\r\n\r\n")
        assert b"text/event-stream; charset=utf-8" in head
        assert b'"content":"Hel"' in await peer.read_until(b'"Hel"')
        live_server.llm.release.set()
        await peer.read_until(b"data: [DONE]\n\n")


async def test_many_streams_at_once_lose_nothing(live_server):
    live_server.llm.config = FakeLLM(max_num_queued_reqs=1000).config
    live_server.slots._limit = 1000

    async def one():
        async with live_server.connection() as peer:
            await peer.send(post(PATH, STREAM, "Connection: close"))
            return await peer.read_to_end()

    answers = await asyncio.gather(*(one() for _ in range(200)))
    assert all(b"[DONE]" in answer and b"Hello world" in answer for answer in answers)
    assert len(live_server.slots) == 0


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_head_is_as_large_as_what_was_sent(method):
    """400 percent-encoded letters are 1200 bytes; no body is asked for behind them."""
    head = f"{method} /{'%41' * 400} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    body = "Expect: 100-continue\r\nContent-Length: 2\r\n" if method == "POST" else ""
    async with serve_live(FakeLLM(), max_header_bytes=1000) as live_server, live_server.connection() as peer:
        await peer.send(f"{head}{body}\r\n".encode())
        assert (await peer.read_to_end()).startswith(b"HTTP/1.1 431 ")


async def test_a_client_that_reads_nothing_is_cut_off():
    llm = FakeLLM(["x"] * 59)
    async with serve_live(llm, send_stall_timeout_s=0.1) as live_server, live_server.connection() as peer:
        socket = peer.writer.get_extra_info("socket")
        socket.setsockopt(SOL_SOCKET, SO_RCVBUF, 4096)
        peer.writer.transport.pause_reading()
        much = {**STREAM, "n": 60, "logprobs": True, "top_logprobs": 20, "stop_token_ids": [1]}
        for _ in range(2):
            await peer.send(post(PATH, much))
        async with asyncio.timeout(10):
            while len(live_server.slots) or not llm.calls:
                await asyncio.sleep(0.01)


async def test_one_connection_too_many_is_told_so():
    async with serve_live(FakeLLM(), max_connections=1) as live_server, live_server.connection() as first:
        await first.send(get("/live"))
        assert (await first.read_reply())[0] == 200
        async with live_server.connection() as second:
            status, body = await second.read_reply()
            assert (status, json.loads(body)["error"]["type"]) == (503, "Service Unavailable")
        await first.send(get("/metrics"))
        assert b"jaxserve_open_connections" in (await first.read_reply())[1]
