"""Output that has been generated and not been sent: how it is kept small, and limited for all requests together."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import Protocol

import numpy as np

from jaxserve import TextDelta
from server.errors import ApiError, unavailable

MAX_DELTAS = (
    64  # of a choice, before they are merged into one: that of a token takes 263 bytes, a further token in it 40
)
DELTA_BYTES, TOKEN_BYTES, LOGPROB_BYTES = 230, 40, 270  # of memory, as tracemalloc counts them in CPython 3.11
ARRAY_BYTES = 144  # of an array of experts, besides its numbers
TOO_MUCH_UNSENT = "Too much output waits to be read, most of it of this request; please read faster or ask for less."


class Reader(Protocol):
    """A request whose output is read by its client."""

    def discard(self, error: ApiError) -> None:
        """Forget what has not been sent, and end it with an error."""
        ...


class UnsentOutput:
    """Count of the unsent bytes of all requests, by estimate, and their limit.

    total_bytes: of all requests.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.total_bytes = 0
        self._limit_bytes = limit_bytes
        self._by_reader: dict[Reader, int] = {}

    def add(self, reader: Reader, num_bytes: int) -> None:
        """Count bytes of a request. Above the limit the request that has most of them is ended."""
        self._by_reader[reader] = self._by_reader.get(reader, 0) + num_bytes
        self.total_bytes += num_bytes
        if self.total_bytes > self._limit_bytes:
            furthest_behind = max(self._by_reader, key=self._by_reader.__getitem__)
            furthest_behind.discard(unavailable(TOO_MUCH_UNSENT))

    def remove(self, reader: Reader, num_bytes: int) -> None:
        """Forget bytes of a request, which were taken or dropped."""
        self.total_bytes -= num_bytes
        self._by_reader[reader] -= num_bytes
        if not self._by_reader[reader]:
            del self._by_reader[reader]


def estimate_bytes(delta: TextDelta) -> int:
    """Estimate the memory of a delta."""
    num_logprobs = sum(1 + len(entry.top) for entry in delta.logprobs or ())
    num_chars = len(delta.text) + len(delta.reasoning) + sum(len(call.arguments) for call in delta.tool_calls)
    num_bytes = DELTA_BYTES + 2 * num_chars + TOKEN_BYTES * len(delta.token_ids) + LOGPROB_BYTES * num_logprobs
    return num_bytes if delta.routed_experts is None else num_bytes + ARRAY_BYTES + delta.routed_experts.nbytes


def merge_in_order(deltas: Sequence[TextDelta]) -> list[TextDelta]:
    """Merge successive deltas of one choice, as far as their parts keep their order.

    The parts of a delta count in the order reasoning, text, calls, but for arguments of a call that has begun before:
    these come first. So reasoning behind a call, and such arguments behind text, begin another delta.
    """
    runs: list[list[TextDelta]] = []
    last_kind = _CALL + 1
    for delta in deltas:
        kinds = _find_kinds(delta)
        if not runs or (kinds and kinds[0] < last_kind):
            runs.append([])
            last_kind = _REASONING
        runs[-1].append(delta)
        last_kind = kinds[-1] if kinds else last_kind
    return [merge_deltas(run) for run in runs]


_REASONING, _TEXT, _CALL = range(3)


def _find_kinds(delta: TextDelta) -> list[int]:
    """Return the kinds of the parts of a delta, in canonical order."""
    parts = ((_REASONING, delta.reasoning), (_TEXT, delta.text), (_CALL, delta.tool_calls))
    return [kind for kind, part in parts if part]


def merge_deltas(deltas: Sequence[TextDelta]) -> TextDelta:
    """Merge successive deltas of one choice into one."""
    if len(deltas) == 1:
        return deltas[0]
    last = deltas[-1]
    has_logprobs = any(delta.logprobs is not None for delta in deltas)
    content_tokens = tuple(chain.from_iterable(delta.content_tokens or () for delta in deltas))
    experts = [delta.routed_experts for delta in deltas if delta.routed_experts is not None]
    return replace(
        last,
        text="".join(delta.text for delta in deltas),
        token_ids=tuple(chain.from_iterable(delta.token_ids for delta in deltas)),
        logprobs=tuple(chain.from_iterable(delta.logprobs or () for delta in deltas)) if has_logprobs else None,
        reasoning="".join(delta.reasoning for delta in deltas),
        tool_calls=tuple(chain.from_iterable(delta.tool_calls for delta in deltas)),
        num_reasoning_tokens=sum(delta.num_reasoning_tokens for delta in deltas),
        content_tokens=None if last.content_tokens is None else content_tokens,
        routed_experts=np.concatenate(experts) if experts else None,
    )
