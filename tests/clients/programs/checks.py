"""What the programs of the Python clients share: where the server is, what it is asked, and how results are told.

A program is started as `with_NAME.py URL MODEL [DIRECTORY]` and prints a line of JSON for each thing that it tried:
{"tried", "ok", "said"}. Standard library only: it runs in the environment of every client.
"""

import json
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from urllib.request import urlopen

URL, MODEL = sys.argv[1:3]
QUESTION = "Tell me in two sentences why the sky is blue."
TO_GO_ON = "Once upon a time, there was a"
MESSAGES: list[Any] = [{"role": "user", "content": QUESTION}]
SHORT: dict[str, Any] = {"temperature": 0, "max_tokens": 24}
UNKNOWN_MODEL = "no-such-model"
TOO_MANY_TOKENS = 10_000_000
TOO_LONG = "word " * 20_000
OVERFLOW = "maximum context length"  # the words by which clients know it
IDLE_WITHIN_S = 30


def run(*trials: Callable[[], str | None]) -> None:
    """Tries one after the other and tells of each, by its name. What one returns is a remark."""
    for trial in trials:
        try:
            ok, said = True, trial() or ""
        except Exception as error:
            traceback.print_exc()
            ok, said = False, f"{type(error).__name__}: {error}"
        print(json.dumps({"tried": trial.__name__.replace("_", " "), "ok": ok, "said": said}), flush=True)


def equal(found: Any, expected: Any, what: str) -> None:
    if found != expected:
        raise AssertionError(f"{what}: {found!r} instead of {expected!r}")


def holds(truth: Any, sentence: str) -> None:
    if not truth:
        raise AssertionError(sentence)


def refused(kind: type[Exception], ask: Callable[[], Any]) -> Any:
    """The exception of that class that `ask` ends with."""
    try:
        answer = ask()
    except kind as error:
        return error
    raise AssertionError(f"answered instead of {kind.__name__}: {answer!r}")


def inner_word(text: str) -> str:
    """A stop string: a word in the midst of `text`, with the space before it."""
    words = text.split(" ")
    holds(len(words) > 4, f"an answer too short to be stopped in: {text!r}")
    return " " + words[len(words) // 2]


def until(text: str, stop: str) -> str:
    return text[: text.index(stop)]


def wait_until_idle() -> None:
    """Returns once the server says that no request runs; what a client has left must be gone soon."""
    until_s = time.monotonic() + IDLE_WITHIN_S
    running = "no answer"
    while time.monotonic() < until_s:
        with suppress(OSError), urlopen(f"{URL}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
            running = next(line for line in lines if line.startswith("vllm:num_requests_running{")).split()[-1]
        if running == "0.0":
            return
        time.sleep(0.1)
    raise AssertionError(f"{running} requests run {IDLE_WITHIN_S} s after the client has left")
