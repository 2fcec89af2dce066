"""What the benchmarks ask of a server: prompts of an exact length, and many of them at a time."""

import asyncio
import random
import sys
import time
from collections.abc import Sequence
from typing import Any

from scripts.benchmarks.client import Failed, Messages, Server
from scripts.benchmarks.results import Timeline, summary

COMMON_WORDS = """\
time year people way day man thing woman life child world school state family student group country problem hand
part place case week company system program question work government number night point home water room mother area
money story fact month lot right study book eye job word business issue side kind head house service friend father
power hour game line end member law car city community name president team minute idea body information back parent
face level office door health person art war history party result change morning reason research girl guy moment
air teacher force education"""
MAX_TRIES = 100


async def prompt_of(server: Server, num_tokens: int, rng: random.Random) -> Messages:
    """Make random messages of exactly `num_tokens` tokens, template included. Raises Failed after MAX_TRIES tries."""
    words: list[str] = rng.choices(COMMON_WORDS.split(), k=num_tokens)
    for _ in range(MAX_TRIES):
        messages = [{"role": "user", "content": " ".join(words)}]
        length = await server.count(messages)
        surplus, per_word = length - num_tokens, max(1.0, length / len(words))
        if surplus == 0:
            return messages
        if surplus > 0:
            del words[-max(1, int(surplus / per_word)) :]
        elif -surplus >= per_word:
            words += rng.choices(COMMON_WORDS.split(), k=int(-surplus / per_word))
        else:  # less than a word is missing: a letter more, which may be a token more
            words[-1] += rng.choice("aeiou")
        if not words:
            raise Failed(f"the chat template alone takes {num_tokens} tokens; ask for longer prompts")
    raise Failed(f"no prompt of exactly {num_tokens} tokens found in {MAX_TRIES} tries")


async def run(
    server: Server, prompts: Sequence[Messages], concurrency: int, num_tokens: int
) -> tuple[list[Timeline], float]:
    """All prompts, `concurrency` at a time. Returns their timelines and the seconds it took."""
    waiting, timelines = iter(prompts), []

    async def worker() -> None:
        for messages in waiting:
            timelines.append(await server.timed(messages, num_tokens))

    began = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(concurrency)))
    return timelines, time.perf_counter() - began


async def measure(
    server: Server, prompts: Sequence[Messages], concurrency: int, input_len: int, output_len: int
) -> dict[str, Any]:
    """One load, summed up under vLLM's keys; what failed is said on standard error."""
    timelines, duration_s = await run(server, prompts, concurrency, output_len)
    for error in sorted({one.error for one in timelines if one.error}):
        print(f"  failed: {error}", file=sys.stderr)
    about = {
        "date": time.strftime("%Y%m%d-%H%M%S"),
        "backend": "openai-chat",
        "model_id": server.model,
        "num_prompts": len(prompts),
        "max_concurrency": concurrency,
        "random_input_len": input_len,
        "random_output_len": output_len,
    }
    return summary(timelines, duration_s, **about)
