"""The measurements of scripts/device that run the engine: steps of a model, and all of it offline."""

import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np

from jaxserve.engine.buckets import Buckets
from jaxserve.engine.plan import StepPlan
from jaxserve.engine.request import Request
from jaxserve.engine.runner import Runner
from jaxserve.models.cost import decoder_cost
from jaxserve.sampling_params import SamplingParams
from scripts.device_checks import models
from scripts.device_checks.parts import ROUNDS, Record, Setting, within


def steps(model: str, setting: Setting) -> Iterator[Record]:
    """Decode and prefill steps of one model, the most telling ones first."""
    decode = (1,) if setting.tiny else (1, 8, 32, 128, 256)
    chunks = (32,) if setting.tiny else (512, 1024, 2048)
    contexts = (16, 64) if setting.tiny else (1024, 4096, 256, 16384)
    prompts = (64,) if setting.tiny else (2048, 512, 8192, 1024, 4096)
    started = time.perf_counter()
    made = models.make(
        model,
        tiny=setting.tiny,
        buckets=Buckets(decode=decode, prefill=chunks),
        max_len=max(*contexts, *prompts) + 32,
        pages_wanted=decode[-1] * (contexts[0] // models.PAGE + 2),
        attention=setting.attention,
    )
    about = {"model": model, "attention": made.backend, "itemsize": made.itemsize}
    yield about | {"kind": "ready", "seconds": time.perf_counter() - started, "num_pages": made.num_pages}
    yield from within(setting, _steps(made, about, decode, chunks, contexts, prompts, tiny=setting.tiny))
    made.runner.close()


def _steps(
    made: models.Machine,
    about: Record,
    decode: tuple[int, ...],
    chunks: tuple[int, ...],
    contexts: tuple[int, ...],
    prompts: tuple[int, ...],
    *,
    tiny: bool,
) -> Iterator[Record]:
    cost = decoder_cost(made.spec)
    order = sorted(decode, key=lambda rows: rows not in (1, 32, 128, 256))
    cases = [("decode", rows, context) for context in contexts for rows in order]
    prefill = [("prefill", 1, tokens) for tokens in prompts]
    for kind, rows, tokens in (*cases[: len(order)], *prefill, *cases[len(order) :]):
        if kind == "decode":
            plans = models.decode_plans(made, rows, tokens, 3 if tiny else 12)
            work, per_round = (
                models.decode_work(cost, made.itemsize, rows, tokens),
                len(plans),
            )
            shared = rows * (-(-tokens // models.PAGE)) >= made.num_pages
        else:
            plans = models.prefill_plans(made, tokens, min(chunks[-1], tokens))
            work, per_round, shared = (
                models.prefill_work(cost, made.itemsize, tokens),
                1,
                False,
            )
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


def end_to_end(setting: Setting) -> Iterator[Record]:
    """The engine offline: more requests than rows, all there at the start, for as long as the time allows."""
    model, rows, length = "Llama-3.1-8B", *((4, 24) if setting.tiny else (256, 1000))
    budget = 32 if setting.tiny else 2048
    most = 2 * length + models.PAGE
    started = time.perf_counter()
    made = models.make(
        model,
        tiny=setting.tiny,
        buckets=Buckets(decode=(rows,), prefill=(32,) if setting.tiny else (64, 256, 1024, 2048)),
        max_len=most,
        pages_wanted=rows * -(-most // models.PAGE),
        attention=setting.attention,
    )
    about = {"model": model, "attention": made.backend, "rows": rows, "input": length, "output": length}
    yield about | {"kind": "ready", "seconds": time.perf_counter() - started, "num_pages": made.num_pages}
    made.runner.executor.warm_up()
    engine = models.engine_over(made, rows=rows, budget=budget, max_len=most)
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
