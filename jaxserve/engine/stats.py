"""The metrics of the engine: counters, histograms, and snapshots of them. Names are vLLM's, without the prefix.

Stats belongs to the engine thread, which alone changes it. Times are passed in as monotonic seconds; nothing here
reads a clock. The times of a request are in its Timeline, which is kept with the request, so nothing here grows with
the number of requests.
"""

from bisect import bisect_left
from dataclasses import dataclass, field

from jaxserve.cache.manager import CacheManager
from jaxserve.engine.roofline import StepCost
from jaxserve.engine_snapshot import CacheGroupStats, HistogramSnapshot, StatsSnapshot
from jaxserve.outputs import FinishReason

COUNTERS = (
    "prefix_cache_queries",  # tokens looked up in the prefix index
    "prefix_cache_hits",  # tokens found there
    "num_preemptions",
    "snapshots_taken",  # of recurrent states; this and the next four are counted by the cache manager
    "snapshots_restored",
    "snapshots_evicted",
    "snapshots_offloaded",
    "snapshots_reloaded",
    "prompt_tokens",  # of prompts whose prefill has ended; the sum of the next two
    "prompt_tokens_local_compute",
    "prompt_tokens_local_cache_hit",
    "prompt_tokens_cached",
    "generation_tokens",
    "engine_steps",
    "engine_rebuilds",  # of the device state, after a step that raised
    "request_faults",  # requests that ended because their own work on the host raised
    "nonfinite_logits",  # rows whose logits were not finite
    "grammar_masked_tokens",  # sampled under a grammar's mask
    "step_bytes",  # read by steps, as roofline.py counts them; this and the next three stay 0 without a roofline
    "step_flops",
    "step_device_seconds",  # from a step's start on the device until its results were on the host
    "step_roofline_seconds",  # the least that step_device_seconds could have been on this machine
)
FINISH_REASONS = ("stop", "length", "abort", "error", "repetition")

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
    """A histogram with upper bounds (Prometheus' `le`); one more bucket counts what is above every bound."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count a value, `times` times."""
        self._counts[bisect_left(self._bounds, value)] += times
        self._sum += value * times

    def snapshot(self) -> HistogramSnapshot:
        """Return the current counts and sum."""
        return HistogramSnapshot(self._bounds, tuple(self._counts), self._sum)


@dataclass(slots=True)
class RequestGroup:
    """The n choices of one client request, whose metrics are observed once, when the last choice has ended.

    num_choices             The number of choices.
    num_ended               The number of choices that have ended.
    max_generation_tokens   The most tokens that one of the ended choices has.
    """

    num_choices: int = 1
    num_ended: int = 0
    max_generation_tokens: int = 0


@dataclass(slots=True, kw_only=True)
class Timeline:
    """The times (monotonic seconds) and sizes of one output. Only Stats changes it.

    arrival_s           When the request reached the front end.
    queued_s            When it was added to the engine.
    prompt_tokens       The length of its prompt.
    max_tokens          The max_tokens that it asked for.
    group               The choices that it belongs to.
    scheduled_s         When it first began to run; None before that, as for the next two.
    first_token_s       When its first token was on the host.
    last_token_s        When its newest token was on the host.
    cached_tokens       The prompt tokens that the prefix cache had when it first began to run.
    generation_tokens   The tokens generated so far.
    preemptions         How often it was preempted.
    ended               It has ended and been counted.
    """

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
    """Return the bounds 1, 2, 5, 10, 20, 50 ... up to `largest`; at least (1,)."""
    bounds, decade = [1], 1
    while decade <= largest:
        bounds += [step * decade for step in (1, 2, 5) if 1 < step * decade <= largest]
        decade *= 10
    return tuple(bounds)


