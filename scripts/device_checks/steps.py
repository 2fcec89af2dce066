"""The measurements of `scripts/device run` that run the engine: steps of a model, and all of it offline."""

import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from jaxserve.engine.buckets import Buckets
from jaxserve.engine.plan import StepPlan
from jaxserve.engine.request import Request
from jaxserve.engine.runner import Runner
from jaxserve.models.cost import decoder_cost
from jaxserve.parallel.placement import Placement, single_placement
from jaxserve.sampling_params import SamplingParams
from scripts.device_checks import models
from scripts.device_checks.parts import ROUNDS, Record, Setting, within
from scripts.device_checks.shapes import config_of


@dataclass(frozen=True)
class Grid:
    """What is timed of a model, the most telling first.

    rows       Of decode steps, ascending.
    contexts   Tokens behind which they run.
    prompts    Tokens of prompts.
    chunks     The sizes of prefill programs, ascending.
    repeats    Decode steps that are timed at once.
    """

    rows: tuple[int, ...]
    contexts: tuple[int, ...]
    prompts: tuple[int, ...]
    chunks: tuple[int, ...]
    repeats: int

    def plan(self, config: dict[str, Any], attention: str, placement: Placement) -> models.Plan:
        """Return the programs of a model that these need."""
        return models.plan(
            config,
            placement,
            buckets=Buckets(decode=self.rows, prefill=self.chunks),
            max_len=max(*self.contexts, *self.prompts) + 32,
            pages_wanted=self.rows[-1] * (self.contexts[0] // models.PAGE + 2),
            attention=attention,
        )

    def cases(self) -> Iterator[tuple[str, int, int]]:
        """Yield kind, rows and tokens of each measurement."""
        order = sorted(self.rows, key=lambda rows: rows not in (1, 32, 128, 256))
        first, *others = self.contexts
        yield from (("decode", rows, first) for rows in order)
        yield from (("prefill", 1, tokens) for tokens in self.prompts)
        yield from (("decode", rows, context) for context in others for rows in order)


GRID = Grid((1, 8, 32, 128, 256), (1024, 4096, 256, 16384), (2048, 512, 8192, 1024, 4096), (512, 1024, 2048), 12)
TINY_GRID = Grid((1,), (16, 64), (64,), (32,), 3)


def steps(model: str, setting: Setting) -> Iterator[Record]:
    """Decode and prefill steps of one model, the most telling ones first."""
    grid = TINY_GRID if setting.tiny else GRID
    started = time.perf_counter()
    made = models.make(grid.plan(config_of(model, tiny=setting.tiny), setting.attention, single_placement()))
    about = {"model": model, "attention": made.backend, "itemsize": made.itemsize}
    yield about | {"kind": "ready", "seconds": time.perf_counter() - started, "num_pages": made.num_pages}
    yield from within(setting, _steps(made, about, grid))
    made.runner.close()


def _steps(made: models.Machine, about: Record, grid: Grid) -> Iterator[Record]:
    cost = decoder_cost(made.spec)
    for kind, rows, tokens in grid.cases():
        if kind == "decode":
            plans = models.decode_plans(made, rows, tokens, grid.repeats)
            work, per_round = models.decode_work(cost, made.itemsize, rows, tokens), len(plans)
            shared = rows * (-(-tokens // models.PAGE)) >= made.num_pages
        else:
            plans = models.prefill_plans(made, tokens, min(grid.chunks[-1], tokens))
            work, per_round, shared = models.prefill_work(cost, made.itemsize, tokens), 1, False
        case = about | {"kind": kind, "rows": rows, "tokens": tokens}
        try:
            seconds, host_s = time_plans(made.runner, plans)
        except Exception as error:  # out of memory at one shape says nothing about the next
            yield case | {"outcome": "failed", "why": f"{type(error).__name__}: {error}"[:500]}
            return
        yield case | asdict(work) | {"seconds": seconds / per_round, "host_s": host_s, "rows_share_pages": shared}


def time_plans(runner: Runner, plans: list[StepPlan]) -> tuple[float, float]:
    """Seconds for all plans enqueued one behind the other until the last one's tokens are home, in the fastest
    round; and the median seconds that Python takes to enqueue one."""
    for plan in plans[:2]:
        runner.fetch(runner.execute(plan))
    whole, host = [], []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        for plan in plans:
            begun = time.perf_counter()
            ticket = runner.execute(plan)
            host.append(time.perf_counter() - begun)
        runner.fetch(ticket)
        whole.append(time.perf_counter() - started)
    return min(whole), statistics.median(host)


@dataclass(frozen=True)
class Load:
    """The load of the whole engine: twice as many requests as rows, each with `length` tokens in and out.

    chunks   The sizes of prefill programs, ascending; the largest is a step's budget.
    """

    rows: int
    length: int
    chunks: tuple[int, ...]

    @property
    def max_len(self) -> int:
        """The most tokens of a row."""
        return 2 * self.length + models.PAGE

    def plan(self, config: dict[str, Any], attention: str, placement: Placement) -> models.Plan:
        """Return the programs that it needs."""
        return models.plan(
            config,
            placement,
            buckets=Buckets(decode=(self.rows,), prefill=self.chunks),
            max_len=self.max_len,
            pages_wanted=self.rows * -(-self.max_len // models.PAGE),
            attention=attention,
        )


LOADED_MODEL = "Llama-3.1-8B"
LOAD, TINY_LOAD = Load(256, 1000, (64, 256, 1024, 2048)), Load(4, 24, (32,))


def end_to_end(setting: Setting) -> Iterator[Record]:
    """The engine offline: more requests than rows, all there at the start, for as long as the time allows."""
    model, load = LOADED_MODEL, TINY_LOAD if setting.tiny else LOAD
    rows, length = load.rows, load.length
    started = time.perf_counter()
    made = models.make(load.plan(config_of(model, tiny=setting.tiny), setting.attention, single_placement()))
    about = {"model": model, "attention": made.backend, "rows": rows, "input": length, "output": length}
    yield about | {"kind": "ready", "seconds": time.perf_counter() - started, "num_pages": made.num_pages}
    made.runner.executor.warm_up()
    engine = models.engine_over(made, rows=rows, budget=load.chunks[-1], max_len=load.max_len)
    prompts = np.random.default_rng(0).integers(0, made.spec.vocab_size, (rows * 2, length)).tolist()
    params = SamplingParams(temperature=0.0, max_tokens=length, ignore_eos=True)
    for number, prompt in enumerate(prompts):
        engine.add(Request(number, tuple(prompt), params, number, 2 * length))
    yield about | {"kind": "end to end"} | run_for(engine, min(60.0, max(1.0, setting.seconds_left)))
    engine.close()


def run_for(engine: Any, limit_s: float) -> Record:
    """Steps until everything is done or the time is over, whichever comes first."""
    generated = finished = num_steps = 0
    started = time.perf_counter()
    while engine.has_work and time.perf_counter() - started < limit_s:
        for output in engine.step():
            generated += len(output.token_ids)
            finished += output.finish_reason is not None
        num_steps += 1
    seconds = time.perf_counter() - started
    prompted = int(engine.stats().counters["prompt_tokens"])
    return {
        "seconds": seconds,
        "steps": num_steps,
        "requests_finished": finished,
        "stopped_early": engine.has_work,
        "output_tokens": generated,
        "prompt_tokens": prompted,
        "output_tokens_per_s": generated / seconds,
        "tokens_per_s": (generated + prompted) / seconds,
    }
