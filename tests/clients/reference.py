"""Short texts, and the log-likelihoods that transformers finds for them with the weights that jaxserve dequantises.

Both compute in float32, and most of what they differ by is torch's rounding: of 44 of these texts it was up to 5.7e-4
away from its own float64, and jaxserve up to 5.5e-5, on a CPU.
"""

import json
import re
from pathlib import Path

from jaxserve.weights.fetch import resolve_model
from scripts.benchmarks.peers import weights

NUM_TEXTS = 200
WORDS = range(8, 41)
# Sentences hold a surprise for any model; some of these hold none, so that there is a greedy continuation.
LISTS = (
    ("Monday, Tuesday,", " Wednesday, Thursday, Friday, Saturday, Sunday"),
    ("A, B, C, D, E, F, G, H,", " I, J, K, L, M, N, O, P"),
    ("one two three four five", " six seven eight nine ten"),
    ("January, February, March,", " April, May, June, July, August"),
    ("10, 20, 30, 40,", " 50, 60, 70, 80, 90, 100"),
)
BATCH_ROWS = 20


def write_reference(model: str, cache: Path) -> Path:
    """Return a directory with model/, which is in Hugging Face layout in float32, and texts.jsonl, written anew.

    Its lines: {"context", "continuation", "loglikelihood" (natural logarithm), "is_greedy"}.
    """
    home = cache / "reference" / re.sub(r"\W+", "-", model)
    home.mkdir(parents=True, exist_ok=True)
    directory, link = weights.write_hf(resolve_model(model), home), home / "model"
    link.unlink(missing_ok=True)
    link.symlink_to(directory.name)
    pairs = texts(NUM_TEXTS)
    lines = [
        {"context": context, "continuation": continuation, "loglikelihood": value, "is_greedy": is_greedy}
        for (context, continuation), (value, is_greedy) in zip(pairs, scores(directory, pairs), strict=True)
    ]
    (home / "texts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return home


def texts(count: int) -> list[tuple[str, str]]:
    """LISTS, and sentences of Python's own manual, which every Python has; each cut in two before a space."""
    from pydoc_data.topics import topics

    paragraphs = [" ".join(part.split()) for name in sorted(topics) for part in re.split(r"\n\s*\n", topics[name])]
    sentences = [one for part in paragraphs for one in re.findall(r"[A-Z][^.:]*\.(?= |$)", part)]
    chosen = list(dict.fromkeys(one for one in sentences if len(one.split()) in WORDS))
    num_sentences = count - len(LISTS)
    every = len(chosen) // num_sentences
    pairs = list(LISTS)
    for sentence in chosen[: every * num_sentences : every]:
        words = sentence.split(" ")
        half = len(words) // 2
        pairs.append((" ".join(words[:half]), " " + " ".join(words[half:])))
    return pairs


def scores(directory: Path, pairs: list[tuple[str, str]]) -> list[tuple[float, bool]]:
    """Score (context, continuation) pairs: the log-likelihood, and whether every token was the most likely one."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory)
    network = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    found = []
    for first in range(0, len(pairs), BATCH_ROWS):
        batch = pairs[first : first + BATCH_ROWS]
        starts = [len(tokenizer.encode(context)) for context, _ in batch]
        rows = [torch.tensor(tokenizer.encode(context + continuation)) for context, continuation in batch]
        padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)  # nothing attends to what comes after it
        with torch.inference_mode():
            logits = network(padded).logits
        for row, ids, start in zip(logits, rows, starts, strict=True):
            logprobs, wanted = row[start - 1 : len(ids) - 1].log_softmax(-1), ids[start:]
            value = logprobs.double().gather(1, wanted[:, None]).sum().item()
            found.append((value, bool((logprobs.argmax(-1) == wanted).all())))
    return found
