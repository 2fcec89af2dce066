"""Server-sent events: takes what a run has, writes it as frames, keeps a silent line alive, ends with [DONE]."""

import asyncio
from collections.abc import AsyncIterator

from quart import Response

from server.replies import DONE, ChunkWriter, events
from server.runs import Run

KEEP_ALIVE = b": keep-alive\n\n"
FIRST_RESULT_S = 0.25  # an error that comes this soon still gets a status of its own


async def stream_response(run: Run, writer: ChunkWriter, *, interval: int, keep_alive_s: float) -> Response:
    """The response of a stream. Raises what ended the run, when that happened before its first result.

    A result that takes longer does not keep the head of the response waiting.
    """
    await run.news(FIRST_RESULT_S)
    if run.error is not None:
        raise run.error
    response = Response(
        frames(run, writer, interval, keep_alive_s or None), content_type="text/event-stream; charset=utf-8"
    )
    response.headers["Cache-Control"] = "no-cache"
    response.headers["X-Accel-Buffering"] = "no"
    response.timeout = None  # Quart would cut a stream after 60 s, without a word
    return response


async def frames(run: Run, writer: ChunkWriter, interval: int, keep_alive_s: float | None) -> AsyncIterator[bytes]:
    """The stream's bytes. All that is pending goes out in one piece.

    Yields to the loop after each piece: sends to a connection that was reset return at once, and a stream that never
    waits would starve everybody else.
    """
    has_opened = False
    while True:
        if not await run.news(keep_alive_s):
            yield KEEP_ALIVE
            continue
        is_over = run.is_over
        deltas = run.take(interval)
        chunks = []
        if deltas and not has_opened:
            has_opened = True
            chunks += writer.opening()
        for delta in deltas:
            chunks += writer.chunks(delta)
        if is_over:
            break
        if chunks:
            yield events(chunks)
        await asyncio.sleep(0)
    if run.error is not None:
        chunks.append(run.error.body)
    else:
        chunks += writer.closing()
    yield events(chunks) + DONE
