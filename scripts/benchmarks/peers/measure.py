"""The loads of scripts/bench peers, and one contender's turn under them. The result is plain JSON.

A turn is {contender, round, ready_s, peak_rss_mib, serving, prefill, long_prompt}: `serving` is a list under the keys
of `vllm bench serve`, one result per concurrency; peak_rss_mib is taken after it; `prefill` and `long_prompt`, absent
without long prompts, are shown where they are made.
"""

import asyncio
import json
import os
import random
import statistics
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripts.benchmarks.client import Failed, Messages, Server
from scripts.benchmarks.load import measure, prompt_of, run
from scripts.benchmarks.peers.contenders import Contender
from scripts.benchmarks.server_process import Watched, free_port, ready
from scripts.benchmarks.stall import long_prompt_among_streams

MIB = 1 << 20
WARM_UP_TOKENS = 4


@dataclass(frozen=True, slots=True)
class Loads:
    """The work that every server gets; lengths in tokens. num_prompts has one number for each concurrency.

    has_long_prompts   after the streams, prompts one by one, and a long one among streams
    """

    concurrency: tuple[int, ...] = (1, 8, 32)
    num_prompts: tuple[int, ...] = (4, 16, 64)
    input_len: int = 128
    output_len: int = 128
    prefill_len: int = 1024
    num_prefills: int = 3
    streams: int = 16
    long_len: int = 4000
    has_long_prompts: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.num_prompts) != len(self.concurrency):
            raise ValueError(
                f"{len(self.concurrency)} concurrencies need as many numbers of prompts, not {len(self.num_prompts)}."
            )


@dataclass(slots=True)
class Prompts:
    """The same prompts for everybody, made when the first server can count tokens; who counts otherwise has failed."""

    loads: Loads
    serving: list[list[Messages]] = field(default_factory=list)
    prefill: list[Messages] = field(default_factory=list)
    streams: list[Messages] = field(default_factory=list)
    long: list[Messages] = field(default_factory=list)

    async def made_with(self, server: Server) -> None:
        if self.serving:
            return
        loads, rng = self.loads, random.Random(self.loads.seed)

        async def some(number: int, num_tokens: int) -> list[Messages]:
            return [await prompt_of(server, num_tokens, rng) for _ in range(number)]

        self.streams = await some(loads.streams, loads.input_len)
        if loads.has_long_prompts:
            self.prefill = await some(loads.num_prefills, loads.prefill_len)
            self.long = await some(2, loads.long_len)
        self.serving = [await some(number, loads.input_len) for number in loads.num_prompts]


def turn(contender: Contender, prompts: Prompts, logs: Path) -> dict[str, Any]:
    """One contender under all loads. Failed says why it cannot be measured. logs: a directory."""
    log = _log(contender, logs)
    if contender.is_static:
        return _static_turn(contender, prompts.loads, log)
    return asyncio.run(_server_turn(contender, prompts, log))


def _log(contender: Contender, logs: Path) -> Path:
    logs.mkdir(parents=True, exist_ok=True)
    return logs / f"{contender.name.replace(' ', '-')}.log"


async def _server_turn(contender: Contender, prompts: Prompts, log: Path) -> dict[str, Any]:
    with _started(contender.command, contender, log) as (watched, port):
        server, ready_s = await ready(watched, port)
        await prompts.made_with(server)
        await _warm_up(server, prompts)
        serving = await _serving(server, prompts)
        result = {"ready_s": ready_s, "peak_rss_mib": watched.peak_bytes() / MIB, "serving": serving}
        if not prompts.loads.has_long_prompts:
            return result
        if contender.long_command is None:
            return result | await _long_prompts(server, contender, prompts)
    with _started(contender.long_command, contender, log) as (watched, port):
        server, _ = await ready(watched, port)
        await _warm_up(server, prompts)
        return result | await _long_prompts(server, contender, prompts)


async def _long_prompts(server: Server, contender: Contender, prompts: Prompts) -> dict[str, Any]:
    prefill = await _prefill(server, prompts)
    return {"prefill": prefill, "long_prompt": await _long_prompt(server, contender, prompts, prefill)}


def first_start(contender: Contender, logs: Path) -> float:
    """Starts and ends the server, and returns the seconds to its first answer."""

    async def once() -> float:
        with _started(contender.command, contender, _log(contender, logs)) as (watched, port):
            return (await ready(watched, port))[1]

    return asyncio.run(once())


def second_opinion(contender: Contender, loads: Loads) -> dict[str, Any]:
    """Measure prefill and decoding of one row with llama.cpp's own llama-bench, tokens/s."""
    words = ["-p", str(loads.prefill_len), "-n", str(loads.output_len), "-r", "3"]
    environment = {**os.environ, **contender.environment}
    ended = subprocess.run([*contender.bench_command, *words], env=environment, capture_output=True, text=True)
    if ended.returncode:
        raise Failed(f"llama-bench: {ended.stderr.strip()[-300:]}")
    tests = json.loads(ended.stdout)
    found = {"prefill" if test["n_prompt"] else "decode": test["avg_ts"] for test in tests}
    return {"contender": contender.name, "program": "llama-bench", **found}


