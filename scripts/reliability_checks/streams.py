"""Many streams at a time for a long time: every token is right, and they come evenly."""

import asyncio
import json
import random
import time
from dataclasses import dataclass, field
from pathlib import Path

from scripts.reliability_checks.outcome import Outcome
from scripts.reliability_checks.served import Served, Start
from scripts.reliability_checks.wire import events, exchange, json_request, read_head

NUM_STREAMS = 256
DURATION_S = 600.0
NUM_KINDS = 16
FLAGS = ("--max-model-len", "512", "--max-num-seqs", str(NUM_STREAMS), "--max-num-batched-tokens", "512")


@dataclass(slots=True)
class _Told:
    """What a client was told: streams and tokens, and the seconds between events."""

    num_streams: int = 0
    num_tokens: int = 0
    gaps_s: list[float] = field(default_factory=list)


def _kind(number: int) -> dict[str, object]:
    """Return the number-th of NUM_KINDS requests."""
    rng = random.Random(number)
    prompt = [3 + rng.randrange(200) for _ in range(rng.choice((5, 40, 200)))]
    sampled = {"temperature": 1.0, "seed": number} if number % 2 else {"temperature": 0}
    return {
        "prompt": prompt,
        "max_tokens": rng.randint(30, 250),
        "ignore_eos": True,
        "return_token_ids": True,
        **sampled,
    }


async def _stream(served: Served, kind: int, gaps: list[float]) -> tuple[int, list[int]]:
    """Stream a request; return its status and tokens, and add the seconds between its events."""
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    try:
        writer.write(json_request("/v1/completions", stream=True, **_kind(kind)))
        status, _ = await read_head(reader)
        ids, last = list[int](), 0.0
        async for event in events(reader):
            now = time.monotonic()
            if ids:
                gaps.append(now - last)
            ids, last = ids + (json.loads(event)["choices"][0].get("token_ids") or []), now
        return status, ids
    finally:
        writer.close()


async def _client(served: Served, number: int, until: float, expected: list[list[int]], outcome: Outcome) -> _Told:
    """Stream one request after another until the time is over."""
    told = _Told()
    while time.monotonic() < until:
        kind = (number + told.num_streams) % NUM_KINDS
        status, ids = await _stream(served, kind, told.gaps_s)
        outcome.expect(status == 200 and ids == expected[kind], f"a stream of kind {kind}: {status}, tokens {ids}")
        told.num_streams, told.num_tokens = told.num_streams + 1, told.num_tokens + len(ids)
    return told


async def _run(served: Served, duration_s: float, outcome: Outcome) -> None:
    expected = []
    for number in range(NUM_KINDS):
        status, reply = await exchange(served.port, json_request("/v1/completions", **_kind(number)))
        assert status == 200, reply
        expected.append(json.loads(reply)["choices"][0]["token_ids"])
    before, started = served.resources(), time.monotonic()
    clients = (_client(served, number, started + duration_s, expected, outcome) for number in range(NUM_STREAMS))
    told = await asyncio.gather(*clients)
    seconds, after = time.monotonic() - started, served.resources()
    outcome.add_times("between events", [gap for one in told for gap in one.gaps_s])
    outcome.figures |= {
        "streams at a time": NUM_STREAMS,
        "streams": sum(one.num_streams for one in told),
        "tokens": sum(one.num_tokens for one in told),
        "tokens a second": round(sum(one.num_tokens for one in told) / seconds),
        "seconds": round(seconds),
        "memory, MiB": f"{before.rss_bytes >> 20} → {after.rss_bytes >> 20}",
        "descriptors": f"{before.num_files} → {after.num_files}",
    }


def run(share: float, model: Path, folder: Path, seed: int) -> Outcome:
    """Keep NUM_STREAMS streams open for DURATION_S × share."""
    outcome = Outcome("streams")
    with Start(model, folder, FLAGS) as served:
        served.wait_ready()
        asyncio.run(_run(served, max(5.0, DURATION_S * share), outcome))
        _, busy = served.wait_idle()
    outcome.expect(not busy, f"something is left: {busy}")
    return outcome
