"""SIGKILL at random moments of the start and under load: the next start needs no repair and gives the same tokens."""

import json
import random
import shutil
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil

from scripts.benchmarks.attacks import post
from scripts.reliability_checks.outcome import Outcome
from scripts.reliability_checks.served import SMALL, Served, Start

NUM_KILLS = 100
COLD_EVERY = 10  # kills between two that hit a start without stored programs
MAX_LOAD_S = 1.5
NUM_STREAMS = 6


def run(share: float, model: Path, folder: Path, seed: int) -> Outcome:
    """Kill NUM_KILLS × share servers, in turns while they start and under load; all of them share one cache."""
    outcome, rng, cache = Outcome("kills"), random.Random(seed), folder / "programs"
    ready_s: list[float] = []
    with Start(model, folder, SMALL, cache) as served:
        cold_s = served.wait_ready()
        expected = served.reference()
    warm_s = cold_s
    for number in range(max(4, round(NUM_KILLS * share))):
        is_cold = number % COLD_EVERY == COLD_EVERY - 2
        if is_cold:
            shutil.rmtree(cache)
        with Start(model, folder, SMALL, cache) as served:
            if number % 2 == 0:
                time.sleep(rng.random() * (cold_s if is_cold else warm_s))
            else:
                try:
                    ready_s.append(served.wait_ready())
                    warm_s = min(warm_s, ready_s[-1])
                    outcome.expect(served.reference() == expected, f"start {number} gives other tokens")
                except (RuntimeError, AssertionError) as error:
                    outcome.expect(False, f"start {number}: {error}")
                _load(served.url)
                time.sleep(rng.random() * MAX_LOAD_S)
            _kill(served, number, outcome)
    with Start(model, folder, SMALL, cache) as served:
        last_s = served.wait_ready()
        outcome.expect(served.reference() == expected, "the last start gives other tokens")
        hits = served.metric("jaxserve_compilation_cache_hits_total{.*}")
        compiled = served.metric("jaxserve_compilations_total{.*}")
    left = [str(path.relative_to(cache)) for path in cache.rglob("*") if "tmp" in path.name]
    outcome.expect(not left, f"half-written files are left: {left[:5]}")
    outcome.add_times("ready again", ready_s)
    outcome.figures |= {
        "kills": number + 1,
        "seed": seed,
        "cold start, s": round(cold_s, 1),
        "last start, s": round(last_s, 1),
        "programs of the last start": f"{round(compiled)} compiled, {round(hits)} from the cache",
    }
    return outcome


def _load(url: str) -> None:
    """Start streams that will never end."""
    for _ in range(NUM_STREAMS):
        threading.Thread(target=_stream, args=(url,), daemon=True).start()


def _stream(url: str) -> None:
    body = json.dumps({"prompt": [5] * 50, "max_tokens": 400, "ignore_eos": True, "stream": True}).encode()
    with suppress(OSError):  # the server is killed meanwhile
        post(url, "/v1/completions", body)


def _kill(served: Served, number: int, outcome: Outcome) -> None:
    """Kill a server's process alone; its children must end by themselves."""
    with suppress(psutil.NoSuchProcess):
        children = served.process.children(recursive=True)
        served.process.kill()
        _, alive = psutil.wait_procs(children, timeout=10)
        outcome.expect(not alive, f"kill {number}: children are left: {alive}")