@contextmanager
def _started(command: Sequence[str], contender: Contender, log: Path) -> Iterator[tuple[Watched, int]]:
    port = free_port()
    words = [word.replace("{port}", str(port)) for word in command]
    with Watched(words, contender.environment, log) as watched:
        yield watched, port


async def _warm_up(server: Server, prompts: Prompts) -> None:
    """A few answers that nobody times."""
    await run(server, prompts.streams[:8], 8, WARM_UP_TOKENS)


async def _prefill(server: Server, prompts: Prompts) -> dict[str, Any]:
    """Prompts one at a time, each for one token: tokens/s are prompt tokens by the median time to that token."""
    timelines, _ = await run(server, prompts.prefill, 1, 1)
    for line in timelines:
        if line.error:
            raise Failed(f"a prompt of {prompts.loads.prefill_len} tokens: {line.error}")
    return _prefill_of(statistics.median(line.ttft_s for line in timelines), prompts.loads)


def _prefill_of(ttft_s: float, loads: Loads) -> dict[str, Any]:
    return {"input_len": loads.prefill_len, "ttft_ms": 1000 * ttft_s, "tokens_per_s": loads.prefill_len / ttft_s}


async def _serving(server: Server, prompts: Prompts) -> list[dict[str, Any]]:
    loads, results = prompts.loads, []
    for concurrency, some in zip(loads.concurrency, prompts.serving, strict=True):
        result = await measure(server, some, concurrency, loads.input_len, loads.output_len)
        if result["failed"]:
            raise Failed(f"{result['failed']} of {len(some)} requests failed at concurrency {concurrency}")
        if (read := result["total_input_tokens"]) != len(some) * loads.input_len:
            raise Failed(f"it read {read} tokens where {len(some)} prompts of {loads.input_len} were meant")
        results.append(result)
    return results


async def _long_prompt(
    server: Server, contender: Contender, prompts: Prompts, prefill: dict[str, Any]
) -> dict[str, Any]:
    """The result of the subcommand stall, beside the time of the long prompt's last and dearest chunk."""
    found = await long_prompt_among_streams(server, prompts.streams, *prompts.long)
    ms = last_chunk_ms(
        (prefill["input_len"], prefill["ttft_ms"]),
        (prompts.loads.long_len, found["alone_ttft_ms"]),
        contender.chunk_tokens,
    )
    return {"input_len": prompts.loads.long_len, "chunk_tokens": contender.chunk_tokens, "chunk_ms": ms, **found}


def last_chunk_ms(short: tuple[int, float], long: tuple[int, float], chunk_tokens: int) -> float:
    """Milliseconds of a long prompt's last chunk, from the tokens and milliseconds of two whole prompts.

    Every token costs the same in the products and, in attention, as much as there are before it: n tokens take
    a n + b n², which two prompts determine. Not less than the mean of all chunks, should noise bend the curve down.
    """
    (few, few_ms), (many, many_ms) = short, long
    b = (many_ms / many - few_ms / few) / (many - few) if many != few else 0.0
    a = many_ms / many - b * many
    chunk = min(chunk_tokens, many)
    before = many - chunk
    return max(many_ms - a * before - b * before**2, many_ms * chunk / many)


def _static_turn(contender: Contender, loads: Loads, log: Path) -> dict[str, Any]:
    """The same work in static batches, and prefill as batches of one row that end with their first token.

    One batch of each size, two of one row: a batch has nobody to wait for, so more would say the same.
    """
    num_prompts = [max(2, rows) for rows in loads.concurrency]
    serving, peak = _static_run(contender, loads.concurrency, num_prompts, loads.input_len, loads.output_len, log)
    if not loads.has_long_prompts:
        return {"serving": serving, "peak_rss_mib": peak / MIB}
    prefill, _ = _static_run(contender, [1], [loads.num_prefills], loads.prefill_len, 1, log)
    ttft_s = prefill[0]["median_ttft_ms"] / 1000
    return {"prefill": _prefill_of(ttft_s, loads), "serving": serving, "peak_rss_mib": peak / MIB}


def _static_run(
    contender: Contender,
    concurrency: Sequence[int],
    num_prompts: Sequence[int],
    input_len: int,
    output_len: int,
    log: Path,
) -> tuple[list[dict[str, Any]], int]:
    """The results under vLLM's keys, and the bytes that the program held at most."""
    results = log.with_suffix(".json")
    flags = ["--input-len", input_len, "--output-len", output_len, "--json", results]
    flags += ["--concurrency", *concurrency, "--num-prompts", *num_prompts]
    with Watched([*contender.command, *map(str, flags)], contender.environment, log) as watched:
        if watched.wait():
            raise Failed(watched.last_words())
    return json.loads(results.read_text(encoding="utf-8")), watched.peak_bytes()
