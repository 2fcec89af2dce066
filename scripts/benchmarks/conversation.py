"""A conversation turn by turn, with and without the prefix cache: scripts/bench conversation --model PATH [--json FILE]

It tells how many tokens of each turn's prompt were computed, and how many were new: the user's words, what the template
writes around them, and, where the answers' beginnings are dropped as templates drop reasoning, what is left of the last
answer. With snapshots of recurrent states, or without recurrent layers, it should be the new ones and a page at most.
"""

import argparse
import json
import random
import string
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from jaxserve import LLM
from jaxserve.outputs import Completion

TURNS, HISTORY_WORDS, SYSTEM_WORDS, USER_WORDS, ANSWER_TOKENS = 10, 1400, 200, 20, 100
Message = dict[str, Any]


def make_words(rng: random.Random, num: int) -> str:
    """Return random words of five letters; a byte tokenizer has six tokens for each."""
    return " ".join("".join(rng.choices(string.ascii_lowercase, k=5)) for _ in range(num))


def converse(llm: LLM, *, drops_reasoning: bool, seed: int = 0) -> list[dict[str, Any]]:
    """Hold a conversation and return the numbers of each turn.

    drops_reasoning   The next turn has only the second half of an answer.
    """
    rng, turns = random.Random(seed), []
    messages: list[Message] = [{"role": "system", "content": make_words(rng, SYSTEM_WORDS)}]
    before: Completion | None = None
    for turn in range(TURNS):
        messages.append({"role": "user", "content": make_words(rng, USER_WORDS if turn else HISTORY_WORDS)})
        started = time.perf_counter()
        first = llm.chat(messages, max_tokens=1, temperature=0.0, allowed_token_ids=list(range(97, 123)))
        seconds = time.perf_counter() - started
        completion = llm.chat(
            messages,
            max_tokens=ANSWER_TOKENS,
            ignore_eos=True,
            temperature=0.0,
            allowed_token_ids=list(range(97, 123)),
        )
        prompt = first.prompt_token_ids
        known = () if before is None else (*before.prompt_token_ids, *before.choices[0].token_ids)
        num_new = len(prompt) - count_common(known, prompt)
        turns.append(
            {
                "prompt": len(prompt),
                "new": num_new,
                "computed": len(prompt) - first.usage.cached_tokens,
                "first_token_ms": round(1e3 * seconds, 1),
            }
        )
        answer = completion.text[len(completion.text) // 2 :] if drops_reasoning else completion.text
        messages.append({"role": "assistant", "content": answer})
        before = completion
    return turns


def count_common(first: Sequence[int], second: Sequence[int]) -> int:
    """Return the length of the common beginning."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(first), len(second)))


def show(title: str, turns: list[dict[str, Any]]) -> None:
    """Print the turns of a conversation as a table."""
    table = Table("turn", *turns[0], title=title)
    for number, turn in enumerate(turns, 1):
        table.add_row(str(number), *(str(value) for value in turn.values()))
    Console().print(table)


def main(words: Sequence[str]) -> int:
    """Hold the conversations, print a table of each, and return the exit code."""
    parser = argparse.ArgumentParser(prog="bench conversation", description=__doc__)
    parser.add_argument("--model", required=True, help="a checkpoint whose tokens 97 to 122 are the letters a to z")
    parser.add_argument("--block-size", type=int, help="the tokens of a page")
    parser.add_argument("--json", type=Path, help="write the numbers here, too")
    arguments = parser.parse_args(words)
    results: dict[str, Any] = {"model": Path(arguments.model).name}
    for has_cache in (True, False):
        options = {"enable_prefix_caching": has_cache, "block_size": arguments.block_size}
        llm = LLM(arguments.model, max_num_seqs=2, max_model_len=12_288, **options)
        for drops_reasoning in (False, True):
            name = f"{'with' if has_cache else 'without'} prefix cache"
            name += ", reasoning dropped" if drops_reasoning else ""
            results[name] = converse(llm, drops_reasoning=drops_reasoning, seed=drops_reasoning)
            show(name, results[name])
        llm.close()
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    return 0
