"""Load a chat server over HTTP and time its tokens: scripts/bench serving --url http://localhost:8000

Streams chat completions of fixed prompt and output length (ignore_eos, temperature 0), a fixed number at a time, to any
OpenAI-compatible server. Prompts are random words, counted by the server itself, so that all are exactly as long as
asked for. Prints time to first token (TTFT), time per output token (TPOT) and inter-token latency (ITL), and writes
JSON under the result keys of `vllm bench serve`. Standard library only: it runs with any Python from 3.11.
"""

import argparse
import random
import sys
from collections.abc import Sequence

from scripts.benchmarks.http_command import add_server_flags, run_over_http, server_of
from scripts.benchmarks.load import measure, prompt_of, run
from scripts.benchmarks.results import publish


async def benchmark(arguments: argparse.Namespace) -> int:
    server, rng = await server_of(arguments), random.Random(arguments.seed)
    results = []
    for concurrency in arguments.concurrency:
        num_prompts = arguments.num_prompts or max(8, 4 * concurrency)
        prompts = [await prompt_of(server, arguments.input_len, rng) for _ in range(num_prompts + concurrency)]
        print(f"concurrency {concurrency}: {num_prompts} prompts after a warm-up of {concurrency}", file=sys.stderr)
        await run(server, prompts[num_prompts:], concurrency, arguments.output_len)
        prompts = prompts[:num_prompts]
        results.append(await measure(server, prompts, concurrency, arguments.input_len, arguments.output_len))
    publish(results, arguments.json)
    return 1 if any(result["failed"] for result in results) else 0


def main(words: Sequence[str]) -> int:
    """Measure a server at each concurrency, print a table, and return the exit code."""
    parser = argparse.ArgumentParser(prog="bench serving", description=(__doc__ or "").splitlines()[0])
    add_server_flags(parser)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32], metavar="N")
    parser.add_argument("--num-prompts", type=int, metavar="N", help="default: four rounds, at least 8")
    parser.add_argument("--input-len", type=int, default=128, metavar="TOKENS", help="prompt, template included")
    parser.add_argument("--output-len", type=int, default=128, metavar="TOKENS")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", metavar="FILE", help="write the results here; - is standard output")
    return run_over_http("serving", benchmark(parser.parse_args(words)))
