"""A long prompt among streams: how far apart the tokens of running answers come while a long prompt is computed."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

from bench_client import Failed, Messages, Server
from bench_results import Arrivals, percentile

TOKENS_BEFORE = 24  # of each stream, before the long prompt is asked
LONGEST_STREAM = 1024
LOOK_S = 0.005


async def long_prompt_among_streams(
    server: Server, streams: Sequence[Messages], alone: Messages, among: Messages
) -> dict[str, Any]:
    """Milliseconds between deliveries of the running streams before the long prompt, and while it is computed.

    First `alone` is asked of the idle server for one token, then `among` while every stream decodes. A gap counts as
    "during" if it overlaps the time from asking to the long prompt's first token. The streams are cut off afterwards.
    Gaps are those between deliveries, not between tokens: what comes late and together was late.
    """
    alone_ttft_s = await _first_token(server, alone)
    arrivals = [Arrivals(time.perf_counter()) for _ in streams]
    tasks = [
        asyncio.create_task(server.timed(messages, LONGEST_STREAM, into))
        for messages, into in zip(streams, arrivals, strict=True)
    ]
    try:
        await _until(lambda one: len(one.deliveries) > TOKENS_BEFORE, arrivals, tasks)
        asked = time.perf_counter()
        ttft_s = await _first_token(server, among)
        answered = asked + ttft_s
        await _until(lambda one: one.deliveries[-1] > answered, arrivals, tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    begun = max(one.deliveries[0] for one in arrivals)
    return {
        "num_streams": len(streams),
        "alone_ttft_ms": 1000 * alone_ttft_s,
        "ttft_ms": 1000 * ttft_s,
        "before": _gaps(arrivals, begun, asked),
        "during": _gaps(arrivals, asked, answered),
    }


async def _first_token(server: Server, messages: Messages) -> float:
    line = await server.timed(messages, 1)
    if line.error:
        raise Failed(f"the long prompt: {line.error}")
    return line.ttft_s


async def _until(
    there: Callable[[Arrivals], bool], arrivals: Sequence[Arrivals], tasks: Sequence[asyncio.Task[Any]]
) -> None:
    """Waits until `there` holds for every stream; a stream that ends before that is a failure."""
    while not all(map(there, arrivals)):
        for task in tasks:
            if task.done():
                raise Failed(f"a stream ended too early: {task.result().error or f'after {LONGEST_STREAM} tokens'}")
        await asyncio.sleep(LOOK_S)


def _gaps(arrivals: Sequence[Arrivals], begin: float, end: float) -> dict[str, float]:
    """The gaps that overlap the time from begin to end."""
    ms = [
        1000 * (later - earlier)
        for one in arrivals
        for earlier, later in zip(one.deliveries, one.deliveries[1:], strict=False)
        if later > begin and earlier < end
    ]
    return {
        "num_gaps": len(ms),
        "median_itl_ms": percentile(ms, 50),
        "p99_itl_ms": percentile(ms, 99),
        "max_itl_ms": max(ms),
    }
