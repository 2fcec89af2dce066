"""The host's time in each decode step, of the scheduler and of the engine by part: scripts/bench host [--json FILE]

The scheduler runs over a device that answers at once, the engine over the default model on the real one. Text is
decoded in another thread than the engine's, which does not wait for it, but the interpreter's lock is one for both.
"""

import argparse
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from jaxserve.cache.groups import GroupSize
from jaxserve.cache.manager import CacheManager
from jaxserve.config import EngineConfig
from jaxserve.engine.build import LoadedEngine, build
from jaxserve.engine.engine import Engine
from jaxserve.engine.plan import SampledTokens, StepMasks, StepPlan, StepResult
from jaxserve.engine.request import Request
from jaxserve.engine.scheduler import Scheduler
from jaxserve.engine.stats import Stats
from jaxserve.outputs import TokenOutput
from jaxserve.sampling_params import SamplingParams
from jaxserve.text.text_stream import TextStream
from jaxserve.text.tokenizer import Tokenizer

ROWS, STEPS, PAGE, LONGEST, VOCAB = (32, 256), 300, 16, 8192, 50_000


class Nothing:
    """A device that answers at once, always the same."""

    def forward(self, plan: StepPlan) -> StepPlan:
        return plan

    def sample(self, handle: StepPlan, masks: StepMasks) -> StepPlan:
        return handle

    def fetch(self, handle: StepPlan) -> StepResult:
        chunks = tuple((_tokens(1),) for _ in handle.chunks)
        return StepResult(_tokens(len(handle.decode)) if handle.decode else None, chunks, (None,) * len(chunks))

    def reset(self) -> None:
        pass

    def close(self) -> None:
        pass


def measure_scheduler() -> list[dict[str, Any]]:
    """Microseconds of this thread's own time by step, for each number of rows; contexts grow from 40 or so tokens."""
    results = []
    for rows in ROWS:
        engine = _decoding(rows)
        times = []
        for _ in range(STEPS):
            started = time.thread_time()
            engine.step()
            times.append(1e6 * (time.thread_time() - started))
        results.append(
            {"rows": rows, "median_us": statistics.median(times), "p90_us": statistics.quantiles(times, n=10)[-1]}
        )
    return results


def _decoding(rows: int) -> Engine:
    """An engine in which so many requests decode, with hundreds of tokens to go, page borders at different times."""
    size = GroupSize(num_pages=rows * (STEPS // PAGE + 8) + 1)
    scheduler = Scheduler(
        CacheManager([size], page_size=PAGE),
        Stats(LONGEST),
        max_num_seqs=rows,
        max_num_batched_tokens=4 * rows,
        max_chunk_tokens=4 * rows,
        max_pages_per_row=LONGEST // PAGE,
        vocab_size=VOCAB,
        max_logprobs=20,
    )
    engine = Engine(scheduler, Nothing(), overlap=True)
    params = SamplingParams(temperature=0, max_tokens=STEPS + 500)
    for at in range(rows):
        prompt = tuple(range(at * 100, at * 100 + 20 + at % 37))
        engine.add(Request(at, prompt, params, 0, len(prompt) + STEPS + 500))
    for _ in range(40):
        engine.step()
    assert scheduler.num_running == rows
    return engine


def _tokens(n: int) -> SampledTokens:
    return SampledTokens(np.full((n, 1), 7, np.int32), np.ones(n, np.int32))


class TimedCalls:
    """This thread's processor time in calls of some methods, in microseconds. A thread that waits takes none."""

    def __init__(self) -> None:
        self.times: dict[str, list[float]] = defaultdict(list)

    def watch(self, owner: Any, name: str) -> None:
        """Time a method of an object from now on."""
        method, times = getattr(owner, name), self.times[name]

        def timed(*args: Any) -> Any:
            started = time.thread_time()
            result = method(*args)
            times.append(1e6 * (time.thread_time() - started))
            return result

        setattr(owner, name, timed)


def measure_engine(built: LoadedEngine, rows: Sequence[int] = (1, 8, 32), steps: int = 150) -> list[dict[str, Any]]:
    """Return the budget of a decode step in microseconds: medians of the engine's thread, and of the text's.

    The processor's caches are as cold as in service: between two steps all weights are read. `other` is what of the
    engine's `step` is in none of the parts before it; `wall` is how long the step took, waits for the device included.
    """
    engine, calls, tokenizer = built.engine, TimedCalls(), Tokenizer.load(built.path)
    for name in ("plan", "make_masks", "apply"):
        calls.watch(engine.scheduler, name)
    for name in ("forward", "sample", "fetch"):
        calls.watch(engine.runner, name)
    calls.watch(engine, "step")
    params, results = SamplingParams(temperature=0, max_tokens=steps + 100), []
    for num in rows:
        for index in range(num):
            prompt = tuple(range(100 * index + 5, 100 * index + 25))
            engine.add(Request(1000 * num + index, prompt, params, 0, len(prompt) + steps + 100))
        for _ in range(num + 10):
            engine.step()
        for times in calls.times.values():
            times.clear()
        wall, outputs = [], []
        for _ in range(steps):
            started = time.perf_counter()
            outputs.append(engine.step())
            wall.append(1e6 * (time.perf_counter() - started))
        parts = {name: statistics.median(times) for name, times in calls.times.items()}
        step_us = parts.pop("step")
        parts |= {"other": step_us - sum(parts.values()), "step": step_us, "wall": statistics.median(wall)}
        results.append({"rows": num} | parts | {"text": measure_text(tokenizer, params, outputs)})
        while engine.has_work:
            engine.step()
    return results


def measure_text(tokenizer: Tokenizer, params: SamplingParams, outputs: Sequence[Sequence[TokenOutput]]) -> float:
    """Return the median processor time in which the outputs of a step become text, in microseconds."""
    streams: dict[int, TextStream] = {}
    times = []
    for step in outputs:
        for output in step:
            if output.request_id not in streams:
                streams[output.request_id] = TextStream(tokenizer, params, (1,))
        started = time.thread_time()
        for output in step:
            streams[output.request_id].push(output)
        times.append(1e6 * (time.thread_time() - started))
    return statistics.median(times)


def show_engine(results: list[dict[str, Any]]) -> None:
    """Print the results of `measure_engine` as a table."""
    title = "us a decode step: processor time of the engine's thread by part, wall, text in its own thread"
    table = Table(*results[0], title=title)
    for row in results:
        table.add_row(*(f"{value:.0f}" for value in row.values()))
    Console().print(table)


def main(words: Sequence[str]) -> int:
    """Measure the scheduler and the engine, print a line for each number of rows, and return the exit code."""
    parser = argparse.ArgumentParser(prog="bench host", description=__doc__)
    parser.add_argument("--json", type=Path, help="write the numbers here, too")
    arguments = parser.parse_args(words)
    results = measure_scheduler()
    print("\n".join(map(describe, results)))
    built = build(EngineConfig(max_model_len=1024))
    engine = measure_engine(built)
    built.engine.close()
    show_engine(engine)
    if arguments.json:
        arguments.json.write_text(json.dumps({"host": results, "engine": engine}, indent=1))
    return 0


def describe(result: dict[str, Any]) -> str:
    """Return one result of `measure_scheduler` as a sentence."""
    times = f"{result['median_us']:.0f} us a step, p90 {result['p90_us']:.0f} us"
    return f"scheduler, {result['rows']} unchanged rows: {times}"
