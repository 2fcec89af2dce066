"""Tokens per second of a batch under a grammar beside one that is free, in turns, and what its masks cost.

    scripts/bench guided [--model PATH] [--rows 8 32] [--steps 48] [--rounds 5] [--json FILE]

Every row of the guided batch writes JSON by the same schema, each behind a prompt of its own, and stays in it; the rows
of the free one write what they like; of a third batch one row is guided, which tells what it costs its neighbours. All
decode greedily, without an end. Percentages are of the free batch: of the medians, and of each round's pair the worst
and the best. Mask times "in the loop" come from the engine's own statistics: mean a row,
beside a step that keeps the cores busy. Those "alone" are of the same answers, followed once more with nothing else to
do; beside them is how often a mask allowed a single token.
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from jaxserve.config import DEFAULT_MODEL, EngineConfig
from jaxserve.engine.build import LoadedEngine
from jaxserve.engine.request import Request
from jaxserve.grammar_store import build_grammar_tokenizer
from jaxserve.loading import load_engines
from jaxserve.outputs import FinishReason
from jaxserve.sampling.penalties import pack_bits
from jaxserve.sampling_params import SamplingParams
from jaxserve.structured.compiler import CompiledGrammar, GrammarCompiler
from jaxserve.structured.guide import Guide
from jaxserve.structured_outputs import StructuredOutputs
from jaxserve.text.tokenizer import Tokenizer

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 3, "maxLength": 24},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "email": {"type": "string", "format": "email"},
        "role": {"enum": ["admin", "editor", "reader"]},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 12}, "maxItems": 4},
        "address": {
            "type": "object",
            "properties": {"zip": {"type": "string", "pattern": "^[0-9]{5}$"}, "city": {"type": "string"}},
            "required": ["zip", "city"],
        },
        "active": {"type": "boolean"},
    },
    "required": ["name", "age", "email", "role", "tags", "address", "active"],
}
SCHEMA = {"type": "array", "items": PERSON, "minItems": 1000}
ASKED = "<|im_start|>user\nWrite a JSON list of the {} people of our team.<|im_end|>\n<|im_start|>assistant\n"
KINDS = ("free", "guided", "one guided")
ROWS, SECONDS = "grammar_masked_tokens", "grammar_masks_seconds"  # the engine's names
SETTLING = 4  # steps in which a batch decodes before it is timed


@dataclass
class Timed:
    """One size of batch: tokens/s of each kind by round, and of the guided rows' masks what the engine says."""

    rows: int
    speeds: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    num_masks: float = 0
    masks_s: float = 0.0
    answers: list[list[int]] = field(default_factory=list)


def tokens_per_s(
    built: LoadedEngine,
    prompts: Sequence[tuple[int, ...]],
    steps: int,
    ends: tuple[int, ...],
    grammar: CompiledGrammar,
    num_guided: int,
) -> tuple[float, list[list[int]]]:
    """One batch from its prompts to `steps` timed steps in which every row decodes; then it is ended."""
    engine, answers = built.engine, {at: [] for at in range(len(prompts))}
    most = steps + 4 * len(prompts) + 100
    params = SamplingParams(temperature=0, max_tokens=most)
    for at, prompt in enumerate(prompts):
        its = grammar.spec if at < num_guided else None
        engine.add(Request(at, prompt, params, at, len(prompt) + most, stop_ids_until_min_tokens=ends, grammar=its))

    def step() -> int:
        outputs = engine.step()
        for output in outputs:
            assert output.finish_reason is None, output
            answers[output.request_id] += output.token_ids
        return len(outputs)

    while sum(1 for answer in answers.values() if len(answer) >= SETTLING) < len(prompts):
        step()
    began, num = time.perf_counter(), 0
    for _ in range(steps):
        num += step()
    seconds = time.perf_counter() - began
    for at in range(len(prompts)):
        engine.finish(at, FinishReason.ABORT)
    while engine.has_work:
        engine.step()
    assert num == steps * len(prompts), (num, steps, len(prompts))
    return num / seconds, list(answers.values())


