"""Ask a chat server for JSON by many schemas and check each answer: scripts/check_structured --url http://localhost:8000

Every schema is asked for several times, with other seeds, at temperature 1. An answer counts when it is valid under
its schema (by the package jsonschema), or was cut short by max_tokens and says so. Prints the numbers as JSON; the
exit code is 1 when a single answer does not count.
"""

import argparse
import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import Sequence

from scripts.benchmarks.client import Server
from scripts.structured_checks.cases import Case, judge, make_cases
from scripts.structured_checks.numbers import find_faults

MAX_TOKENS = 256


async def get_verdict(server: Server, case: Case, seed: int) -> str:
    """Send a case and return the verdict of `judge`, or the error that the server returned."""
    status, answer = await server.json("/v1/chat/completions", {"model": server.model} | case.body(seed, MAX_TOKENS))
    return judge(case, answer["choices"][0]) if status == 200 else f"{case.name}: {status} {str(answer)[:300]}"


async def check(arguments: argparse.Namespace) -> int:
    """Ask for every case, print the counts as JSON, and return the exit code."""
    server = await Server(arguments.url.rstrip("/").removesuffix("/v1"), "", arguments.api_key).named()
    jobs = [(case, seed) for seed in range(arguments.times) for case in make_cases(arguments.schemas)]
    slots = asyncio.Semaphore(arguments.concurrency)
    verdicts: Counter[str] = Counter()

    async def ask(case: Case, seed: int) -> None:
        async with slots:
            verdicts[await get_verdict(server, case, seed)] += 1
            if sum(verdicts.values()) % 100 == 0:
                print(f"{sum(verdicts.values())} of {len(jobs)}", file=sys.stderr)

    await asyncio.gather(*(ask(case, seed) for case, seed in jobs))
    good = {"valid": verdicts.pop("valid", 0), "length": verdicts.pop("length", 0)}
    print(json.dumps({"schemas": arguments.schemas, "answers": len(jobs), **good, "wrong": dict(verdicts)}, indent=2))
    return 1 if verdicts else 0


def check_numbers(num: int) -> int:
    """Check grammars of random numbers without a server, print counts and the first faults, return the exit code."""
    counts: Counter[str] = Counter()
    wrong = [fault for seed in range(num) for fault in find_faults(seed, counts)]
    print(json.dumps({"cases": num, **counts, "wrong": len(wrong), "first": wrong[:10]}, indent=2))
    return 1 if wrong else 0


def main(words: Sequence[str]) -> int:
    """Check a server, or grammars of numbers without one, and return the exit code."""
    parser = argparse.ArgumentParser(prog="check_structured", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--url", default="http://localhost:8000")
    parser.add_argument("--api-key", default=os.environ.get("JAXSERVE_API_KEY"))
    parser.add_argument("--schemas", type=int, default=200, metavar="N")
    parser.add_argument("--times", type=int, default=5, metavar="N", help="answers for each schema")
    parser.add_argument("--concurrency", type=int, default=32, metavar="N")
    parser.add_argument("--numbers", type=int, metavar="N", help="instead, without a server: N grammars of numbers")
    arguments = parser.parse_args(words)
    return check_numbers(arguments.numbers) if arguments.numbers else asyncio.run(check(arguments))
