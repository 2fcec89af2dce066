"""Ten times as many clients as rows: further requests are refused at once, and admitted ones keep their pace."""

import asyncio
import time
from pathlib import Path

from scripts.benchmarks.results import percentile
from scripts.reliability_checks.outcome import Outcome
from scripts.reliability_checks.served import SMALL, Served, Start
from scripts.reliability_checks.wire import events, json_request, read_answer, read_head

NUM_ROWS = 4
TIMES = 10
DURATION_S = 60.0
PAUSE_S = 0.25  # of a client that was refused
MAX_REFUSAL_S = 0.1
MAX_SLOWER = 1.3
FLAGS = (*SMALL, "--max-num-queued-reqs", str(2 * NUM_ROWS))
REQUEST = json_request("/v1/completions", prompt=[9] * 60, max_tokens=100, ignore_eos=True, stream=True)


async def _client(served: Served, until: float, paces: list[float], refusals: list[float], outcome: Outcome) -> None:
    while time.monotonic() < until:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        try:
            started = time.monotonic()
            writer.write(REQUEST)
            status, head = await read_head(reader)
            if status == 503:
                refusals.append(time.monotonic() - started)
                outcome.expect(b"retry-after:" in head.lower(), "a refusal does not say when to come back")
            elif status == 200:
                arrivals = [time.monotonic() async for _ in events(reader)]
                paces.append((arrivals[-1] - arrivals[0]) / max(1, len(arrivals) - 1))
            else:
                outcome.expect(False, f"status {status}: {await read_answer(reader)}")
        finally:
            writer.close()
        if status != 200:
            await asyncio.sleep(PAUSE_S)


async def _load(
    served: Served, num_clients: int, duration_s: float, outcome: Outcome
) -> tuple[list[float], list[float]]:
    """Return the seconds a token of each admitted request took, and the seconds until each refusal."""
    paces, refusals, until = list[float](), list[float](), time.monotonic() + duration_s
    await asyncio.gather(*(_client(served, until, paces, refusals, outcome) for _ in range(num_clients)))
    return paces, refusals


def run(share: float, model: Path, folder: Path, seed: int) -> Outcome:
    """Load a server with as many clients as rows, then with ten times as many, each for DURATION_S × share."""
    outcome, duration_s = Outcome("overload"), max(5.0, DURATION_S * share)
    with Start(model, folder, FLAGS) as served:
        served.wait_ready()
        asyncio.run(_load(served, NUM_ROWS, 3.0, outcome))  # warm-up
        paces, refused = asyncio.run(_load(served, NUM_ROWS, duration_s, outcome))
        outcome.expect(not refused, f"{len(refused)} of as many clients as rows were refused")
        crowded, refusals = asyncio.run(_load(served, NUM_ROWS * TIMES, duration_s, outcome))
        _, busy = served.wait_idle()
    slower = percentile(crowded, 99) / percentile(paces, 99)
    outcome.expect(not busy, f"something is left: {busy}")
    outcome.expect(bool(refusals), "nobody was refused")
    outcome.expect(percentile(refusals, 99) < MAX_REFUSAL_S, "the 99th percentile of refusals is above 100 ms")
    outcome.expect(slower <= MAX_SLOWER, f"the 99th percentile of a token's time is {slower:.2f} times as long")
    outcome.add_times("a token, as many clients as rows", paces)
    outcome.add_times("a token, ten times as many", crowded)
    outcome.add_times("a refusal", refusals)
    outcome.figures |= {
        "admitted": f"{len(paces)}, then {len(crowded)}",
        "refused": len(refusals),
        "p99 of a token, times as long": round(slower, 2),
    }
    return outcome
