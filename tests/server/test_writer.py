"""A stream is what its writer makes, event by event, whatever the events are called and whatever ends the stream."""

import asyncio
from collections.abc import Iterable

import pytest

from jaxserve import FinishReason, TextDelta
from server.errors import ApiError
from server.sse import stream_events, stream_response
from server.writer import Event


class NamedWriter:
    """Writes named events, and no end of its own."""

    end = b""
    keep_alive = b": still here\n\n"

    async def write_whole(self):
        return {}

    def opening(self) -> Iterable[Event]:
        return [Event("start", {})]

    def delta(self, delta: TextDelta) -> Iterable[Event]:
        return [Event("text", {"text": delta.text})]

    def closing(self) -> Iterable[Event]:
        return [Event("stop", {})]

    def failure(self, error: ApiError) -> Iterable[Event]:
        return [Event("error", {"status": error.status})]


class FakeGeneration:
    """Has its deltas at once, and ends with an error if there is one."""

    is_finished = True

    def __init__(self, *texts: str, error: ApiError | None = None) -> None:
        self.error = error
        self.texts = texts

    @property
    def has_pending(self) -> bool:
        return bool(self.texts)

    async def wait(self, timeout_s: float | None = None) -> bool:
        return True

    def take(self, interval: int) -> list[TextDelta]:
        return [TextDelta(0, text, (1,), finish_reason=FinishReason.STOP) for text in self.texts]


async def stream(generation: FakeGeneration) -> list[str]:
    pieces = [piece async for piece in stream_events(generation, NamedWriter(), 1, 0)]  # type: ignore[arg-type]
    return b"".join(pieces).decode().split("\n\n")[:-1]


async def test_events_have_their_names_and_their_order() -> None:
    assert await stream(FakeGeneration("a", "b")) == [
        "event: start\ndata: {}",
        'event: text\ndata: {"text":"a"}',
        'event: text\ndata: {"text":"b"}',
        "event: stop\ndata: {}",
    ]


async def test_an_error_is_told_as_the_writer_tells_it() -> None:
    generation = FakeGeneration("a", error=ApiError(500, "broken"))
    assert (await stream(generation))[-1] == 'event: error\ndata: {"status":500}'


async def test_an_error_before_any_delta_is_the_status_and_after_one_it_is_an_event() -> None:
    broken = ApiError(500, "broken")
    with pytest.raises(ApiError, match="broken"):
        await stream_response(FakeGeneration(error=broken), NamedWriter(), interval=1, keep_alive_s=0)  # type: ignore[arg-type]
    late = FakeGeneration("a", error=broken)
    response = await stream_response(late, NamedWriter(), interval=1, keep_alive_s=0)  # type: ignore[arg-type]
    assert response.status_code == 200
    assert (await response.get_data()).endswith(b'event: error\ndata: {"status":500}\n\n')


def test_an_event_without_a_name_has_no_line_for_it() -> None:
    assert Event(None, {"a": 1}).encode() == b'data: {"a":1}\n\n'


class EndlessGeneration:
    """A generation that always has something to take, so that nobody ever waits for it."""

    is_finished, error = False, None

    def __init__(self) -> None:
        self.num_taken = 0

    async def wait(self, timeout_s: float | None = None) -> bool:
        return True

    def wake(self) -> None:
        pass

    def take(self, interval: int = 1) -> list[TextDelta]:
        self.num_taken += 1
        return [TextDelta(0, "x")]


class PlainWriter:
    end = keep_alive = b""

    def opening(self) -> list[Event]:
        return []

    def delta(self, delta: TextDelta) -> list[Event]:
        return [Event(None, {"text": delta.text})]


async def test_a_stream_whose_sends_never_wait_lets_others_run():
    """As after a reset: sends return at once."""
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other, generation = asyncio.create_task(take_turns()), EndlessGeneration()
    stream = stream_events(generation, PlainWriter(), 1, 0)
    for _ in range(100):
        await anext(stream)
    await stream.aclose()
    other.cancel()
    assert turns >= 99
    assert generation.num_taken == 100
