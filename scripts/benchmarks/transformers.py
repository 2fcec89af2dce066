"""The work of scripts/bench serving through transformers' own generate: scripts/bench transformers [--model MODEL]

The same weights, dequantised to the same float32, on torch and the CPU. A concurrency of c is a static batch of c rows:
all start together and end together, which is the kindest case for it. Prints and writes what bench serving does.
Needs the test extra (scripts/test installs it).
"""

import argparse
import sys
import time
from collections.abc import Sequence
from typing import Any

from scripts.benchmarks.results import Timeline, publish, summary

WARM_UP_TOKENS = 8


def load(model: str) -> Any:
    """Load transformers' network with the weights as jaxserve reads them. Raises SystemExit if they do not fit."""
    import numpy as np
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from jaxserve.weights.checkpoint import open_checkpoint
    from jaxserve.weights.fetch import resolve_model

    checkpoint = open_checkpoint(resolve_model(model))
    config = AutoConfig.for_model(**checkpoint.config)
    network = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    state = {name: torch.from_numpy(np.array(checkpoint.read(name), np.float32)) for name in checkpoint.tensors}
    missing, surplus = network.load_state_dict(state, strict=False)
    if surplus or [name for name in missing if name != "lm_head.weight"]:
        raise SystemExit(f"bench transformers: missing {missing}, surplus {surplus}")
    network.tie_weights()
    return network.eval()


def timed_batch(network: Any, prompts: Any, num_tokens: int) -> list[Any]:
    """One static batch; a timeline per row. prompts: int64 [rows, S]."""
    import torch
    from transformers import StoppingCriteria, StoppingCriteriaList

    came: list[float] = []

    class Clock(StoppingCriteria):
        """Asked after every token; never stops."""

        def __call__(self, input_ids: Any, scores: Any, **how: Any) -> Any:
            came.append(time.perf_counter())
            return torch.zeros(input_ids.shape[0], dtype=torch.bool)

    rows, num_input = prompts.shape
    asked = time.perf_counter()
    with torch.inference_mode():
        network.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            max_new_tokens=num_tokens,
            min_new_tokens=num_tokens,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            stopping_criteria=StoppingCriteriaList([Clock()]),
        )
    return [Timeline(num_input, asked, tuple(came)) for _ in range(rows)]


def benchmark(arguments: argparse.Namespace) -> None:
    import torch

    network = load(arguments.model)
    rng = torch.Generator().manual_seed(arguments.seed)
    results = []
    wanted = arguments.num_prompts or [max(8, 4 * rows) for rows in arguments.concurrency]
    if len(wanted) == 1:
        wanted *= len(arguments.concurrency)
    for rows, num_prompts in zip(arguments.concurrency, wanted, strict=True):
        num_batches = max(1, num_prompts // rows)
        shape = (num_batches + 1, rows, arguments.input_len)
        batches = torch.randint(3, network.config.vocab_size, shape, generator=rng)
        print(f"concurrency {rows}: {num_batches} batches after a short one", file=sys.stderr)
        timed_batch(network, batches[-1], min(WARM_UP_TOKENS, arguments.output_len))
        began = time.perf_counter()
        timelines = [line for prompts in batches[:-1] for line in timed_batch(network, prompts, arguments.output_len)]
        about = {
            "date": time.strftime("%Y%m%d-%H%M%S"),
            "backend": f"transformers generate, torch {torch.__version__}, {torch.get_num_threads()} threads",
            "model_id": arguments.model,
            "num_prompts": num_batches * rows,
            "max_concurrency": rows,
            "random_input_len": arguments.input_len,
            "random_output_len": arguments.output_len,
        }
        results.append(summary(timelines, time.perf_counter() - began, **about))
    publish(results, arguments.json)


def main(words: Sequence[str]) -> int:
    """Measure static batches at each concurrency, print a table, and return the exit code."""
    from jaxserve.config import DEFAULT_MODEL

    parser = argparse.ArgumentParser(prog="bench transformers", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default=DEFAULT_MODEL, help="what jaxserve serve takes")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32], metavar="N")
    parser.add_argument(
        "--num-prompts",
        type=int,
        nargs="+",
        metavar="N",
        help="one for each concurrency, or one for all; default: four rounds, at least 8",
    )
    parser.add_argument("--input-len", type=int, default=128, metavar="TOKENS")
    parser.add_argument("--output-len", type=int, default=128, metavar="TOKENS")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", metavar="FILE", help="write the results here; - is standard output")
    benchmark(parser.parse_args(words))
    return 0
