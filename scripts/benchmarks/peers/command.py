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
from scripts.benchmarks.client import Failed
from scripts.benchmarks.peers.contenders import contenders
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
    parser.add_argument("--model", default=DEFAULT_MODEL, help="what jaxserve serve takes; peers need a .gguf file")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no further round that would end later")
    parser.add_argument("--concurrency", type=int, nargs="+", default=usual.concurrency, metavar="N")
    parser.add_argument("--num-prompts", type=int, nargs="+", default=usual.num_prompts, metavar="N", help="of each")
    parser.add_argument("--input-len", type=int, default=usual.input_len, metavar="TOKENS")
    parser.add_argument("--output-len", type=int, default=usual.output_len, metavar="TOKENS")
    parser.add_argument("--prefill-len", type=int, default=usual.prefill_len, metavar="TOKENS")
    parser.add_argument("--long-len", type=int, default=usual.long_len, metavar="TOKENS", help="prompt among streams")
    parser.add_argument("--streams", type=int, default=usual.streams, metavar="N", help="that it arrives among")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here; default: in the cache")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw tokens/s against concurrency as a PNG here")
    arguments = parser.parse_args(words)
    if arguments.prepare:
        return prepare(arguments)
    return show(arguments) if arguments.report else measure(arguments)


def prepare(arguments: argparse.Namespace) -> int:
    """Make the environments and weights, then start every server once, so that compiled programs are cached."""

    cache = arguments.cache
    failures = prepare_peers(cache, arguments.model, arguments.llama_cpp, arguments.vllm)
    for contender in contenders(cache, arguments.model):
        try:
            if not contender.missing and not contender.is_static:
                say(f"{contender.name} was ready after {first_start(contender, cache / 'logs'):.1f} s")
        except Failed as error:
            failures.append(f"{contender.name}: {error}")
    for sentence in failures:
        say(sentence)
    return 1 if failures else 0


def measure(arguments: argparse.Namespace) -> int:

    loads = Loads(
        concurrency=tuple(arguments.concurrency),
        num_prompts=tuple(arguments.num_prompts),
        input_len=arguments.input_len,
        output_len=arguments.output_len,
        prefill_len=arguments.prefill_len,
        long_len=arguments.long_len,
        streams=arguments.streams,
    )
    cache, wanted = arguments.cache, tuple(arguments.only or ("",))
    everybody = [one for one in contenders(cache, arguments.model) if one.name.startswith(wanted)]
    arguments.report = arguments.json or cache / "peers.json"
    found = race(
        everybody,
        loads,
        arguments.rounds,
        model=arguments.model,
        logs=cache / "logs",
        results=arguments.report,
        within_s=60 * arguments.minutes,
    )
    return show(arguments) if found["turns"] else 1


def show(arguments: argparse.Namespace) -> int:
    from scripts.benchmarks.peers.plot import draw

    found = json.loads(arguments.report.read_text(encoding="utf-8"))
    print(report(found))
    if arguments.plot:
        draw(found, arguments.plot)
    return 0