def measure(
    built: LoadedEngine, rows: int, rounds: int, steps: int, grammar: CompiledGrammar, tokenizer: Tokenizer
) -> Timed:
    timed, ends = Timed(rows), (tokenizer.eos_token_id or 0,)
    prompts = [tuple(tokenizer.encode(ASKED.format(10 + at), add_special_tokens=False)) for at in range(rows)]
    num_guided = {"free": 0, "guided": rows, "one guided": 1}
    for done in range(rounds + 1):
        for kind in KINDS if done % 2 else KINDS[::-1]:
            before = built.engine.stats()
            speed, answers = tokens_per_s(built, prompts, steps, ends, grammar, num_guided[kind])
            after = built.engine.stats()
            if done:  # the first round warms up
                timed.speeds[kind].append(speed)
            if done and kind == "guided":
                timed.num_masks += after.counters[ROWS] - before.counters[ROWS]
                timed.masks_s += after.histograms[SECONDS].sum - before.histograms[SECONDS].sum
                timed.answers = answers
    return timed


def follow(
    grammar: CompiledGrammar, answers: Sequence[Sequence[int]], ends: tuple[int, ...], vocab: int
) -> dict[str, float]:
    """Microseconds of a mask and of a token's acceptance along these answers, and how often one token was allowed."""
    masks, accepts, singles = [], [], 0
    for answer in answers:
        guide = Guide(grammar, pack_bits(ends, vocab))
        for token in answer:
            began = time.perf_counter()
            mask_M = guide.mask()
            between = time.perf_counter()
            assert mask_M is not None
            singles += int(np.bitwise_count(mask_M).sum()) == 1
            again = time.perf_counter()
            guide.accept(token)
            masks.append(1e6 * (between - began))
            accepts.append(1e6 * (time.perf_counter() - again))
    return {
        "mask_us_median": statistics.median(masks),
        "mask_us_mean": statistics.fmean(masks),
        "mask_us_max": max(masks),
        "accept_us_mean": statistics.fmean(accepts),
        "single_percent": 100 * singles / len(masks),
    }


def report(timed: Timed, alone: dict[str, float]) -> dict[str, Any]:
    free = timed.speeds["free"]
    found: dict[str, Any] = {"rows": timed.rows, "free_tokens_per_s": statistics.median(free)}
    for kind in KINDS[1:]:
        speed, pairs = timed.speeds[kind], [100 * a / b for a, b in zip(timed.speeds[kind], free, strict=True)]
        found[kind] = {
            "tokens_per_s": statistics.median(speed),
            "percent": 100 * statistics.median(speed) / statistics.median(free),
            "percent_worst": min(pairs),
            "percent_best": max(pairs),
        }
    return found | {"mask_us_in_the_loop": 1e6 * timed.masks_s / timed.num_masks, **alone}


def show(built: LoadedEngine, results: list[dict[str, Any]]) -> None:
    console = Console(width=120)
    console.print(f"{built.description['model']} on {built.description['device']}, {built.description['dtype']}")
    table = Table("rows", "batch", "tokens/s", "of the free one", "by round", title="decoding under a grammar")
    masks = Table(
        "rows", "in the loop", "alone: median", "mean", "max", "accept", "one token", title="a row's mask, us"
    )
    for row in results:
        table.add_row(str(row["rows"]), "free", f"{row['free_tokens_per_s']:.1f}", "", "")
        for kind in KINDS[1:]:
            its = row[kind]
            by_round = f"{its['percent_worst']:.0f} to {its['percent_best']:.0f} %"
            table.add_row(str(row["rows"]), kind, f"{its['tokens_per_s']:.1f}", f"{its['percent']:.1f} %", by_round)
        names = ("mask_us_in_the_loop", "mask_us_median", "mask_us_mean", "mask_us_max", "accept_us_mean")
        masks.add_row(str(row["rows"]), *(f"{row[name]:.1f}" for name in names), f"{row['single_percent']:.1f} %")
    console.print(table)
    console.print(masks)


def main(words: Sequence[str]) -> int:
    """Measure the batches, print two tables, and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="bench guided", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--rows", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--steps", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the numbers here, too")
    arguments = parser.parse_args(words)
    (built,), text, _ = load_engines(EngineConfig(model=arguments.model))
    tokenizer = text.tokenizer
    ends, vocab = (tokenizer.eos_token_id or 0,), built.spec.vocab_size
    compiler = GrammarCompiler(build_grammar_tokenizer(tokenizer, ends, vocab))
    grammar = compiler.compile(StructuredOutputs(json=json.dumps(SCHEMA)))
    results = []
    for rows in arguments.rows:
        timed = measure(built, rows, arguments.rounds, arguments.steps, grammar, tokenizer)
        results.append(report(timed, follow(grammar, timed.answers, ends, vocab)))
    show(built, results)
    compiler.close()
    built.engine.close()
    text.close()
    if arguments.json:
        arguments.json.write_text(json.dumps({"about": built.description, "guided": results}, indent=1))
    return 0
