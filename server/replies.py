"""What both generation routes put around their choices: the head of an object, usage, and the bytes of events."""

import asyncio
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import orjson

from jaxserve import TextDelta, TokenLogprob
from server.generation import Generation
from server.logprobs import render_prompt_table
from server.schemas.common import GenerationRequest

SLICE_TOKENS = 256  # tokens; with 20 alternatives each some 10 ms of work
T = TypeVar("T")
R = TypeVar("R")
DONE = b"data: [DONE]\n\n"
ESCAPED_LINE_ENDS = tuple((end.encode(), b"\\u%04x" % ord(end)) for end in "\u0085\u2028\u2029")


@dataclass(frozen=True, slots=True)
class ReplyMetadata:
    """What is the same in a reply and in all chunks of a stream.

    counts_reasoning   usage says how many of the completion tokens were reasoning
    """

    id: str
    created: int
    model: str
    fingerprint: str | None
    shows_cached_tokens: bool
    tokens_as_ids: bool
    forces_stream_usage: bool
    stream_interval: int
    counts_reasoning: bool

    def common_fields(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def make_usage(self, prompt_tokens: int, completion: "TokenCounts", cached_tokens: int) -> dict[str, Any]:
        details = {"completion_tokens_details": {"reasoning_tokens": completion.num_reasoning_tokens}}
        return {
            **count_usage(prompt_tokens, completion.num_tokens),
            "prompt_tokens_details": {"cached_tokens": cached_tokens} if self.shows_cached_tokens else None,
            **(details if self.counts_reasoning else {}),
        }


@dataclass(slots=True)
class TokenCounts:
    """Tokens of answers, and how many of them are reasoning."""

    num_tokens: int = 0
    num_reasoning_tokens: int = 0

    @classmethod
    def from_deltas(cls, deltas: Iterable[TextDelta]) -> "TokenCounts":
        total = cls()
        for delta in deltas:
            total.add(delta)
        return total

    def add(self, delta: TextDelta) -> None:
        self.num_tokens += len(delta.token_ids)
        self.num_reasoning_tokens += delta.num_reasoning_tokens


def count_usage(prompt_tokens: int, completion_tokens: int) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def sum_usage(metadata: ReplyMetadata, generation: Generation, completion: TokenCounts) -> dict[str, Any]:
    """Each prompt once, every choice's tokens, and what the prefix cache had of the prompts."""
    prompt_tokens = sum(len(job.prompt_ids) for job in generation.jobs)
    return metadata.make_usage(prompt_tokens, completion, sum(news.cached_tokens for news in generation.prompt_results))


class ChunkWriter(Protocol):
    """One stream's chunks, as JSON objects."""

    def opening(self) -> list[dict[str, Any]]: ...
    def chunks(self, delta: TextDelta) -> list[dict[str, Any]]: ...
    def closing(self) -> list[dict[str, Any]]: ...


class UsageTracker:
    """Which chunks of a stream show usage, and which the fingerprint."""

    def __init__(self, request: GenerationRequest, metadata: ReplyMetadata, generation: Generation) -> None:
        options = request.stream_options
        forced = metadata.forces_stream_usage
        self._metadata, self._generation = metadata, generation
        self.has_usage_chunk = forced or request.includes_usage
        self._is_continuous = forced or (self.has_usage_chunk and bool(options and options.continuous_usage_stats))
        self._tokens = [0] * generation.num_choices
        self._total = TokenCounts()

    def count(self, delta: TextDelta) -> None:
        self._tokens[delta.index] += len(delta.token_ids)
        self._total.add(delta)

    def annotate(self, chunk: dict[str, Any], index: int, *, is_last: bool = False) -> dict[str, Any]:
        """The chunk of choice `index`, with that choice's usage so far where it was asked for."""
        if self._is_continuous:
            prompt = self._generation.jobs[self._generation.prompt_index(index)].prompt_ids
            chunk["usage"] = count_usage(len(prompt), self._tokens[index])
        if is_last and not self.has_usage_chunk:
            chunk["system_fingerprint"] = self._metadata.fingerprint
        return chunk

    def closing(self, kind: str) -> list[dict[str, Any]]:
        """The usage chunk, when there is one."""
        if not self.has_usage_chunk:
            return []
        usage = sum_usage(self._metadata, self._generation, self._total)
        fingerprint = {"system_fingerprint": self._metadata.fingerprint}
        return [{**self._metadata.common_fields(kind), "choices": [], "usage": usage, **fingerprint}]


def encode_events(chunks: Sequence[dict[str, Any]]) -> bytes:
    return b"".join(b"data: " + encode_chunk(chunk) + b"\n\n" for chunk in chunks)


def encode_chunk(chunk: dict[str, Any]) -> bytes:
    """The chunk as JSON that is one line for every reader.

    U+0085, U+2028 and U+2029 are escaped: legal in JSON and in events, but str.splitlines, and with it httpx, ends a
    line there.
    """
    data = orjson.dumps(chunk)
    if not data.isascii():
        for raw, escaped in ESCAPED_LINE_ENDS:
            data = data.replace(raw, escaped)
    return data


async def in_slices(items: Sequence[T], convert: Callable[[Sequence[T]], Sequence[R]]) -> list[R]:
    """All that `convert` makes of the items, slice by slice, so that a long list does not keep the loop from others."""
    converted: list[R] = []
    for start in range(0, len(items), SLICE_TOKENS):
        converted += convert(items[start : start + SLICE_TOKENS])
        await asyncio.sleep(0)
    return converted


async def render_prompt_logprobs(
    entries: Sequence[TokenLogprob | None] | None, k: int
) -> list[dict[str, Any] | None] | None:
    """prompt_logprobs, or null when they were not asked for."""
    return None if entries is None else await in_slices(entries, lambda part: render_prompt_table(part, k))


def now_s() -> int:
    return int(time.time())


def make_random_id() -> str:
    return secrets.token_hex(8)
