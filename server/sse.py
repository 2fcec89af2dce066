"""Server-sent events: takes what a run has, writes it as frames, keeps a silent line alive, ends with [DONE]."""

import asyncio
from collections.abc import AsyncIterator

from quart import Response

from server.generation import Generation
from server.replies import DONE, ChunkWriter, encode_events

KEEP_ALIVE = b": keep-alive\n\n"
FIRST_RESULT_TIMEOUT_S = 0.25  # an error that comes this soon still gets a status of its own


async def stream_response(
    generation: Generation, writer: ChunkWriter, *, interval: int, keep_alive_s: float
) -> Response:
    """The response of a stream. Raises what ended the run, when that happened before its first result.

    A result that takes longer does not keep the head of the response waiting.
    """
    await generation.wait(FIRST_RESULT_TIMEOUT_S)
    if generation.error is not None:
        raise generation.error
    response = Response(
        stream_events(generation, writer, interval, keep_alive_s), content_type="text/event-stream; charset=utf-8"
    )
    response.headers["Cache-Control"] = "no-cache"
    response.headers["X-Accel-Buffering"] = "no"
    response.timeout = None  # Quart would cut a stream after 60 s, without a word
    return response


async def stream_events(
    generation: Generation, writer: ChunkWriter, interval: int, keep_alive_s: float
) -> AsyncIterator[bytes]:
    """The stream's bytes. All that is pending goes out in one piece.

    Yields to the loop after each piece: sends to a connection that was reset return at once, and a stream that never
    waits would starve everybody else.
    """
    has_opened = False
    keep_alive = KeepAliveTimer(generation, keep_alive_s)
    while True:
        await generation.wait()
        is_over = generation.is_finished
        deltas = generation.take(interval)
        chunks = []
        if deltas and not has_opened:
            has_opened = True
            chunks += writer.opening()
        for delta in deltas:
            chunks += writer.chunks(delta)
        if is_over:
            break
        if chunks:
            yield encode_events(chunks)
            keep_alive.restart()
        elif keep_alive.is_due:
            yield KEEP_ALIVE
            keep_alive.restart()
        await asyncio.sleep(0)
    keep_alive.cancel()
    if generation.error is not None:
        chunks.append(generation.error.body)
    else:
        chunks += writer.closing()
    yield encode_events(chunks) + DONE


class KeepAliveTimer:
    """Wakes the reader of a run when nothing was sent for `period_s`; 0: never.

    One timer for the stream, moved on when it rings: a chunk costs a look at the clock. A reader that is gone and
    does not restart it is woken once more, and never again.
    """

    def __init__(self, generation: Generation, period_s: float) -> None:
        self.is_due = False
        self._generation, self._period_s = generation, period_s
        self._loop = asyncio.get_running_loop()
        self._last_s = self._loop.time()
        self._timer = self._loop.call_later(period_s, self._on_timer) if period_s else None

    def restart(self) -> None:
        """Something was sent."""
        self._last_s = self._loop.time()
        if self.is_due:
            self.is_due = False
            self._timer = self._loop.call_later(self._period_s, self._on_timer)

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _on_timer(self) -> None:
        due_s = self._last_s + self._period_s
        if due_s > self._loop.time():
            self._timer = self._loop.call_at(due_s, self._on_timer)
        else:
            self.is_due = True
            self._generation.wake()