class Stats:
    """Counters and histograms, owned by the engine thread; only `snapshot` may be called from other threads.

    The calls for one output: on_arrival, on_scheduled, on_tokens ... or on_pooled, on_finish; between them on_preempt
    and on_scheduled again. The tokens of a step are in the counters and histograms after its on_step.

    max_model_len   The largest number of tokens of a request, for the bounds of histograms of sizes.
    """

    def __init__(self, max_model_len: int) -> None:
        sizes = log_buckets(max_model_len)
        self._counters: dict[str, float] = dict.fromkeys(COUNTERS, 0)
        self._finished: dict[str, int] = dict.fromkeys(FINISH_REASONS, 0)
        self._num_generated = 0  # tokens since the last on_step
        self._num_by_latency: dict[float, int] = {}  # the same by their inter-token latency, without first tokens
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
        """Return the timeline of a new output.

        arrival_s   When its request reached the front end, if that was earlier.
        """
        return Timeline(
            arrival_s=now if arrival_s is None else arrival_s,
            queued_s=now,
            prompt_tokens=prompt_tokens,
            max_tokens=max_tokens,
            group=group or RequestGroup(),
        )

    def on_prefix(self, queries: int, hits: int) -> None:
        """Count `queries` tokens looked up in the prefix index, of which `hits` were found."""
        self._counters["prefix_cache_queries"] += queries
        self._counters["prefix_cache_hits"] += hits

    def on_scheduled(self, timeline: Timeline, now: float, *, cached_tokens: int = 0) -> None:
        """Record that an output begins to run; after a preemption it changes nothing."""
        if timeline.scheduled_s is None:
            timeline.scheduled_s = now
            timeline.cached_tokens = cached_tokens
            self._histograms["request_queue_time_seconds"].observe(now - timeline.queued_s)

    def on_preempt(self, timeline: Timeline) -> None:
        """Count a preemption."""
        self._counters["num_preemptions"] += 1
        timeline.preemptions += 1

    def on_tokens(self, timeline: Timeline, now: float, count: int = 1) -> None:
        """Count new tokens of one output. Tokens that come together share the time since the token before them."""
        self._num_generated += count
        timeline.generation_tokens += count
        previous = timeline.last_token_s
        timeline.last_token_s = now
        if previous is None:
            self._on_first_token(timeline, now)
            previous, count = now, count - 1
        if count:  # most rows of a step have the same latency, and are observed together
            latency = (now - previous) / count
            self._num_by_latency[latency] = self._num_by_latency.get(latency, 0) + count

    def on_pooled(self, timeline: Timeline, now: float) -> None:
        """Record that what is pooled of a text is there: it counts as a first token and as the last, as in vLLM."""
        timeline.last_token_s = now
        self._on_first_token(timeline, now)

    def on_finish(self, timeline: Timeline, reason: FinishReason | str) -> None:
        """Record the end of an output; a second call changes nothing.

        A time whose start or end is missing, as of an output aborted in the queue, is not observed.
        """
        if timeline.ended:
            return
        timeline.ended = True
        self._finished[str(reason)] += 1
        self._observe_sizes(timeline)
        self._observe_times(timeline)
        self._observe_group(timeline.group, timeline.generation_tokens)

    def on_step(self, num_prompt_tokens: int, host_s: float) -> None:
        """Count one engine step, after its tokens have been counted.

        num_prompt_tokens   The prompt tokens that it computed; with the generated ones they are the tokens of the step,
                            as in vLLM.
        host_s              The host's own time for it, in seconds.
        """
        self._counters["engine_steps"] += 1
        self._counters["generation_tokens"] += self._num_generated
        self._histograms["iteration_tokens_total"].observe(num_prompt_tokens + self._num_generated)
        self._num_generated = 0
        for latency, count in self._num_by_latency.items():
            self._histograms["inter_token_latency_seconds"].observe(latency, count)
        self._num_by_latency.clear()
        self._histograms["host_step_seconds"].observe(host_s)

    def on_masks(self, num_rows: int, seconds: float) -> None:
        """Count the masks of a step: num_rows of them from grammars, made in `seconds` while the device computed."""
        self._counters["grammar_masked_tokens"] += num_rows
        self._histograms["grammar_masks_seconds"].observe(seconds)

    def on_step_cost(self, cost: StepCost, device_s: float) -> None:
        """Count what a step had to read and compute, and the seconds that the device took for it."""
        counters = self._counters
        counters["step_bytes"] += cost.num_bytes
        counters["step_flops"] += cost.flops
        counters["step_device_seconds"] += device_s
        counters["step_roofline_seconds"] += cost.roofline_s

    def on_rebuild(self) -> None:
        """Count a rebuild of the device state."""
        self._counters["engine_rebuilds"] += 1

    def on_request_fault(self) -> None:
        """Count a request that ended because its own work on the host raised."""
        self._counters["request_faults"] += 1

    def on_nonfinite(self, rows: int = 1) -> None:
        """Count rows whose logits were not finite."""
        self._counters["nonfinite_logits"] += rows

    def snapshot(
        self, *, num_running: int, num_waiting: int, num_preempted: int = 0, cache: CacheManager | None = None
    ) -> StatsSnapshot:
        """Return a copy of all metrics.

        num_preempted is the number of waiting requests that ran before.

        Safe in any thread: no key is ever added, so copying a dict or a list of numbers is one operation under the
        interpreter's lock, and no copy is half changed. Two of the dicts may be one event apart, which does not matter
        to a scrape every few seconds.
        """
        return StatsSnapshot(
            num_requests_running=num_running,
            num_requests_waiting=num_waiting,
            num_requests_preempted=num_preempted,
            cache_groups=count_pages(cache) if cache else (),
            counters=self._counters | (_count_snapshots(cache) if cache else {}),
            finished=self._finished.copy(),
            rejected={},
            histograms={name: histogram.snapshot() for name, histogram in self._histograms.items()},
        )

    def _on_first_token(self, timeline: Timeline, now: float) -> None:
        """Count the prompt, whose prefill has ended: once, however often it was computed."""
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


def _count_snapshots(cache: CacheManager) -> dict[str, float]:
    counts = cache.snapshot_counts
    return {
        "snapshots_taken": counts.num_taken,
        "snapshots_restored": counts.num_restored,
        "snapshots_evicted": counts.num_evicted,
        "snapshots_offloaded": counts.num_offloaded,
        "snapshots_reloaded": counts.num_reloaded,
    }


def count_pages(cache: CacheManager) -> tuple[CacheGroupStats, ...]:
    """Return the numbers of pages of each cache group."""
    groups = []
    for size, pool, served in zip(cache.sizes, cache.pools, cache.num_served_tokens, strict=True):
        total, cached, active = pool.num_usable, pool.num_cached, pool.num_active
        groups.append(CacheGroupStats(size.name, total, max(0, total - cached - active), active, cached, served))
    return tuple(groups)
