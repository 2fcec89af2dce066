"""The engine's numbers: counters, histograms, and one snapshot of them. Names are vLLM's, without the prefix.

Stats belongs to the engine thread, which alone changes it. Times come in as monotonic seconds; nothing here
reads a clock. A request's own times live in its Timeline, kept by whoever keeps the request, so no table here
can outgrow the requests.
"""

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field

from jaxserve.engine.roofline import StepCost
from jaxserve.kvcache.pool import PagePool
from jaxserve.outputs import FinishReason, HistogramSnapshot, StatsSnapshot

COUNTERS = (
    "prefix_cache_queries",  # tokens looked up in the prefix index
    "prefix_cache_hits",  # tokens found there
    "num_preemptions",
    "prompt_tokens",  # of prompts whose prefill has ended: the next two added up
    "prompt_tokens_local_compute",
    "prompt_tokens_local_cache_hit",
    "prompt_tokens_cached",
    "generation_tokens",
    "engine_steps",
    "nonfinite_logits",  # rows that ended because of them
    "grammar_masked_tokens",  # sampled under a grammar's mask
    "step_bytes",  # that steps had to read, as roofline.py counts them; this and the next three stay 0 without it
    "step_flops",
    "step_device_seconds",  # from a step's start on the device until its numbers were home
    "step_roofline_seconds",  # the least they could have been on this machine
)
FINISH_REASONS = ("stop", "length", "abort", "error", "repetition")
REJECT_REASONS = ("max_num_queued_reqs", "max_num_queued_tokens")

