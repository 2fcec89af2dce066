"""Host memory and speed of loading: a checkpoint of a large model's shape that takes no disk, because it is a hole.

    scripts/bench loading [--layers 32] [--dtype bfloat16] [--quantization none] [--devices 1] [--converted]

Writes the config.json and one sparse safetensors file of Llama-3.1-8B's shape with so many layers, loads it in a
process of its own as a server would, and prints the largest anonymous memory of that process, above what it had before,
in multiples of the weights' bytes. On a CPU the weights themselves are among it. Mapped pages of the file are the
system's to take back and stand beside it. --converted writes the checkpoint anew with `jaxserve convert` first, which
takes disk. Of 32 layers in bfloat16 the weights take 16 GB of memory; a machine with less measures fewer layers.
"""

import argparse
import json
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import jax
import psutil

from jaxserve.config import EngineConfig
from jaxserve.conversion import convert_model
from jaxserve.engine.opened_model import open_model
from jaxserve.models.registry import find_architecture
from jaxserve.weights.load import load_params
from scripts.device_checks.shapes import config_of

MODEL = "Llama-3.1-8B"
MAX_RATIO = 1.15
BYTES_OF_BFLOAT16 = 2
SAMPLE_S = 0.005
REPO = Path(__file__).resolve().parents[2]


def write_hole(path: Path, num_layers: int) -> None:
    """Write a checkpoint whose tensors are zeros that nobody has stored."""
    config = config_of(MODEL, tiny=False) | {"num_hidden_layers": num_layers, "tie_word_embeddings": False}
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config))
    architecture = find_architecture(config)
    sources = {
        source.name: source.shape
        for param in architecture.params(architecture.spec(config)).values()
        for source in param.origins[0].sources
    }
    head, end = {}, 0
    for name, shape in sources.items():
        start, end = end, end + prod(shape) * BYTES_OF_BFLOAT16
        head[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(head).encode()
    with open(path / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)


class MemoryPeak:
    """The largest memory of this process while it is watched, in bytes.

    anonymous   What only this process can free.
    file        Pages of mapped files.
    """

    def __init__(self) -> None:
        self.anonymous = self.file = 0
        self._is_over = threading.Event()

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Look at the process every few milliseconds."""
        thread = threading.Thread(target=self._run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._is_over.set()
            thread.join()
            self.look()

    def look(self) -> None:
        """Look once."""
        memory = psutil.Process().memory_info()
        shared: int = getattr(memory, "shared", 0)
        self.anonymous, self.file = max(self.anonymous, memory.rss - shared), max(self.file, shared)

    def _run(self) -> None:
        while not self._is_over.wait(SAMPLE_S):
            self.look()


def measure(model: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Load a model's weights in this process, and return what it took."""
    config = EngineConfig(model=str(model), **settings)
    opened = open_model(config, None, None, None)
    before, peak = MemoryPeak(), MemoryPeak()
    before.look()
    num_read, started = 0.0, time.perf_counter()

    def progress(phase: str, done: float, total: float) -> None:
        nonlocal num_read
        num_read = done

    with peak.watch():
        weights = load_params(opened.checkpoint, opened.leaves, opened.shapes, progress=progress)
        seconds = time.perf_counter() - started
    weight_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(weights))
    return {
        "weight_bytes": weight_bytes,
        "file_bytes": num_read,
        "seconds": seconds,
        "read_gb_s": num_read / seconds / 1e9,
        "anonymous_bytes": peak.anonymous - before.anonymous,
        "mapped_bytes": peak.file,
        "ratio": (peak.anonymous - before.anonymous) / weight_bytes,
    }


def main(words: Sequence[str]) -> int:
    """Measure, print one line, and return 1 if loading takes more memory than it may, else 0."""
    parser = argparse.ArgumentParser(
        prog="bench loading", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--dtype", default="bfloat16", choices=("float32", "bfloat16"))
    parser.add_argument("--quantization", default="none")
    parser.add_argument("--devices", type=int, default=1, help="parts of the CPU that hold the weights together")
    parser.add_argument("--converted", action="store_true", help="load an Orbax checkpoint")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    settings = {
        "dtype": arguments.dtype,
        "quantization": arguments.quantization,
        "tensor_parallel_size": arguments.devices,
    }
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, settings)))
        return 0
    with tempfile.TemporaryDirectory(prefix="jaxserve-loading-") as directory:
        model = Path(directory) / "sparse"
        write_hole(model, arguments.layers)
        if arguments.converted:
            convert_model(str(model), Path(directory) / "orbax", quantization=arguments.quantization)
            model = Path(directory) / "orbax"
        command = [sys.executable, str(REPO / "scripts" / "bench"), "loading", *words, "--measure", str(model)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    record = json.loads(done.stdout.splitlines()[-1])
    if arguments.json:
        arguments.json.write_text(json.dumps(vars(arguments) | record, indent=1, default=str))
    verdict = "within" if record["ratio"] <= MAX_RATIO else "ABOVE"
    print(
        f"{MODEL}, {arguments.layers} layers: {record['weight_bytes'] / 1e9:.2f} GB of weights from "
        f"{record['file_bytes'] / 1e9:.2f} GB in {record['seconds']:.1f} s ({record['read_gb_s']:.2f} GB/s); "
        f"{record['ratio']:.3f} x the weights' bytes of anonymous memory, {verdict} {MAX_RATIO}; "
        f"{record['mapped_bytes'] / 1e9:.2f} GB mapped at most"
    )
    return int(record["ratio"] > MAX_RATIO)
