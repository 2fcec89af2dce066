"""What an engine tells about itself: its metrics, and its state between two steps."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias


@dataclass(frozen=True, slots=True)
class HistogramSnapshot:
    """A histogram's observations so far.

    bounds   Upper bounds of the buckets, ascending.
    counts   Observations in (bounds[i-1], bounds[i]]; one more entry than bounds, the last for those above all.
    sum      The sum of all observations.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum: float

    def plus(self, *others: "HistogramSnapshot") -> "HistogramSnapshot":
        """Return the observations of several histograms with the same bounds together."""
        histograms = (self, *others)
        counts = tuple(sum(column) for column in zip(*(one.counts for one in histograms), strict=True))
        return HistogramSnapshot(self.bounds, counts, sum(one.sum for one in histograms))


@dataclass(frozen=True, slots=True)
class CacheGroupStats:
    """The pages of one cache group, which serves layers of one kind.

    name            The kind: "full attention", or "window" and its size.
    pages_total     Pages that can be used; free, active (in use) and cached ones add up to it.
    pages_free      Pages without contents.
    pages_active    Pages in use.
    pages_cached    Pages that no request uses, but the prefix cache can find.
    tokens_served   Tokens that it could serve of the prefixes of all requests so far; a hit needs every group.
    """

    name: str
    pages_total: int
    pages_free: int
    pages_active: int
    pages_cached: int
    tokens_served: int = 0

    def plus(self, *others: "CacheGroupStats") -> "CacheGroupStats":
        """Return the numbers of this group and of the same one of other engines, added up."""
        groups = (self, *others)
        return CacheGroupStats(
            self.name,
            sum(group.pages_total for group in groups),
            sum(group.pages_free for group in groups),
            sum(group.pages_active for group in groups),
            sum(group.pages_cached for group in groups),
            sum(group.tokens_served for group in groups),
        )


InvariantAnswers: TypeAlias = Mapping[str, Literal[True] | str]
"""By the name of an invariant, as "I1": it holds, or a sentence says what is wrong."""


@dataclass(frozen=True, slots=True)
class InspectedRequest:
    """A live request of the engine: one choice, or a whole beam search.

    request_id   Its number in the engine.
    state        "running", "waiting", or "preempted": waiting, and has run before.
    num_pages    The pages that it holds, in all cache groups together.
    pages        For each cache group these pages; None where too many would be listed.
    """

    request_id: int
    state: str
    num_pages: int
    pages: tuple[tuple[int, ...], ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectedEngine:
    """The state of an engine between two steps.

    invariants      What holds of its bookkeeping.
    cache_groups    The pages of each cache group.
    requests        The live requests, running ones first; of very many not all.
    num_requests    How many there are.
    num_rows        The rows of the batch.
    num_free_rows   Those without a request.
    is_paused       No step is planned.
    """

    invariants: InvariantAnswers
    cache_groups: tuple[CacheGroupStats, ...]
    requests: tuple[InspectedRequest, ...]
    num_requests: int
    num_rows: int
    num_free_rows: int
    is_paused: bool


@dataclass(frozen=True, slots=True)
class StatsSnapshot:
    """The engine's metrics at one moment. Names are those of vLLM's metrics without their prefix.

    num_requests_running     Sequences with a row in the batch.
    num_requests_waiting     Sequences that wait for their first row.
    num_requests_preempted   Sequences that wait because they were preempted.
    cache_groups             The pages of the key-value cache, by group of layers.
    counters                 Counters that only grow; engine/stats.py lists the keys.
    finished                 The number of requests that ended, by finish reason.
    rejected                 The number of requests that were refused, by the limit that refused them.
    histograms               Distributions of times and sizes.
    grammar_cache_entries    Compiled grammars that are kept, in the whole process.
    running_adapters         The names of the adapters of running sequences, in order.
    waiting_adapters         Those of waiting sequences.
    """

    num_requests_running: int
    num_requests_waiting: int
    num_requests_preempted: int
    cache_groups: tuple[CacheGroupStats, ...]
    counters: Mapping[str, float]
    finished: Mapping[str, int]
    rejected: Mapping[str, int]
    histograms: Mapping[str, HistogramSnapshot]
    grammar_cache_entries: int = 0
    running_adapters: tuple[str, ...] = ()
    waiting_adapters: tuple[str, ...] = ()

    @property
    def pages_active(self) -> int:
        """The number of pages in use, of all cache groups together."""
        return sum(group.pages_active for group in self.cache_groups)

    @property
    def kv_cache_usage(self) -> float:
        """The share of pages in use, in the fullest cache group; 1 is full."""
        return max((group.pages_active / group.pages_total for group in self.cache_groups), default=0.0)