TTFT_BUCKETS_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
TOKEN_LATENCY_BUCKETS_S = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
REQUEST_LATENCY_BUCKETS_S = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
STEP_TOKENS_BUCKETS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
NUM_CHOICES_BUCKETS = (1, 2, 5, 10, 20)
NUM_PREEMPTIONS_BUCKETS = (1, 2, 3, 4, 5, 10, 20)
HOST_STEP_BUCKETS_S = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
GRAMMAR_MASKS_BUCKETS_S = (0.00001, 0.00003, 0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


class Histogram:
    """Observations counted by bucket; the last bucket is above every bound."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        self._counts[bisect_left(self._bounds, value)] += times
        self._sum += value * times

    def snapshot(self) -> HistogramSnapshot:
        return HistogramSnapshot(self._bounds, tuple(self._counts), self._sum)


@dataclass(slots=True)
class RequestGroup:
    """The choices of one client's request (n of them): what is counted once, when the last one has ended."""

    num_choices: int = 1
    num_ended: int = 0
    max_generation_tokens: int = 0


@dataclass(slots=True, kw_only=True)
class Timeline:
    """One engine request's times (monotonic seconds) and sizes. Only Stats writes into it."""

    arrival_s: float
    queued_s: float
    prompt_tokens: int
    max_tokens: int | None
    group: RequestGroup
    scheduled_s: float | None = None
    first_token_s: float | None = None
    last_token_s: float | None = None
    cached_tokens: int = 0
    generation_tokens: int = 0
    preemptions: int = 0
    ended: bool = field(default=False)


def log_buckets(largest: int) -> tuple[int, ...]:
    """1, 2, 5, 10, 20, 50 ... as far as largest goes; at least (1,)."""
    bounds, decade = [1], 1
    while decade <= largest:
        bounds += [step * decade for step in (1, 2, 5) if 1 < step * decade <= largest]
        decade *= 10
    return tuple(bounds)


class Stats:
    """Mutable, owned by the engine thread; `snapshot` alone may be called from any thread.

    The life of a request: on_arrival, on_scheduled, on_tokens ..., on_finish; between them on_preempt and
    on_scheduled again. Requests that never reach the engine are counted by on_reject.
    """

    def __init__(self, max_model_len: int) -> None:
        sizes = log_buckets(max_model_len)
        self._counters: dict[str, float] = dict.fromkeys(COUNTERS, 0)
        self._finished: dict[str, int] = dict.fromkeys(FINISH_REASONS, 0)
        self._rejected: dict[str, int] = dict.fromkeys(REJECT_REASONS, 0)
        self._num_generated = 0  # tokens that came home since the last step was counted
        self._histograms = {
            "time_to_first_token_seconds": Histogram(TTFT_BUCKETS_S),
            "inter_token_latency_seconds": Histogram(TOKEN_LATENCY_BUCKETS_S),
            "request_time_per_output_token_seconds": Histogram(TOKEN_LATENCY_BUCKETS_S),
            "e2e_request_latency_seconds": Histogram(REQUEST_LATENCY_BUCKETS_S),
            "request_queue_time_seconds": Histogram(REQUEST_LATENCY_BUCKETS_S),
            "request_inference_time_seconds": Histogram(REQUEST_LATENCY_BUCKETS_S),
            "request_prefill_time_seconds": Histogram(REQUEST_LATENCY_BUCKETS_S),
            "request_decode_time_seconds": Histogram(REQUEST_LATENCY_BUCKETS_S),
            "request_prompt_tokens": Histogram(sizes),
            "request_generation_tokens": Histogram(sizes),
            "request_max_num_generation_tokens": Histogram(sizes),
            "request_params_max_tokens": Histogram(sizes),
            "request_prefill_kv_computed_tokens": Histogram(sizes),
            "iteration_tokens_total": Histogram(STEP_TOKENS_BUCKETS),
            "request_params_n": Histogram(NUM_CHOICES_BUCKETS),
            "request_num_preemptions": Histogram(NUM_PREEMPTIONS_BUCKETS),
            "host_step_seconds": Histogram(HOST_STEP_BUCKETS_S),
            "grammar_masks_seconds": Histogram(GRAMMAR_MASKS_BUCKETS_S),
        }

    def on_arrival(
        self,
        now: float,
        *,
        prompt_tokens: int,
        max_tokens: int | None,
        arrival_s: float | None = None,
        group: RequestGroup | None = None,
    ) -> Timeline:
        """A request joins the queue. arrival_s: when it came to the front end, if that was earlier."""
        return Timeline(
            arrival_s=now if arrival_s is None else arrival_s,
            queued_s=now,
            prompt_tokens=prompt_tokens,
            max_tokens=max_tokens,
            group=group or RequestGroup(),
        )

    def on_prefix(self, queries: int, hits: int) -> None:
        """The prefix index was asked for `queries` tokens and found `hits` of them."""
        self._counters["prefix_cache_queries"] += queries
        self._counters["prefix_cache_hits"] += hits

    def on_scheduled(self, timeline: Timeline, now: float, *, cached_tokens: int = 0) -> None:
        """A request starts to run, or runs again after a preemption: only the first time counts."""
        if timeline.scheduled_s is None:
            timeline.scheduled_s = now
            timeline.cached_tokens = cached_tokens
            self._histograms["request_queue_time_seconds"].observe(now - timeline.queued_s)

    def on_preempt(self, timeline: Timeline) -> None:
        self._counters["num_preemptions"] += 1
        timeline.preemptions += 1

    def on_tokens(self, timeline: Timeline, now: float, count: int = 1) -> None:
        """`count` new tokens of one request are home. Tokens that come together share the time since the last."""
        if count < 1:
            return
        self._on_generated(count)
        timeline.generation_tokens += count
        previous = timeline.last_token_s
        timeline.last_token_s = now
        if previous is None:
            self._on_first_token(timeline, now)
            previous, count = now, count - 1
        if count:
            self._histograms["inter_token_latency_seconds"].observe((now - previous) / count, count)

    def on_decode(self, timelines: Iterable[Timeline], now: float) -> None:
        """One new token for each of these requests. Most of them had their last one together, too."""
        together: dict[float | None, int] = {}
        for timeline in timelines:
            previous = timeline.last_token_s
            together[previous] = together.get(previous, 0) + 1
            if previous is None:
                self._on_first_token(timeline, now)
            timeline.last_token_s = now
            timeline.generation_tokens += 1
        latency = self._histograms["inter_token_latency_seconds"]
        for previous, count in together.items():
            self._on_generated(count)
            if previous is not None:
                latency.observe(now - previous, count)

    def on_finish(self, timeline: Timeline, reason: FinishReason | str) -> None:
        """A request has ended, for whatever reason; a second call changes nothing.

        A time whose beginning or end never came, as of a request aborted in the queue, is not observed.
        """
        if timeline.ended:
            return
        timeline.ended = True
        self._finished[str(reason)] += 1
        self._observe_sizes(timeline)
        self._observe_times(timeline)
        self._observe_group(timeline.group, timeline.generation_tokens)

    def on_reject(self, reason: str) -> None:
        """A request was refused because of a queue limit; reason is the limit's name (REJECT_REASONS)."""
        self._rejected[reason] += 1

    def on_step(self, num_prompt_tokens: int, host_s: float) -> None:
        """Count one engine step, after the tokens that it brought have been counted.

        num_prompt_tokens   prompt tokens it computed; with the generated ones they are the step's tokens (as in vLLM)
        host_s              seconds of the host's own work
        """
        self._counters["engine_steps"] += 1
        self._histograms["iteration_tokens_total"].observe(num_prompt_tokens + self._num_generated)
        self._num_generated = 0
        self._histograms["host_step_seconds"].observe(host_s)

    def on_masks(self, num_rows: int, seconds: float) -> None:
        """The masks of a step, so many of them by grammars, took the host so long; the device computes meanwhile."""
        self._counters["grammar_masked_tokens"] += num_rows
        self._histograms["grammar_masks_seconds"].observe(seconds)

    def on_step_cost(self, cost: StepCost, device_s: float) -> None:
        """What a step had to move and compute, and how long the device was at it."""
        counters = self._counters
        counters["step_bytes"] += cost.num_bytes
        counters["step_flops"] += cost.flops
        counters["step_device_seconds"] += device_s
        counters["step_roofline_seconds"] += cost.roofline_s

    def on_nonfinite(self, rows: int = 1) -> None:
        self._counters["nonfinite_logits"] += rows

    def snapshot(
        self, *, num_running: int, num_waiting: int, num_preempted: int = 0, pool: PagePool | None = None
    ) -> StatsSnapshot:
        """All numbers now, as a fresh value. num_preempted are those of the waiting that ran before.

        Safe from any thread: no key is ever added, so copying a dict or a list of plain numbers is one
        operation under the interpreter's lock, and nobody ever sees a table half changed. Two tables may be
        one event apart, which a scrape every few seconds cannot tell from having come a moment earlier.
        Pages: free + active + cached = total.
        """
        total, cached, active = (pool.num_usable, pool.num_cached, pool.num_active) if pool else (0, 0, 0)
        return StatsSnapshot(
            num_requests_running=num_running,
            num_requests_waiting=num_waiting,
            num_requests_preempted=num_preempted,
            pages_total=total,
            pages_free=max(0, total - cached - active),
            pages_active=active,
            pages_cached=cached,
            counters=self._counters.copy(),
            finished=self._finished.copy(),
            rejected=self._rejected.copy(),
            histograms={name: histogram.snapshot() for name, histogram in self._histograms.items()},
        )

    def _on_generated(self, count: int) -> None:
        self._counters["generation_tokens"] += count
        self._num_generated += count

    def _on_first_token(self, timeline: Timeline, now: float) -> None:
        """The prefill has ended: its prompt counts now, once, however often it was computed."""
        timeline.first_token_s = now
        cached = timeline.cached_tokens
        self._counters["prompt_tokens"] += timeline.prompt_tokens
        self._counters["prompt_tokens_local_compute"] += timeline.prompt_tokens - cached
        self._counters["prompt_tokens_local_cache_hit"] += cached
        self._counters["prompt_tokens_cached"] += cached
        self._histograms["time_to_first_token_seconds"].observe(now - timeline.arrival_s)
        self._histograms["request_prefill_kv_computed_tokens"].observe(timeline.prompt_tokens - cached)

    def _observe_sizes(self, timeline: Timeline) -> None:
        self._histograms["request_prompt_tokens"].observe(timeline.prompt_tokens)
        self._histograms["request_generation_tokens"].observe(timeline.generation_tokens)
        self._histograms["request_num_preemptions"].observe(timeline.preemptions)
        if timeline.max_tokens is not None:
            self._histograms["request_params_max_tokens"].observe(timeline.max_tokens)

    def _observe_times(self, timeline: Timeline) -> None:
        """Prefill is scheduled → first token, decode first → last, inference scheduled → last, e2e arrival → last."""
        first, last, scheduled = timeline.first_token_s, timeline.last_token_s, timeline.scheduled_s
        if first is None or last is None or scheduled is None:
            return
        self._histograms["e2e_request_latency_seconds"].observe(last - timeline.arrival_s)
        self._histograms["request_inference_time_seconds"].observe(last - scheduled)
        self._histograms["request_prefill_time_seconds"].observe(first - scheduled)
        self._histograms["request_decode_time_seconds"].observe(last - first)
        if timeline.generation_tokens > 1:
            per_token = (last - first) / (timeline.generation_tokens - 1)
            self._histograms["request_time_per_output_token_seconds"].observe(per_token)

    def _observe_group(self, group: RequestGroup, generation_tokens: int) -> None:
        group.num_ended += 1
        group.max_generation_tokens = max(group.max_generation_tokens, generation_tokens)
        if group.num_ended == group.num_choices:
            self._histograms["request_params_n"].observe(group.num_choices)
            self._histograms["request_max_num_generation_tokens"].observe(group.max_generation_tokens)
