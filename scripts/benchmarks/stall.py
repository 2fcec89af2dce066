"""The gaps between tokens of running streams while a long prompt is computed: scripts/bench stall --url http://localhost:8000"""

import argparse
import asyncio
import json
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

from scripts.benchmarks.client import Failed, Messages, Server
from scripts.benchmarks.http_command import add_server_flags, run_over_http, server_of
from scripts.benchmarks.load import prompt_of
from scripts.benchmarks.results import Arrivals, percentile

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


async def benchmark(arguments: argparse.Namespace) -> int:
    """Print how far apart the streams' tokens come before and during a long prompt, as JSON."""
    server, rng = await server_of(arguments), random.Random(arguments.seed)
    streams = [await prompt_of(server, arguments.input_len, rng) for _ in range(arguments.streams)]
    alone, among = [await prompt_of(server, arguments.long_prompt, rng) for _ in range(2)]
    print(json.dumps(await long_prompt_among_streams(server, streams, alone, among), indent=2))
    return 0


def main(words: Sequence[str]) -> int:
    """Measure a server, print the gaps as JSON, and return the exit code."""
    parser = argparse.ArgumentParser(prog="bench stall", description=__doc__)
    add_server_flags(parser)
    parser.add_argument("--long-prompt", type=int, default=4096, metavar="TOKENS", help="template included")
    parser.add_argument("--streams", type=int, default=16, metavar="N", help="that the long prompt arrives among")
    parser.add_argument("--input-len", type=int, default=128, metavar="TOKENS", help="prompt of a stream")
    parser.add_argument("--seed", type=int, default=0)
    return run_over_http("stall", benchmark(parser.parse_args(words)))
