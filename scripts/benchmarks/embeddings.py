"""Throughput of embeddings: jaxserve and sentence-transformers in turns, in one run.

    scripts/bench embeddings [--model all-minilm-l6-v2] [--texts 512] [--words 5 60] [--rounds 3]
        [--peer-python PATH] [--json FILE]

The texts are sentences of random common words, the same for both. Each round embeds all of them with jaxserve's LLM
and then with sentence-transformers (batches of 32, sorted by length as it does by itself), in a process of its own that
waits while the other one works. Both compute in float32. Medians of the rounds are printed, and the largest difference
of two numbers.
--peer-python is the interpreter of an environment that has sentence-transformers; without it only jaxserve is timed.
"""

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from jaxserve import LLM
from scripts import model_gallery

WORDS = (
    "time year people way day man thing woman life child world school state family student group country problem hand"
    " part place case week company system program question work government number night point home water room mother"
    " area money story fact month lot right study book eye job word business issue side kind head house service friend"
)
PEER = """
import json, sys, time
import torch
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(sys.argv[1], device="cpu", model_kwargs={"dtype": torch.float32})
texts = json.load(open(sys.argv[2]))
model.encode(texts[:32])
print("ready", flush=True)
for line in sys.stdin:
    started = time.perf_counter()
    vectors = model.encode(texts, batch_size=32, show_progress_bar=False)
    print(json.dumps({"seconds": time.perf_counter() - started, "vectors": vectors.tolist() if "v" in line else None}))
    sys.stdout.flush()
"""


class Peer:
    """sentence-transformers in a process of its own, which works when it is asked to."""

    def __init__(self, python: str, model: Path, texts: Path) -> None:
        command = [python, "-c", PEER, str(model), str(texts)]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self._read()

    def encode(self, *, wants_vectors: bool) -> dict[str, Any]:
        """Embed all texts once."""
        assert self._process.stdin
        self._process.stdin.write("v\n" if wants_vectors else "t\n")
        self._process.stdin.flush()
        return json.loads(self._read())

    def close(self) -> None:
        """End the process."""
        self._process.communicate(timeout=30)

    def _read(self) -> str:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"sentence-transformers has ended with {self._process.wait()}")
        return line


def make_texts(num: int, shortest: int, longest: int) -> list[str]:
    """Make texts of random words."""
    rng = random.Random(0)
    words = WORDS.split()
    return [" ".join(rng.choices(words, k=rng.randint(shortest, longest))) for _ in range(num)]


def main(words: Sequence[str]) -> int:
    """Run the benchmark and return the exit code."""
    parser = argparse.ArgumentParser(prog="scripts/bench embeddings", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="all-minilm-l6-v2")
    parser.add_argument("--texts", type=int, default=512)
    parser.add_argument("--words", type=int, nargs=2, default=(5, 60))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--max-num-batched-tokens", type=int, default=1024)
    parser.add_argument("--peer-python", default=None)
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args(words)
    path, texts = model_gallery.find(options.model), make_texts(options.texts, *options.words)
    result = measure(path, texts, options)
    show(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0


def measure(path: Path, texts: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """Time both in turns."""
    seconds: dict[str, list[float]] = {"jaxserve": []}
    settings = {"max_num_batched_tokens": options.max_num_batched_tokens, "max_num_seqs": 64}
    started = time.perf_counter()
    with LLM(str(path), quiet=True, roofline=False, **settings) as llm:
        print(f"jaxserve is ready after {time.perf_counter() - started:.1f} s", file=sys.stderr)
        file, peer = path.parent / "bench-texts.json", None
        file.write_text(json.dumps(texts))
        if options.peer_python:
            peer, seconds["sentence-transformers"] = Peer(options.peer_python, path, file), []
        num_tokens, difference = 0, None
        for number in range(options.rounds):
            begin = time.perf_counter()
            outputs = llm.embed(texts, use_tqdm=False)
            seconds["jaxserve"].append(time.perf_counter() - begin)
            num_tokens = sum(len(output.prompt_token_ids) for output in outputs)
            if peer is not None:
                reply = peer.encode(wants_vectors=number == 0)
                seconds["sentence-transformers"].append(reply["seconds"])
                if reply["vectors"] is not None:
                    own = np.array([output.embedding for output in outputs])
                    difference = float(np.abs(own - np.array(reply["vectors"])).max())
        if peer is not None:
            peer.close()
        file.unlink()
        shapes = llm.description["shapes"]
    return {
        "model": options.model,
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs",
        "texts": len(texts),
        "tokens": num_tokens,
        "shapes": shapes,
        "seconds": seconds,
        "largest difference": difference,
    }


def show(result: dict[str, Any]) -> None:
    """Print the medians."""
    table = Table(title=f"{result['model']}: {result['texts']} texts, {result['tokens']} tokens")
    for column in ("", "texts/s", "tokens/s", "seconds of each round"):
        table.add_column(column)
    for name, rounds in result["seconds"].items():
        median = statistics.median(rounds)
        speeds = (f"{result['texts'] / median:.0f}", f"{result['tokens'] / median:.0f}")
        table.add_row(name, *speeds, " ".join(f"{each:.2f}" for each in rounds))
    console = Console()
    console.print(table)
    console.print(f"largest difference of two numbers: {result['largest difference']}")
