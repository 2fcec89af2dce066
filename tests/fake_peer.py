"""Stand-ins for the programs that scripts/bench peers starts, as programs: python -m tests.fake_peer KIND …

serve PORT      answers every chat with as many words as it may have
refuse          ends at once, as a server does that does not know a flag
static FLAGS    scripts/bench transformers, without any work
bench FLAGS     llama-bench, without any work
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.fake_openai import FakeOpenAI

LONG_PROMPT, ENDLESS, WORDS_BEFORE_PAUSE = 60, 500, 40  # words
WORD_S = 0.01  # between words of an endless answer, so that it is still going when the long prompt was answered


class FakePeer(FakeOpenAI):
    """A server whose endless outputs pause in the middle until a long prompt was answered."""

    def words_for(self, chat: dict[str, Any]) -> Iterator[str]:
        length = len(chat["messages"][0]["content"].split())
        for number in range(chat["max_tokens"]):
            if number >= WORDS_BEFORE_PAUSE and chat["max_tokens"] > ENDLESS:
                self.resume.wait(30)
                self.hung_up.wait(WORD_S)
            yield "word "
        if length >= LONG_PROMPT and self.streams_wait():
            self.resume.set()

    def streams_wait(self) -> bool:
        return any(chat["max_tokens"] > ENDLESS for chat in self.chats)


def serve(port: int, unseen_tokens: int) -> None:
    with FakePeer(port=port) as server:
        server.unseen_tokens = unseen_tokens
        server.thread.join()


def static(flags: list[str]) -> None:
    parser = argparse.ArgumentParser()
    for name in ("concurrency", "num-prompts"):
        parser.add_argument(f"--{name}", type=int, nargs="+")
    for name in ("input-len", "output-len"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args(flags)
    results = [
        {
            "max_concurrency": rows,
            "num_prompts": number,
            "random_input_len": asked.input_len,
            "failed": 0,
            "output_throughput": 10.0 * rows,
            "median_ttft_ms": 100.0,
            "p99_ttft_ms": 100.0,
            "median_tpot_ms": 10.0,
        }
        for rows, number in zip(asked.concurrency, asked.num_prompts, strict=True)
    ]
    asked.json.write_text(json.dumps(results))


def bench(flags: list[str]) -> None:
    tests = [{"n_prompt": int(flags[1]), "avg_ts": 300.0}, {"n_prompt": 0, "n_gen": int(flags[3]), "avg_ts": 30.0}]
    print(json.dumps(tests))


def main(kind: str, *words: str) -> int:
    if kind == "refuse":
        print("unknown flag --quantization")
        return 2
    if kind in ("serve", "miscount"):
        serve(int(words[0]), unseen_tokens=int(kind == "miscount"))
    else:
        {"static": static, "bench": bench}[kind](list(words))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
