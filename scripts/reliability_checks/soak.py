"""Half an hour of everything at once: memory, descriptors, threads and pages stay flat."""

import asyncio
import random
import statistics
import time
from collections import Counter
from pathlib import Path

from scripts.reliability_checks.disconnects import leave
from scripts.reliability_checks.hostile_inputs import ALLOWED, hostile_input
from scripts.reliability_checks.outcome import Outcome
from scripts.reliability_checks.served import FEW_PAGES, SMALL, Resources, Served, Start
from scripts.reliability_checks.wire import exchange, json_request

DURATION_S = 1800.0
NUM_CLIENTS = 12
LOOK_S = 5.0
MAX_GROWTH = 0.02  # of the resident memory, from the second third of the time to the last
MESSAGES = [{"role": "user", "content": "some words"}]


def _good_request(rng: random.Random) -> bytes:
    prompt = [3 + rng.randrange(200) for _ in range(rng.choice((3, 30, 200)))]
    body = {"max_tokens": rng.randint(1, 60), "stream": rng.random() < 0.6, "temperature": rng.choice((0, 1))}
    shape = rng.choice(
        (
            {"n": 3, "temperature": 1},
            {"logprobs": 3},
            {"stop": ["a", "bc"]},
            {"structured_outputs": {"regex": f"[a-z]{{{rng.randint(1, 30)}}}"}},
            {"presence_penalty": 1, "logit_bias": {"70": 5}},
            {},
            {},
        )
    )
    if rng.random() < 0.4:
        chat = {"logprobs": True, "top_logprobs": 3} if "logprobs" in shape else shape
        return json_request("/v1/chat/completions", messages=MESSAGES * rng.choice((1, 5)), **{**body, **chat})
    return json_request("/v1/completions", prompt=prompt, **{**body, **shape})


async def _client(served: Served, number: int, until: float, seed: int, counts: Counter[str], outcome: Outcome) -> None:
    rng = random.Random(f"{seed}:{number}")
    while time.monotonic() < until:
        draw = rng.random()
        if draw < 0.2:
            await leave(served.port, rng, Counter())
            counts["left"] += 1
            continue
        is_hostile = draw < 0.4
        data = hostile_input(seed, rng.randrange(10**9)) if is_hostile else _good_request(rng)
        status, reply = await exchange(served.port, data)
        counts["hostile" if is_hostile else f"good, {status}"] += 1
        allowed = ALLOWED if is_hostile else {200, 503}
        outcome.expect(status in allowed, f"{status} for {data[:300]!r}: {reply[:200]!r}")


async def _look(served: Served, until: float) -> list[Resources]:
    seen = []
    while time.monotonic() < until:
        seen.append(await asyncio.to_thread(served.resources))
        await asyncio.sleep(LOOK_S)
    return seen


async def _run(served: Served, duration_s: float, seed: int, counts: Counter[str], outcome: Outcome) -> list[Resources]:
    until = time.monotonic() + duration_s
    clients = (_client(served, number, until, seed, counts, outcome) for number in range(NUM_CLIENTS))
    looking = asyncio.create_task(_look(served, until))
    await asyncio.gather(*clients)
    return await looking


def run(share: float, model: Path, folder: Path, seed: int) -> Outcome:
    """Load a server with good requests, hostile ones and clients that leave, for DURATION_S × share."""
    outcome, counts, duration_s = Outcome("soak"), Counter[str](), max(20.0, DURATION_S * share)
    with Start(model, folder, (*SMALL, *FEW_PAGES)) as served:
        served.wait_ready()
        expected, before = served.reference(), served.resources()
        seen = asyncio.run(_run(served, duration_s, seed, counts, outcome))
        _, busy = served.wait_idle()
        outcome.expect(served.reference() == expected, "other tokens at the end")
        time.sleep(2)  # connections that the server closes by itself
        after = served.resources()
    thirds = [seen[len(seen) * part // 3 : len(seen) * (part + 1) // 3] for part in range(3)]
    means = [statistics.fmean(one.rss_bytes for one in third) for third in thirds if third]
    growth = means[-1] / means[-2] - 1
    outcome.expect(not busy, f"something is left: {busy}")
    outcome.expect(after.num_files <= before.num_files + 8, f"descriptors went from {before} to {after}")
    outcome.expect(after.num_threads <= before.num_threads + 8, f"threads went from {before} to {after}")
    outcome.expect(share < 1 or growth < MAX_GROWTH, f"memory grew by {growth:.1%} from the second third to the last")
    outcome.figures |= {
        "seconds": round(duration_s),
        "seed": seed,
        "requests": dict(sorted(counts.items())),
        "memory by thirds of the time, MiB": [round(mean / 2**20, 1) for mean in means],
        "growth, second third to last": f"{growth:.2%}",
        "descriptors": f"{before.num_files} → {after.num_files}, at most {max(one.num_files for one in seen)}",
        "threads": f"{before.num_threads} → {after.num_threads}",
        "worker processes": f"{before.num_children} → {after.num_children}",
    }
    return outcome
