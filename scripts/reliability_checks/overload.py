"""Ten times as many requests as the default model can answer: the rest is refused at once, and admitted ones keep pace.

Not the tiny model: its steps are so short that a refusal, which costs about two milliseconds, costs as much as they do.
"""

import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path

from jaxserve.config import DEFAULT_MODEL
from scripts.benchmarks.results import percentile
from scripts.reliability_checks.outcome import Outcome
from scripts.reliability_checks.served import Served, Start
from scripts.reliability_checks.wire import events, json_request, read_head

NUM_ROWS = 8
TIMES = 10
DURATION_S = 120.0
MAX_REFUSAL_S = 0.1
MAX_SLOWER = 1.3
FLAGS = (
    *("--max-model-len", "512", "--max-num-seqs", str(NUM_ROWS), "--max-num-batched-tokens", "256"),
    *("--max-num-queued-reqs", str(2 * NUM_ROWS)),
)
REQUEST = json_request("/v1/completions", prompt=[90] * 60, max_tokens=60, ignore_eos=True, stream=True)


@dataclass(slots=True)
class _Told:
    """What the clients were told: seconds a token of each admitted request, seconds until each refusal."""

    paces_s: list[float] = field(default_factory=list)
    refusals_s: list[float] = field(default_factory=list)


async def _ask(served: Served, told: _Told, outcome: Outcome) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    try:
        started = time.monotonic()
        writer.write(REQUEST)
        status, head = await read_head(reader)
        if status == 503:
            told.refusals_s.append(time.monotonic() - started)
            outcome.expect(b"retry-after:" in head.lower(), "a refusal does not say when to come back")
            return
        outcome.expect(status == 200, f"status {status}")
        arrivals = [time.monotonic() async for _ in events(reader)]
        told.paces_s.append((arrivals[-1] - arrivals[0]) / max(1, len(arrivals) - 1))
    finally:
        writer.close()


async def _fill(served: Served, duration_s: float, outcome: Outcome) -> _Told:
    """Keep every row busy."""

    async def client() -> None:
        while time.monotonic() < until:
            await _ask(served, told, outcome)

    told, until = _Told(), time.monotonic() + duration_s
    await asyncio.gather(*(client() for _ in range(NUM_ROWS)))
    return told


async def _flood(served: Served, per_s: float, duration_s: float, outcome: Outcome) -> _Told:
    """Send so many requests a second, whatever becomes of them."""
    told, started, tasks = _Told(), time.monotonic(), list[asyncio.Task[None]]()
    while (passed_s := time.monotonic() - started) < duration_s:
        for _ in range(int(passed_s * per_s) - len(tasks)):
            tasks.append(asyncio.create_task(_ask(served, told, outcome)))
        await asyncio.sleep(1 / per_s)
    await asyncio.gather(*tasks)
    return told


def run(share: float, model: Path, folder: Path, seed: int) -> Outcome:
    """Load the default model with a client a row, then with TIMES as many requests, each for DURATION_S × share."""
    outcome, duration_s = Outcome("overload"), max(5.0, DURATION_S * share)
    with Start(DEFAULT_MODEL, folder, FLAGS) as served:
        served.wait_ready()
        asyncio.run(_fill(served, 3.0, outcome))  # warm-up
        full = asyncio.run(_fill(served, duration_s, outcome))
        outcome.expect(not full.refusals_s, f"{len(full.refusals_s)} of as many clients as rows were refused")
        per_s = TIMES * len(full.paces_s) / duration_s
        flooded = asyncio.run(_flood(served, per_s, duration_s, outcome))
        _, busy = served.wait_idle()
    slower = percentile(flooded.paces_s, 99) / percentile(full.paces_s, 99)
    outcome.expect(not busy, f"something is left: {busy}")
    outcome.expect(percentile(flooded.refusals_s, 99) < MAX_REFUSAL_S, "the 99th percentile of refusals is over 100 ms")
    outcome.expect(slower <= MAX_SLOWER, f"the 99th percentile of a token's time is {slower:.2f} times as long")
    outcome.add_times("a token, all rows busy", full.paces_s)
    outcome.add_times("a token, flooded", flooded.paces_s)
    outcome.add_times("a refusal", flooded.refusals_s)
    outcome.figures |= {
        "requests a second": f"{per_s / TIMES:.1f}, then {per_s:.0f}",
        "admitted": f"{len(full.paces_s)}, then {len(flooded.paces_s)}",
        "refused": len(flooded.refusals_s),
        "p99 of a token, times as long": round(slower, 2),
    }
    return outcome
