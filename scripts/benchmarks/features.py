"""The cost of each sampling feature in a decode step: the same rows with and without it, in turns.

    scripts/bench features [--model PATH] [--context 128] [--repeats 7] [--json FILE]

"nothing" twice tells how far two equal rows are apart on this machine. The last line asks one row of the batch for
penalties and leaves the others as they were: what a request costs its neighbours.
"""

import argparse
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from jaxserve.config import DEFAULT_MODEL, EngineConfig
from jaxserve.engine.build import LoadedEngine, build
from jaxserve.engine.plan import NO_MASKS, Mask, StepMasks, StepPlan
from jaxserve.sampling.columns import pack_params
from jaxserve.sampling.penalties import build_row, pack_bits
from jaxserve.sampling.sampler import SampleMode
from jaxserve.sampling_params import SamplingParams
from scripts.benchmarks.plans import decode_plan

GREEDY = SamplingParams(temperature=0.0)
DRAWN = SamplingParams(temperature=0.8)
PENALISED = replace(DRAWN, repetition_penalty=1.1, frequency_penalty=0.2, presence_penalty=0.2)
FEATURES: Mapping[str, tuple[SampleMode, SamplingParams]] = {
    "nothing": (SampleMode.GREEDY, GREEDY),
    "nothing, again": (SampleMode.GREEDY, GREEDY),
    "temperature": (SampleMode.SAMPLE, DRAWN),
    "temperature, top_k 40": (SampleMode.SAMPLE, replace(DRAWN, top_k=40)),
    "temperature, top_p 0.9": (SampleMode.SAMPLE, replace(DRAWN, top_p=0.9)),
    "temperature, min_p 0.05": (SampleMode.SAMPLE, replace(DRAWN, min_p=0.05)),
    "logit_bias": (SampleMode.PROCESSORS, replace(GREEDY, logit_bias=((5, 1.0),))),
    "penalties": (SampleMode.PROCESSORS, PENALISED),
    "allowed_token_ids": (SampleMode.PROCESSORS, replace(GREEDY, allowed_token_ids=tuple(range(0, 1000, 3)))),
    "logprobs 20": (SampleMode.LOGPROBS, replace(GREEDY, logprobs=20)),
    "penalties of one row": (SampleMode.PROCESSORS, PENALISED),
}


def measure_features(built: LoadedEngine, plans: Mapping[int, StepPlan], rounds: int) -> list[dict[str, Any]]:
    """Milliseconds of a step of each number of rows with each feature: median over rounds, one of each a round."""
    results = []
    for rows, plan in plans.items():
        works = {name: _work(built, plan, name) for name in FEATURES}
        times: dict[str, list[float]] = {name: [] for name in FEATURES}
        for done in range(rounds + 1):
            for name, (plan_of_it, masks) in works.items():
                began = time.perf_counter()
                runner = built.engine.runner
                runner.fetch(runner.sample(runner.forward(plan_of_it), masks))
                if done:  # the first round warms up
                    times[name].append(1e3 * (time.perf_counter() - began))
        bare = statistics.median(times["nothing"])
        for name, each in times.items():
            median = statistics.median(each)
            results.append({"rows": rows, "feature": name, "ms": median, "more_ms": median - bare})
    return results


def _work(built: LoadedEngine, plan: StepPlan, name: str) -> tuple[StepPlan, StepMasks]:
    decode, (mode, params), vocab = plan.decode, FEATURES[name], built.spec.vocab_size
    assert decode is not None
    sampling_BS = np.tile(pack_params(params, 1), (len(decode), 1))
    if name.endswith("of one row"):
        sampling_BS[1:] = pack_params(GREEDY, 1)
    lines = ()
    if mode >= SampleMode.PROCESSORS:
        one = build_row(range(100), range(50), params.logit_bias, vocab)
        lines = tuple((int(row), one) for row in decode.row_B[:1])
    masks = NO_MASKS
    if params.allowed_token_ids is not None:
        mask = Mask(pack_bits(params.allowed_token_ids, vocab))
        masks = StepMasks(tuple((at, mask) for at in range(len(decode))))
    runner = built.engine.runner
    changed = replace(plan, decode=replace(decode, sampling_BS=sampling_BS, mode=mode))
    runner.fetch(
        runner.sample(runner.forward(replace(changed, penalty_rows=lines)), masks)
    )  # a line is written once a request
    return changed, masks


def show_features(results: list[dict[str, Any]]) -> None:
    counts = sorted({row["rows"] for row in results})
    table = Table("feature", *(f"{rows} rows, ms" for rows in counts), title="what sampling features add to a step")
    for name in FEATURES:
        found = {row["rows"]: row for row in results if row["feature"] == name}
        shown = [f"{found[rows]['ms']:.2f} ({found[rows]['more_ms']:+.2f})" for rows in counts]
        table.add_row(name, *shown)
    Console(width=110).print(table)


def main(words: Sequence[str]) -> int:
    """Measure the features on 1, 8 and 32 rows, print a table, and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="bench features", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write the numbers here, too")
    arguments = parser.parse_args(words)
    built = build(EngineConfig(model=arguments.model))
    plans = {rows: decode_plan(built, rows, arguments.context, SampleMode.GREEDY) for rows in (1, 8, 32)}
    costs = measure_features(built, plans, arguments.repeats)
    show_features(costs)
    built.engine.close()
    if arguments.json:
        arguments.json.write_text(json.dumps({"about": built.description, "features": costs}, indent=1))
    return 0
