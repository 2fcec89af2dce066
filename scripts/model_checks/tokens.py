"""Greedy answers of the engine, and the logits of its network, held to transformers over the same float32 weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxserve import LLM, SamplingParams
from scripts.benchmarks.peers.weights import write_hf
from scripts.model_checks.forms import PLAIN

CAPACITY = 128  # tokens of the longest prompt and its answer
MAX_LOGIT_ERROR = 1e-3  # of the standard deviation of transformers' logits
LIMITS: dict[str, Any] = {"max_model_len": CAPACITY, "max_num_seqs": 8, "max_num_batched_tokens": 128}
CHAT = [{"role": "user", "content": "What is the capital of France, and what is it known for?"}]
PROMPTS = (
    "Once upon a time, in a village by the sea, there lived",
    "The three primary colors are",
    "def fibonacci(n):\n    ",
    "1, 1, 2, 3, 5, 8, 13,",
    "La capitale de la France est Paris. 法国的首都是巴黎。Die Hauptstadt von Frankreich ist",
)


@dataclass(frozen=True, slots=True)
class Answer:
    """The tokens of a prompt, and those that the engine chose behind them."""

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]


def answer_greedily(path: Path, num_tokens: int) -> list[Answer]:
    """Return the engine's greedy answers, all prompts in one batch; to a chat, too, if the model has a template."""
    params = SamplingParams(temperature=0, max_tokens=num_tokens, ignore_eos=True)
    with LLM(str(path), quiet=True, roofline=False, **LIMITS, **PLAIN) as llm:
        outputs = llm.generate(list(PROMPTS), params)
        if llm.get_tokenizer().chat_templates:
            outputs = [*outputs, llm.chat(CHAT, params)]
    return [Answer(tuple(output.prompt_token_ids), tuple(output.choices[0].token_ids)) for output in outputs]


def compare_with_transformers(
    path: Path, cache: Path, answers: Sequence[Answer], logits: Sequence[np.ndarray]
) -> dict[str, Any]:
    """Return how many greedy tokens and how well the logits agree.

    transformers reads every prompt with its answer at once: where each token is the best at its place, the answer is
    the greedy one, by induction.

    logits   of our network, float32 [T, V], after each token but the last of prompt and answer
    """
    network = load_network(path, cache)
    num_same, error, least_gap = 0, 0.0, np.inf
    for answer, ours_TV in zip(answers, logits, strict=True):
        theirs_TV = read_with_transformers(network, [*answer.prompt, *answer.tokens])[:-1]
        error = max(error, float(np.abs(ours_TV - theirs_TV).max() / theirs_TV.std()))
        best_TV = theirs_TV[len(answer.prompt) - 1 :]
        is_same_T = best_TV.argmax(-1) == np.array(answer.tokens)
        num_same += int(is_same_T.argmin()) if not is_same_T.all() else len(is_same_T)
        top_T2 = np.partition(best_TV, -2)[:, -2:]
        least_gap = min(least_gap, float((top_T2[:, 1] - top_T2[:, 0]).min() / theirs_TV.std()))
    num_tokens = sum(len(answer.tokens) for answer in answers)
    return {
        "prompts": len(answers),
        "tokens": num_tokens,
        "same_tokens": num_same,
        "logit_error": error,
        "smallest_gap": least_gap,
        "is_good": num_same == num_tokens and error <= MAX_LOGIT_ERROR,
    }


def load_network(path: Path, cache: Path) -> Any:
    """Return transformers' network from a directory in its own layout; of a .gguf file one is written, and kept.

    cache   where dequantised weights are kept
    """
    import torch
    from transformers import AutoModelForCausalLM

    directory = path if path.is_dir() else write_hf(path, cache)
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()


def read_with_transformers(network: Any, token_T: Sequence[int]) -> np.ndarray:
    """Return transformers' logits after each token, float32 [T, V]."""
    import torch

    with torch.inference_mode():
        return network(torch.tensor([list(token_T)])).logits[0].float().numpy()


def describe_tokens(result: dict[str, Any]) -> str:
    """Return a result in one line."""
    return (
        f"{result['same_tokens']} of {result['tokens']} greedy tokens on {result['prompts']} prompts are those of "
        f"transformers, logits within {result['logit_error']:.1e} of their standard deviation (the closest call is "
        f"{result['smallest_gap']:.1e}): {'ok' if result['is_good'] else 'WRONG'}"
    )
