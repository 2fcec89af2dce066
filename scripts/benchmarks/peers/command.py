"""Puts jaxserve beside its peers on this CPU: scripts/bench peers --prepare, then scripts/bench peers --json FILE

The same weights, prompts and loads for llama.cpp's server, vLLM's CPU build, transformers in static batches, and ours.
One at a time is started, asked and ended, everybody once a round, so that whatever the machine does besides meets all
of them; whoever cannot run is named with the reason. Prints tables in Markdown: medians and spreads of the rounds,
ratios between ours and theirs, and what a long prompt does to running streams. The machine should have nothing else
to do. Needs the test extra (scripts/test installs it), and for --prepare a C++ compiler and cmake.
"""

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path

from jaxserve.config import DEFAULT_MODEL, cache_dir
from scripts import model_gallery
from scripts.benchmarks.client import Failed
from scripts.benchmarks.peers.contenders import Contender, contenders
from scripts.benchmarks.peers.measure import Loads, first_start
from scripts.benchmarks.peers.prepare import prepare_peers
from scripts.benchmarks.peers.report import report
from scripts.benchmarks.peers.rounds import race, say


def main(words: Sequence[str]) -> int:
    """Prepare, measure or report, whatever the flags ask for, and return the exit code."""

    usual = Loads()
    parser = argparse.ArgumentParser(prog="bench peers", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--prepare", action="store_true", help="make what the peers need, start each once, and leave")
    parser.add_argument("--llama-cpp", type=Path, metavar="DIR", help="with --prepare: a build of it, instead of one")
    parser.add_argument("--vllm", type=Path, metavar="DIR", help="with --prepare: a venv with it, instead of one")
    parser.add_argument("--cache", type=Path, default=cache_dir("peers"), metavar="DIR", help="where that is kept")
    parser.add_argument("--report", type=Path, metavar="FILE", help="measure nothing: tables and plot of these results")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="contenders whose names begin so")
    parser.add_argument(
        "--model",
        nargs="+",
        default=[DEFAULT_MODEL],
        help="names of scripts/fetch_model, or what jaxserve serve takes; peers need a .gguf file",
    )
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument("--minutes", type=float, default=math.inf, help="for all models; no round that would end later")
    parser.add_argument("--concurrency", type=int, nargs="+", default=usual.concurrency, metavar="N")
    parser.add_argument("--num-prompts", type=int, nargs="+", default=usual.num_prompts, metavar="N", help="of each")
    parser.add_argument("--input-len", type=int, default=usual.input_len, metavar="TOKENS")
    parser.add_argument("--output-len", type=int, default=usual.output_len, metavar="TOKENS")
    parser.add_argument("--prefill-len", type=int, default=usual.prefill_len, metavar="TOKENS")
    parser.add_argument("--long-len", type=int, default=usual.long_len, metavar="TOKENS", help="prompt among streams")
    parser.add_argument("--streams", type=int, default=usual.streams, metavar="N", help="that it arrives among")
    parser.add_argument("--streams-only", action="store_true", help="no prompts alone, and none among streams")
    parser.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="write the results here, with several models to FILE-MODEL; default: in the cache",
    )
    parser.add_argument(
        "--plot",
        type=Path,
        metavar="FILE",
        help="draw tokens/s against concurrency as a PNG here, with several models as FILE-MODEL",
    )
    arguments = parser.parse_args(words)
    if arguments.prepare:
        return prepare(arguments)
    return show(arguments.report, arguments.plot) if arguments.report else measure(arguments)


def wanted(arguments: argparse.Namespace, source: Path) -> list[Contender]:
    """Return the contenders that the flags ask for."""
    names = tuple(arguments.only or ("",))
    return [one for one in contenders(arguments.cache, source) if one.name.startswith(names)]


def prepare(arguments: argparse.Namespace) -> int:
    """Make the environments and weights, then start every server once, so that compiled programs are cached."""
    failures = []
    for model in arguments.model:
        source = model_gallery.find(model)
        names = {one.name for one in wanted(arguments, source)}
        failures += prepare_peers(arguments.cache, source, names, arguments.llama_cpp, arguments.vllm)
        for contender in wanted(arguments, source):
            try:
                if not contender.missing and not contender.is_static:
                    seconds = first_start(contender, arguments.cache / "logs")
                    say(f"{contender.name} was ready with {model} after {seconds:.1f} s")
            except Failed as error:
                failures.append(f"{contender.name} with {model}: {error}")
    for sentence in failures:
        say(sentence)
    return 1 if failures else 0


def measure(arguments: argparse.Namespace) -> int:
    """Measure every model, print its tables, and return the exit code."""
    loads = Loads(
        concurrency=tuple(arguments.concurrency),
        num_prompts=tuple(arguments.num_prompts),
        input_len=arguments.input_len,
        output_len=arguments.output_len,
        prefill_len=arguments.prefill_len,
        long_len=arguments.long_len,
        streams=arguments.streams,
        has_long_prompts=not arguments.streams_only,
    )
    results: Path = arguments.json or arguments.cache / "peers.json"
    is_measured = True
    for model in arguments.model:
        file = name_file(results, model, arguments.model)
        plot = arguments.plot and name_file(arguments.plot, model, arguments.model)
        found = race(
            wanted(arguments, model_gallery.find(model)),
            loads,
            arguments.rounds,
            model=model,
            logs=arguments.cache / "logs",
            results=file,
            within_s=60 * arguments.minutes / len(arguments.model),
        )
        is_measured = is_measured and bool(found["turns"]) and show(file, plot) == 0
    return 0 if is_measured else 1


def name_file(file: Path, model: str, models: Sequence[str]) -> Path:
    """Return the file of one of several models, FILE-MODEL, or of the only one."""
    return file if len(models) == 1 else file.with_stem(f"{file.stem}-{Path(model).name}")


def show(results: Path, plot: Path | None) -> int:
    """Print the tables of a file of results, and draw it if a plot is asked for."""
    from scripts.benchmarks.peers.plot import draw

    found = json.loads(results.read_text(encoding="utf-8"))
    print(f"{found['model']}\n\n{report(found)}\n")
    if plot:
        draw(found, plot)
    return 0
