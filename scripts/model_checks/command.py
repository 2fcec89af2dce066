"""Holds the small real models to transformers, and their packed forms to float32: scripts/check_models [NAME ...]

Each model of scripts/fetch_model is fetched if need be. Tokens: the engine's 64 greedy tokens on several prompts are
those of transformers over the same dequantised float32 weights, and the logits of our network equal its logits.
Perplexity: each form of weights (--quantization) and of caches (--kv-cache-dtype) reads windows of a bundled text, each
from an empty cache; its perplexity and its divergence from float32 stay within bounds (scripts/model_checks/forms).
Prints a line for each result; the exit code is 1 if any is wrong. The dequantised weights for transformers are kept in
the cache directory. Needs the test extra (scripts/test installs it).
"""

import argparse
import gc
import json
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jaxserve.config import DEFAULT_MODEL, cache_dir
from scripts import model_gallery
from scripts.benchmarks.peers.rounds import machine
from scripts.model_checks.forms import FLOAT32, FORMS
from scripts.model_checks.perplexity import TEXT, ExactDistributions, compare_forms, cut_windows, describe_form
from scripts.model_checks.reader import open_reader
from scripts.model_checks.tokens import answer_greedily, compare_with_transformers, describe_tokens

NAMES = (*model_gallery.MODELS, DEFAULT_MODEL)
PARTS = ("tokens", "perplexity")
PACKAGES = ("jaxserve", "jax", "numpy", "torch", "transformers")


def check_model(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Check one model, print a line for each result, and return them."""
    path = model_gallery.find(name)
    result: dict[str, Any] = {"model": path.name}

    def show(line: str) -> None:
        print(f"{path.name}: {line}", flush=True)

    answers = answer_greedily(path, arguments.greedy) if "tokens" in arguments.parts else []
    with ExitStack() as stack:
        reader, exact = open_reader(FLOAT32.config(str(path))), None
        logits = [reader([*answer.prompt, *answer.tokens[:-1]]) for answer in answers]
        if "perplexity" in arguments.parts:
            windows = cut_windows(path, arguments.text.read_text("utf-8"), arguments.windows, arguments.tokens)
            exact = stack.enter_context(closing(ExactDistributions(reader, windows)))
        del reader  # and its weights, before transformers has its own
        gc.collect()
        if answers:
            result["tokens"] = compare_with_transformers(path, arguments.cache, answers, logits)
            show(describe_tokens(result["tokens"]))
        if exact:
            show(f"float32: perplexity {exact.perplexity:.3f}")
            result["float32"] = {"perplexity": exact.perplexity}
            forms = [form for form in FORMS if form.name in arguments.forms]
            result["forms"] = compare_forms(path, forms, exact, lambda form, found: show(describe_form(form, found)))
    gc.collect()
    return result


def is_good(result: dict[str, Any]) -> bool:
    """Return whether everything that was checked of a model is right."""
    verdicts = [result.get("tokens", {}).get("is_good", True)]
    return all([*verdicts, *(found["is_good"] for found in result.get("forms", {}).values())])


def main(words: Sequence[str]) -> int:
    """Check the models that the words name, or all, and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="check_models", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", default=NAMES, metavar="NAME", help=f"or a path; {', '.join(NAMES)}")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    names = [form.name for form in FORMS]
    parser.add_argument("--forms", nargs="+", choices=names, default=names, metavar="FORM", help=", ".join(names))
    parser.add_argument("--greedy", type=int, default=64, metavar="N", help="tokens of an answer")
    parser.add_argument("--text", type=Path, default=TEXT, metavar="FILE", help="instead of the bundled text")
    parser.add_argument("--windows", type=int, default=4, metavar="N")
    parser.add_argument("--tokens", type=int, default=256, metavar="N", help="of a window")
    parser.add_argument("--cache", type=Path, default=cache_dir("peers"), metavar="DIR", help="of dequantised weights")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here, too")
    arguments = parser.parse_args(words)
    record: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "command": " ".join(["scripts/check_models", *words]),
        "machine": machine(),
        "versions": {package: version(package) for package in PACKAGES},
        "models": [],
    }
    for name in arguments.names:
        record["models"].append(check_model(name, arguments))
        if arguments.json:
            arguments.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    wrong = [result["model"] for result in record["models"] if not is_good(result)]
    print(f"{len(record['models'])} models checked" + (f", wrong: {', '.join(wrong)}" if wrong else ", all right"))
    return 1 if wrong else 0
