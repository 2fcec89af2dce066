"""Steps that raise: the device state is made anew, and every request gets the tokens of an engine without faults.

A server takes its device for broken after three searches for a culprit in ten minutes (engine/fault_search.py). This
check switches that limit off, which is the only difference from production. A request may end with an error where
faults happen to hit each step of a search for it: these are counted.
"""

import logging
import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

from jaxserve import LLM, SamplingParams
from jaxserve.engine import fault_search
from jaxserve.errors import GenerationFailed
from scripts.reliability_checks.outcome import Outcome

NUM_FAULTS = 1000
NUM_REQUESTS = 12
STEPS_BETWEEN = (1, 60)
Request = tuple[list[int], SamplingParams]


def run(share: float, model: Path, folder: Path, seed: int) -> Outcome:
    """Generate the same mixed batches until NUM_FAULTS × share steps have raised."""
    outcome, rng, total = Outcome("step faults"), random.Random(seed), max(3, round(NUM_FAULTS * share))
    start = partial(
        LLM,
        str(model),
        quiet=True,
        max_model_len=256,
        max_num_seqs=4,
        max_num_batched_tokens=64,
        num_gpu_blocks_override=60,
    )
    requests = [_request(rng, number) for number in range(NUM_REQUESTS)]
    with start() as llm:
        expected = _generate(llm, requests)
    step, faults, endings = 0, list[str](), Counter[str]()
    for _ in range(total):
        step += rng.randint(*STEPS_BETWEEN)
        faults.append(f"step_raise@{step}")
    fault_search.PERIOD_S, started = 0.0, time.monotonic()
    logging.disable()  # a traceback for each fault
    with start(allow_fault_injection=True, fault=tuple(faults)) as llm:
        while (counters := llm.stats().counters)["engine_rebuilds"] < total:
            for number, (told, right) in enumerate(zip(_generate(llm, requests), expected, strict=True)):
                endings["error" if told is None else "right" if told == right else "wrong"] += 1
                outcome.expect(told in (None, right), f"request {number} got other tokens")
    logging.disable(logging.NOTSET)
    outcome.figures |= {
        "steps that raised": round(counters["engine_rebuilds"]),
        "steps": round(counters["engine_steps"]),
        "seed": seed,
        "requests": dict(endings),
        "seconds": round(time.monotonic() - started),
    }
    return outcome


def _request(rng: random.Random, number: int) -> Request:
    shape = rng.choice(
        (
            SamplingParams(),
            SamplingParams(presence_penalty=1.0),
            SamplingParams(logprobs=2),
            SamplingParams(min_p=0.05),
            SamplingParams(repetition_penalty=1.2),
        )
    )
    prompt = [3 + rng.randrange(200) for _ in range(rng.choice((5, 30, 90)))]
    temperature = rng.choice((0.0, 1.0))
    return prompt, replace(shape, max_tokens=rng.randint(5, 60), seed=number, temperature=temperature, ignore_eos=True)


def _generate(llm: LLM, requests: list[Request]) -> list[tuple[int, ...] | None]:
    """Run the requests together; return the tokens of each, None for one that ended with an error."""

    def generate(request: Request) -> tuple[int, ...] | None:
        prompt, params = request
        try:
            return llm.generate([prompt], params, use_tqdm=False)[0].choices[0].token_ids
        except GenerationFailed:
            return None

    with ThreadPoolExecutor(len(requests)) as threads:
        return list(threads.map(generate, requests))
