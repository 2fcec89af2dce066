"""What the replies of both generation endpoints share: common fields, usage, and conversion in slices."""

import asyncio
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from jaxserve import TextDelta, TokenLogprob
from server.generation import Generation
from server.logprobs import render_prompt_table
from server.schemas.generation import GenerationRequest
from server.writer import Event

METRICS_KEYS = (
    *("time_to_first_token_ms", "generation_time_ms", "queue_time_ms", "mean_itl_ms", "tokens_per_second"),
    "speculative_decoding",  # always null: nothing is drafted
)
SLICE_TOKENS = 256  # tokens converted at once; with 20 alternatives each that takes some 10 ms
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class ReplyMetadata:
    """The fields that a reply has in common with all chunks of its stream, and how it shows tokens and usage.

    id                    id of the reply
    created               Unix time in seconds
    model                 first served model name
    fingerprint           system_fingerprint, None: null
    shows_cached_tokens   usage tells how many prompt tokens were found in the prefix cache
    tokens_as_ids         tokens in logprobs are written as token_id:N
    forces_stream_usage   every chunk of a stream has usage, whatever the request says
    stream_interval       tokens of a choice that a chunk waits for
    shows_metrics         the reply to a request with one choice has its times
    counts_reasoning      usage tells how many of the completion tokens were reasoning
    """

    id: str
    created: int
    model: str
    fingerprint: str | None
    shows_cached_tokens: bool
    tokens_as_ids: bool
    forces_stream_usage: bool
    stream_interval: int
    shows_metrics: bool
    counts_reasoning: bool

    def common_fields(self, kind: str) -> dict[str, Any]:
        """Return the fields with which every object of this reply begins. kind: the value of its field "object"."""
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def make_usage(self, prompt_tokens: int, completion: "TokenCounts", cached_tokens: int) -> dict[str, Any]:
        """Make the usage object of a whole reply."""
        details = {"completion_tokens_details": {"reasoning_tokens": completion.num_reasoning_tokens}}
        return {
            **count_usage(prompt_tokens, completion.num_tokens),
            "prompt_tokens_details": {"cached_tokens": cached_tokens} if self.shows_cached_tokens else None,
            **(details if self.counts_reasoning else {}),
        }


@dataclass(slots=True)
class TokenCounts:
    """Number of generated tokens, and how many of them are reasoning."""

    num_tokens: int = 0
    num_reasoning_tokens: int = 0

    @classmethod
    def from_deltas(cls, deltas: Iterable[TextDelta]) -> "TokenCounts":
        """Count the tokens of several deltas."""
        total = cls()
        for delta in deltas:
            total.add(delta)
        return total

    def add(self, delta: TextDelta) -> None:
        """Add the tokens of one delta."""
        self.num_tokens += len(delta.token_ids)
        self.num_reasoning_tokens += delta.num_reasoning_tokens


def count_usage(prompt_tokens: int, completion_tokens: int) -> dict[str, Any]:
    """Make the part of a usage object that every one has."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def sum_usage(metadata: ReplyMetadata, generation: Generation, completion: TokenCounts) -> dict[str, Any]:
    """Make the usage of a whole request: each prompt counts once, and every choice's tokens count."""
    prompt_tokens = sum(len(job.prompt_ids) for job in generation.jobs)
    cached_tokens = sum(result.cached_tokens for result in generation.prompt_results)
    return metadata.make_usage(prompt_tokens, completion, cached_tokens)


def make_metrics(metadata: ReplyMetadata, generation: Generation, num_tokens: int) -> dict[str, Any] | None:
    """Make the field metrics with vLLM's keys; None if it is not wanted, or there are several choices.

    num_tokens: of the answer. A time that is not known is null, as of an answer without tokens.
    """
    if not metadata.shows_metrics or generation.num_choices > 1:
        return None
    values: dict[str, Any] = dict.fromkeys(METRICS_KEYS)
    times = generation.prompt_results[0].times
    if times is not None:
        computed_s = times.prefill_s + times.decode_s
        values |= {
            "time_to_first_token_ms": times.prefill_s * 1000,
            "generation_time_ms": times.decode_s * 1000,
            "queue_time_ms": times.queue_s * 1000,
            "mean_itl_ms": times.decode_s / (num_tokens - 1) * 1000 if num_tokens > 1 else None,
            "tokens_per_second": num_tokens / computed_s if computed_s > 0 else None,
        }
    return values


class UsageTracker:
    """The token counts of a stream, and which of its chunks show usage and the fingerprint.

    has_usage_chunk: a chunk without choices ends the stream, and has the usage of the whole request.
    """

    def __init__(self, request: GenerationRequest, metadata: ReplyMetadata, generation: Generation) -> None:
        options = request.stream_options
        forced = metadata.forces_stream_usage
        self._metadata, self._generation = metadata, generation
        self.has_usage_chunk = forced or request.includes_usage
        self._is_continuous = forced or (self.has_usage_chunk and bool(options and options.continuous_usage_stats))
        self._tokens = [0] * generation.num_choices
        self._total = TokenCounts()

    def count(self, delta: TextDelta) -> None:
        """Count the tokens of a delta."""
        self._tokens[delta.index] += len(delta.token_ids)
        self._total.add(delta)

    def annotate(self, chunk: dict[str, Any], index: int, *, is_last: bool = False) -> dict[str, Any]:
        """Add to a chunk of choice `index` that choice's usage so far, if it was asked for, and return the chunk."""
        if self._is_continuous:
            prompt = self._generation.jobs[self._generation.get_prompt_index(index)].prompt_ids
            chunk["usage"] = count_usage(len(prompt), self._tokens[index])
        if is_last and not self.has_usage_chunk:
            chunk["system_fingerprint"] = self._metadata.fingerprint
        return chunk

    def closing(self, kind: str) -> list[Event]:
        """Make the usage chunk, if the stream has one. kind: the value of its field "object"."""
        if not self.has_usage_chunk:
            return []
        usage = sum_usage(self._metadata, self._generation, self._total)
        chunk = {**self._metadata.common_fields(kind), "choices": [], "usage": usage}
        metrics = make_metrics(self._metadata, self._generation, self._total.num_tokens)
        shown = {} if metrics is None else {"metrics": metrics}
        return [Event(None, {**chunk, "system_fingerprint": self._metadata.fingerprint, **shown})]


async def in_slices(items: Sequence[T], convert: Callable[[Sequence[T]], Sequence[R]]) -> list[R]:
    """Convert items slice by slice, and let the event loop serve others between the slices."""
    converted: list[R] = []
    for start in range(0, len(items), SLICE_TOKENS):
        converted += convert(items[start : start + SLICE_TOKENS])
        await asyncio.sleep(0)
    return converted


async def render_prompt_logprobs(
    entries: Sequence[TokenLogprob | None] | None, k: int
) -> list[dict[str, Any] | None] | None:
    """Make the field prompt_logprobs, with the `k` best tokens at each position; None if it was not asked for."""
    return None if entries is None else await in_slices(entries, lambda part: render_prompt_table(part, k))


def now_s() -> int:
    """Return the Unix time in whole seconds."""
    return int(time.time())


def make_random_id() -> str:
    """Make a random part of an id: 16 hexadecimal digits."""
    return secrets.token_hex(8)
