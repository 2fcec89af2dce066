"""Announced chunk sizes, however the bytes are split; and bodies that are refused for them over a real socket."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.chunk_sizes import MAX_LINE_BYTES, MAX_SMALL_CHUNKS, ChunkSizes, InvalidChunks
from tests.fake_llm import FakeLLM
from tests.server.live_server import serve_live

HEAD = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
CHAT_HEAD = HEAD % b"/v1/chat/completions"


@given(st.lists(st.binary(min_size=1, max_size=40)), st.binary(max_size=9), st.data())
def test_announced_is_what_is_sent_however_it_is_cut(chunks, behind, data):
    body = b"".join(b"%X;a=1\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n" + behind
    sizes = ChunkSizes()
    while body:
        cut = data.draw(st.integers(1, len(body)))
        sizes.read(body[:cut])
        body = body[cut:]
    assert sizes.total_bytes == sum(map(len, chunks))


@pytest.mark.parametrize("step", [1, 7, MAX_LINE_BYTES])
def test_a_line_has_a_longest(step):
    longest = b"1;" + b"x" * (MAX_LINE_BYTES - 2)
    for line, is_too_long in ((longest, False), (longest + b"x", True)):
        sizes, pieces = ChunkSizes(), line + b"\r\n"
        refused = False
        for place in range(0, len(pieces), step):
            try:
                sizes.read(pieces[place : place + step])
            except InvalidChunks:
                refused = True
        assert (refused, sizes.total_bytes) == ((True, 0) if is_too_long else (False, 1))


@pytest.mark.parametrize(("size", "is_refused"), [(1, True), (15, True), (16, False), (1000, False)])
def test_chunks_beyond_some_thousands_have_a_least_mean_size(size, is_refused):
    sizes, chunk = ChunkSizes(), b"%X\r\n%s\r\n" % (size, b" " * size)
    sizes.read(chunk * MAX_SMALL_CHUNKS)
    if not is_refused:
        sizes.read(chunk * 100_000)
        return
    with pytest.raises(InvalidChunks, match="too many small chunks"):
        sizes.read(chunk * MAX_SMALL_CHUNKS * 16)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"7fffffff\r\n", 413),
        (b"FFFFFFFFFFFFFFFFFFFF\r\n", 413),
        (b"1\r\n \r\n1000\r\n", 413),
        (b"1000\r\n" + b" " * 4096 + b"\r\n1\r\n", 413),
        (b"F" * 21 + b"\r\n", 400),
        (b"x\r\n", 400),
        (b"1;" + b"x" * 5000, 400),
        (b"1" * 70_000, 400),
    ],
    ids=lambda value: str(value)[:20],
)
@pytest.mark.parametrize("apart", [False, True])
async def test_a_chunked_body_is_refused_as_soon_as_its_sizes_say_so(body, status, apart):
    async with (
        serve_live(FakeLLM(), max_body_bytes=4096, body_timeout_s=600) as live_server,
        live_server.connection() as peer,
    ):
        for piece in (CHAT_HEAD, body[:1], body[1:]) if apart else (CHAT_HEAD + body,):
            await peer.send(piece)
            await asyncio.sleep(0)
        seen, answer = await peer.read_reply()
        assert (seen, b'"error"' in answer) == (status, True)
        assert await peer.read_to_end() == b""


async def test_who_has_no_key_hears_that_first():
    async with serve_live(FakeLLM(), api_key=("k",)) as live_server, live_server.connection() as peer:
        await peer.send(CHAT_HEAD + b"7fffffff\r\n")
        assert (await peer.read_reply())[0] == 401


async def test_a_body_of_very_many_chunks_is_refused_and_named():
    async with serve_live(FakeLLM()) as live_server, live_server.connection() as peer:
        await peer.send(CHAT_HEAD + b"1\r\n \r\n" * 6000)
        status, reply = await peer.read_reply()
        assert status == 400
        assert b"too many small chunks" in reply


async def test_chunks_of_a_body_that_nobody_wants_are_not_parsed(monkeypatch):
    monkeypatch.setattr(ChunkSizes, "read", None)  # would fail the connection
    async with serve_live(FakeLLM(), api_key=("secret",)) as live_server, live_server.connection() as peer:
        await peer.send(CHAT_HEAD + b"1\r\n \r\n" * 10)
        head = await peer.read_until(b"\r\n\r\n")
        assert b" 401 " in head and b"connection: close" in head.lower()
        await peer.send(b"1\r\n \r\n" * 10)
        assert b"Unauthorized" in await peer.read_to_end()
