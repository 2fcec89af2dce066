"""Sends the deltas of a generation as server-sent events, with keep-alive comments."""

import asyncio
from collections.abc import AsyncIterator, Sequence

from quart import Response

from server.errors import to_api_error
from server.generation import Generation
from server.writer import Event, Writer

FIRST_RESULT_TIMEOUT_S = 0.25  # an error that comes this soon still gets an HTTP status of its own


async def stream_response(
    generation: Generation, writer: Writer, *, interval: int, keep_alive_s: float, opens_early: bool = False
) -> Response:
    """Make the HTTP response of a stream, when its first result is there or FIRST_RESULT_TIMEOUT_S have passed.

    interval: tokens of a choice that a chunk waits for. keep_alive_s: see KeepAliveTimer.
    opens_early: the stream's opening does not wait for the first result; the writer must make it only once.

    Raises ApiError if the generation failed by then without any delta. Deltas before the error are always sent, so that
    what a client gets does not depend on how soon this task runs.
    """
    await generation.wait(FIRST_RESULT_TIMEOUT_S)
    if generation.error is not None and not generation.has_pending:
        raise generation.error
    opening = list(writer.opening()) if opens_early and not generation.has_begun else []
    return make_stream_response(stream_events(generation, writer, interval, keep_alive_s, opening))


def make_stream_response(pieces: AsyncIterator[bytes]) -> Response:
    """Make the HTTP response of a stream. pieces: its bytes."""
    response = Response(pieces, content_type="text/event-stream; charset=utf-8")
    response.headers["Cache-Control"] = "no-cache"
    response.headers["X-Accel-Buffering"] = "no"
    response.timeout = None  # Quart would end a stream after 60 s
    return response


async def stream_events(
    generation: Generation, writer: Writer, interval: int, keep_alive_s: float, opening: Sequence[Event] = ()
) -> AsyncIterator[bytes]:
    """Yield the bytes of the stream, first those of `opening`; all deltas that are pending go into one piece.

    It yields to the event loop after each piece: sends to a connection that was reset return at once, and a stream that
    never waits would block all others.
    """
    if opening:
        yield _encode(opening)
    keep_alive = KeepAliveTimer(generation, keep_alive_s)
    last: list[Event] = []
    async for events, is_last in read_events(generation, writer, interval):
        if is_last:
            last = events
            break
        if events:
            yield _encode(events)
            keep_alive.restart()
        elif keep_alive.is_due:
            yield writer.keep_alive
            keep_alive.restart()
        await asyncio.sleep(0)
    keep_alive.cancel()
    for event in last[:-1]:  # each may have the whole answer
        yield event.encode()
    yield _encode(last[-1:]) + writer.end


async def read_events(generation: Generation, writer: Writer, interval: int) -> AsyncIterator[tuple[list[Event], bool]]:
    """Yield the events of a generation, of all deltas that are pending at once, and whether they are the last ones.

    There are none where something else has woken it (Generation.wake). If the writer raises, the generation ends, and
    its failure is told as any other error.
    """
    has_opened = False
    while True:
        await generation.wait()
        is_finished, error = generation.is_finished, None
        events: list[Event] = []
        try:
            for delta in generation.take(interval):
                events += writer.delta(delta) if has_opened else (*writer.opening(), *writer.delta(delta))
                has_opened = True
            if is_finished and generation.error is None:
                events += writer.closing()
        except Exception as raised:
            generation.release()
            is_finished, error = True, to_api_error(raised, admitted=True)
        if is_finished:
            error = error or generation.error
            yield events if error is None else [*events, *writer.failure(error)], True
            return
        yield events, False


def _encode(events: Sequence[Event]) -> bytes:
    return b"".join(event.encode() for event in events)


class KeepAliveTimer:
    """A timer that wakes the reader of a generation when nothing has been sent for `period_s` seconds; 0: never.

    There is one timer for the stream, which is moved on when it fires: a chunk costs only a look at the clock. A reader
    that is gone and does not restart it is woken once more, and never again.

    is_due: a keep-alive comment should be sent.
    """

    def __init__(self, generation: Generation, period_s: float) -> None:
        self.is_due = False
        self._generation, self._period_s = generation, period_s
        self._loop = asyncio.get_running_loop()
        self._last_s = self._loop.time()
        self._timer = self._loop.call_later(period_s, self._on_timer) if period_s else None

    def restart(self) -> None:
        """Start the period again, because something was sent."""
        self._last_s = self._loop.time()
        if self.is_due:
            self.is_due = False
            self._timer = self._loop.call_later(self._period_s, self._on_timer)

    def cancel(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()

    def _on_timer(self) -> None:
        due_s = self._last_s + self._period_s
        if due_s > self._loop.time():
            self._timer = self._loop.call_at(due_s, self._on_timer)
        else:
            self.is_due = True
            self._generation.wake()
