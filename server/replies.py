"""What both generation routes put around their choices: the head of an object, usage, and the bytes of events."""

import asyncio
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import orjson

from jaxserve import TextDelta, TokenLogprob
from server.logprobs import prompt_table
from server.runs import Run
from server.schemas.common import GenerationRequest

SLICE = 256  # tokens; with 20 alternatives each some 10 ms of work
T = TypeVar("T")
R = TypeVar("R")
DONE = b"data: [DONE]\n\n"
LINE_ENDS = tuple((end.encode(), b"\\u%04x" % ord(end)) for end in "\u0085\u2028\u2029")


@dataclass(frozen=True, slots=True)
class Frame:
    """What is the same in a reply and in all chunks of a stream.

    counts_reasoning   usage says how many of the completion tokens were reasoning
    """

    id: str
    created: int
    model: str
    fingerprint: str | None
    shows_cached: bool
    tokens_as_ids: bool
    forces_usage: bool
    interval: int
    counts_reasoning: bool

    def head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def usage(self, prompt_tokens: int, generated: "Generated", cached_tokens: int) -> dict[str, Any]:
        details = {"completion_tokens_details": {"reasoning_tokens": generated.reasoning}}
        return {
            **counts(prompt_tokens, generated.tokens),
            "prompt_tokens_details": {"cached_tokens": cached_tokens} if self.shows_cached else None,
            **(details if self.counts_reasoning else {}),
        }


@dataclass(slots=True)
class Generated:
    """Tokens of answers, and how many of them are reasoning."""

    tokens: int = 0
    reasoning: int = 0

    @classmethod
    def of(cls, deltas: Iterable[TextDelta]) -> "Generated":
        total = cls()
        for delta in deltas:
            total.add(delta)
        return total

    def add(self, delta: TextDelta) -> None:
        self.tokens += len(delta.token_ids)
        self.reasoning += delta.num_reasoning_tokens


def counts(prompt_tokens: int, completion_tokens: int) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def total_usage(frame: Frame, run: Run, generated: Generated) -> dict[str, Any]:
    """Each prompt once, every choice's tokens, and what the prefix cache had of the prompts."""
    prompt_tokens = sum(len(job.prompt_ids) for job in run.jobs)
    return frame.usage(prompt_tokens, generated, sum(news.cached_tokens for news in run.prompts))


class ChunkWriter(Protocol):
    """One stream's chunks, as JSON objects."""

    def opening(self) -> list[dict[str, Any]]: ...
    def chunks(self, delta: TextDelta) -> list[dict[str, Any]]: ...
    def closing(self) -> list[dict[str, Any]]: ...


class UsageKeeper:
    """Which chunks of a stream show usage, and which the fingerprint."""

    def __init__(self, request: GenerationRequest, frame: Frame, run: Run) -> None:
        options = request.stream_options
        forced = frame.forces_usage
        self._frame, self._run = frame, run
        self.at_end = forced or request.wants_usage
        self._always = forced or (self.at_end and bool(options and options.continuous_usage_stats))
        self._tokens = [0] * run.num_choices
        self._total = Generated()

    def count(self, delta: TextDelta) -> None:
        self._tokens[delta.index] += len(delta.token_ids)
        self._total.add(delta)

    def add(self, chunk: dict[str, Any], index: int, *, is_last: bool = False) -> dict[str, Any]:
        """The chunk of choice `index`, with that choice's usage so far where it was asked for."""
        if self._always:
            prompt = self._run.jobs[self._run.prompt_of(index)].prompt_ids
            chunk["usage"] = counts(len(prompt), self._tokens[index])
        if is_last and not self.at_end:
            chunk["system_fingerprint"] = self._frame.fingerprint
        return chunk

    def closing(self, kind: str) -> list[dict[str, Any]]:
        """The usage chunk, when there is one."""
        if not self.at_end:
            return []
        usage = total_usage(self._frame, self._run, self._total)
        fingerprint = {"system_fingerprint": self._frame.fingerprint}
        return [{**self._frame.head(kind), "choices": [], "usage": usage, **fingerprint}]


def events(chunks: Sequence[dict[str, Any]]) -> bytes:
    return b"".join(b"data: " + dump_line(chunk) + b"\n\n" for chunk in chunks)


def dump_line(chunk: dict[str, Any]) -> bytes:
    """The chunk as JSON that is one line for every reader.

    U+0085, U+2028 and U+2029 are escaped: legal in JSON and in events, but str.splitlines, and with it httpx, ends a
    line there.
    """
    data = orjson.dumps(chunk)
    if not data.isascii():
        for raw, escaped in LINE_ENDS:
            data = data.replace(raw, escaped)
    return data


async def gently(items: Sequence[T], convert: Callable[[Sequence[T]], Sequence[R]]) -> list[R]:
    """All that `convert` makes of the items, slice by slice, so that a long list does not keep the loop from others."""
    made: list[R] = []
    for start in range(0, len(items), SLICE):
        made += convert(items[start : start + SLICE])
        await asyncio.sleep(0)
    return made


async def whole_prompt_table(
    entries: Sequence[TokenLogprob | None] | None, k: int
) -> list[dict[str, Any] | None] | None:
    """prompt_logprobs, or null when they were not asked for."""
    return None if entries is None else await gently(entries, lambda part: prompt_table(part, k))


def now_s() -> int:
    return int(time.time())


def fresh_base() -> str:
    return secrets.token_hex(8)
