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
    response = Response(frames(run, writer, interval, keep_alive_s), content_type="text/event-stream; charset=utf-8")
    response.headers["Cache-Control"] = "no-cache"
    response.headers["X-Accel-Buffering"] = "no"
    response.timeout = None  # Quart would cut a stream after 60 s, without a word
    return response


async def frames(run: Run, writer: ChunkWriter, interval: int, keep_alive_s: float) -> AsyncIterator[bytes]:
    """The stream's bytes. All that is pending goes out in one piece.

    Yields to the loop after each piece: sends to a connection that was reset return at once, and a stream that never
    waits would starve everybody else.
    """
    has_opened = False
    silence = Silence(run, keep_alive_s)
    while True:
        await run.news()
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
            silence.restart()
        elif silence.is_due:
            yield KEEP_ALIVE
            silence.restart()
        await asyncio.sleep(0)
    silence.cancel()
    if run.error is not None:
        chunks.append(run.error.body)
    else:
        chunks += writer.closing()
    yield events(chunks) + DONE


class Silence:
    """Wakes the reader of a run when nothing was sent for `period_s`; 0: never.

    One timer for the stream, moved on when it rings: a chunk costs a look at the clock. A reader that is gone and
    does not restart it is woken once more, and never again.
    """

    def __init__(self, run: Run, period_s: float) -> None:
        self.is_due = False
        self._run, self._period_s = run, period_s
        self._loop = asyncio.get_running_loop()
        self._last_s = self._loop.time()
        self._timer = self._loop.call_later(period_s, self._ring) if period_s else None

    def restart(self) -> None:
        """Something was sent."""
        self._last_s = self._loop.time()
        if self.is_due:
            self.is_due = False
            self._timer = self._loop.call_later(self._period_s, self._ring)

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _ring(self) -> None:
        due_s = self._last_s + self._period_s
        if due_s > self._loop.time():
            self._timer = self._loop.call_at(due_s, self._ring)
        else:
            self.is_due = True
            self._run.wake()
