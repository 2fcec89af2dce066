"""Next-token distributions on a text, of each form of weights and caches, held to those of float32."""

import gc
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from jaxserve.engine.weight_form import find_block_kinds
from jaxserve.models.registry import find_architecture
from jaxserve.text.tokenizer import Tokenizer
from jaxserve.weights.checkpoint import open_checkpoint
from scripts.model_checks.forms import Form
from scripts.model_checks.reader import Reader, open_reader

# The beginning of Act III of Hamlet: lines 27,016 to 27,699 of aiperf/dataset/generator/assets/shakespeare.txt in the
# package aiperf 0.13.0, which has no punctuation. Public domain.
TEXT = Path(__file__).with_name("hamlet.txt")
CHARS_PER_TOKEN = 12  # more than any tokenizer takes together on average


def cut_windows(path: Path, text: str, num_windows: int, num_tokens: int) -> list[list[int]]:
    """Return the token ids of windows that are spread evenly over a text.

    Raises ValueError if the text is too short.
    """
    encode, stride = Tokenizer.load(path).encode, len(text) // num_windows
    starts = range(0, stride * num_windows, stride)
    windows = [encode(text[start : start + CHARS_PER_TOKEN * num_tokens])[:num_tokens] for start in starts]
    if len(windows[-1]) < num_tokens:
        raise ValueError(f"the text ends before {num_windows} windows of {num_tokens} tokens; try fewer, or shorter.")
    return windows


class ExactDistributions:
    """float32's log-probabilities after every token but the last of each window, kept in a file: they are gigabytes."""

    def __init__(self, reader: Reader, windows: Sequence[Sequence[int]]) -> None:
        self.windows = windows
        self._file = tempfile.TemporaryFile(prefix="jaxserve-logprobs-")  # noqa: SIM115 closed by close()
        for window in windows:
            log_softmax(reader(window)[:-1]).tofile(self._file)
        self._num_tokens = len(windows[0]) - 1

    def __getitem__(self, index: int) -> np.ndarray:
        """Return the log-probabilities of one window, float32 [T, V]."""
        count = self._file.seek(0, 2) // 4 // len(self.windows)
        self._file.seek(4 * count * index)
        return np.fromfile(self._file, np.float32, count).reshape(self._num_tokens, -1)

    def close(self) -> None:
        """Give back the file. Idempotent."""
        self._file.close()

    @property
    def perplexity(self) -> float:
        """float32's perplexity on all windows."""
        losses = [mean_loss(self[index], window) for index, window in enumerate(self.windows)]
        return float(np.exp(np.mean(losses)))


def log_softmax(logits_TV: np.ndarray) -> np.ndarray:
    """Return the log-probabilities of logits, in float32."""
    shifted_TV = logits_TV - logits_TV.max(-1, keepdims=True)
    return shifted_TV - np.log(np.exp(shifted_TV).sum(-1, keepdims=True))


def mean_loss(logprobs_TV: np.ndarray, window: Sequence[int]) -> float:
    """Return the mean of what the tokens of a window behind its first cost, in nats."""
    return float(-logprobs_TV[np.arange(len(window) - 1), window[1:]].mean(dtype=np.float64))


def compare_reader(reader: Reader, exact: ExactDistributions) -> dict[str, float]:
    """Return the perplexity of a reader, its mean divergence from float32, and how often the best token is the same."""
    sums = np.zeros(3)
    for index, window in enumerate(exact.windows):
        exact_TV, ours_TV = exact[index], log_softmax(reader(window)[:-1])
        divergence = (np.exp(exact_TV) * (exact_TV - ours_TV)).sum(-1).mean()
        sums += mean_loss(ours_TV, window), divergence, (ours_TV.argmax(-1) == exact_TV.argmax(-1)).mean()
    loss, divergence, same = sums / len(exact.windows)
    return {"perplexity": float(np.exp(loss)), "kl": float(divergence), "same_best": float(same)}


def compare_forms(
    path: Path, forms: Sequence[Form], exact: ExactDistributions, on_result: Callable[[str, dict[str, Any]], None]
) -> dict[str, dict[str, Any]]:
    """Return the numbers of every form that the model can have, each with its bounds; one form in memory at a time."""
    base, results, num_weights, has_blocks = exact.perplexity, {}, count_weights(path), find_blocks(path)
    for form in forms:
        if form.needs_blocks and not has_blocks:
            continue
        found = compare_reader(open_reader(form.config(str(path))), exact)
        ratio = found["perplexity"] / base
        bounds = form.bounds_of(num_weights)
        is_good = ratio <= bounds.max_ratio and found["kl"] <= bounds.max_kl
        results[form.name] = {**found, "ratio": ratio, **asdict(bounds), "is_good": is_good}
        on_result(form.name, results[form.name])
        gc.collect()
    return results


def count_weights(path: Path) -> int:
    """Return the number of weights in a model's files."""
    return sum(math.prod(tensor.shape) for tensor in open_checkpoint(path).tensors.values())


def find_blocks(path: Path) -> bool:
    """Return whether a model's files have blocks that --quantization blocks can keep."""
    checkpoint = open_checkpoint(path)
    architecture = find_architecture(checkpoint.config)
    return bool(find_block_kinds(checkpoint, architecture.params(architecture.spec(checkpoint.config))))


def describe_form(name: str, result: dict[str, Any]) -> str:
    """Return a form's result in one line."""
    return (
        f"{name}: perplexity {result['perplexity']:.3f}, {result['ratio']:.4f} of float32's (at most "
        f"{result['max_ratio']}), KL {result['kl']:.5f} (at most {result['max_kl']}), same best token "
        f"{100 * result['same_best']:.1f} %: {'ok' if result['is_good'] else 'WRONG'}"
    )
