"""Numbers mean what the metrics contract says they mean. Times are given, so nothing waits."""

import pytest

from jaxserve.cache.groups import GroupSize
from jaxserve.cache.manager import CacheManager
from jaxserve.engine.stats import COUNTERS, FINISH_REASONS, Histogram, RequestGroup, Stats, log_buckets
from jaxserve.engine_snapshot import CacheGroupStats
from jaxserve.outputs import FinishReason
from tests.engine.world import World, prompt


def numbers(stats: Stats):
    return stats.snapshot(num_running=0, num_waiting=0)


def sums(stats: Stats) -> dict[str, tuple[int, float]]:
    """Every histogram that saw something: how many observations, and their sum."""
    seen = numbers(stats).histograms
    return {name: (sum(h.counts), pytest.approx(h.sum)) for name, h in seen.items() if sum(h.counts)}


def answered(stats: Stats, *, tokens=3, **arrival):
    """Arrives at the door at 9, is queued at 10, scheduled at 12, answers at 15, 16, 17 ..."""
    wishes = {"prompt_tokens": 40, "max_tokens": 8, "arrival_s": 9.0} | arrival
    timeline = stats.on_arrival(10.0, **wishes)
    stats.on_scheduled(timeline, 12.0, cached_tokens=16)
    for i in range(tokens):
        stats.on_tokens(timeline, 15.0 + i)
        stats.on_step(0, host_s=0.0)
    return timeline


def test_every_series_exists_from_the_start_with_value_zero():
    snapshot = numbers(Stats(max_model_len=100))
    assert snapshot.counters == dict.fromkeys(COUNTERS, 0)
    assert snapshot.finished == dict.fromkeys(FINISH_REASONS, 0)
    assert all(sum(h.counts) == h.sum == 0 for h in snapshot.histograms.values())


def test_every_finish_reason_of_the_engine_is_counted():
    assert {str(reason) for reason in FinishReason} - {"tool_calls"} == set(FINISH_REASONS)


def test_a_request_is_timed_from_door_to_last_token():
    stats = Stats(max_model_len=100)
    stats.on_finish(answered(stats), FinishReason.STOP)
    assert sums(stats) == {
        "time_to_first_token_seconds": (1, 6),
        "inter_token_latency_seconds": (2, 2),
        "request_time_per_output_token_seconds": (1, 1),
        "e2e_request_latency_seconds": (1, 8),
        "request_queue_time_seconds": (1, 2),
        "request_prefill_time_seconds": (1, 3),
        "request_decode_time_seconds": (1, 2),
        "request_inference_time_seconds": (1, 5),
        "request_prompt_tokens": (1, 40),
        "request_generation_tokens": (1, 3),
        "request_max_num_generation_tokens": (1, 3),
        "request_params_max_tokens": (1, 8),
        "request_params_n": (1, 1),
        "request_num_preemptions": (1, 0),
        "request_prefill_kv_computed_tokens": (1, 24),
        "iteration_tokens_total": (3, 3),
        "host_step_seconds": (3, 0),
    }


def test_a_prompt_is_counted_when_its_first_token_comes_by_where_it_came_from():
    stats = Stats(max_model_len=100)
    answered(stats, tokens=0)
    assert numbers(stats).counters["prompt_tokens"] == 0
    answered(stats, tokens=2)
    counters = numbers(stats).counters
    assert counters["prompt_tokens"] == 40
    assert (counters["prompt_tokens_local_compute"], counters["prompt_tokens_local_cache_hit"]) == (24, 16)
    assert (counters["prompt_tokens_cached"], counters["generation_tokens"]) == (16, 2)


def test_a_preempted_request_is_queued_once_and_its_prompt_counted_once():
    stats = Stats(max_model_len=100)
    timeline = answered(stats, tokens=1)
    stats.on_preempt(timeline)
    stats.on_scheduled(timeline, 20.0, cached_tokens=32)
    stats.on_tokens(timeline, 21.0)
    stats.on_finish(timeline, FinishReason.LENGTH)
    seen, counters = sums(stats), numbers(stats).counters
    assert (seen["request_queue_time_seconds"], seen["request_num_preemptions"]) == ((1, 2), (1, 1))
    assert (counters["num_preemptions"], counters["prompt_tokens_cached"]) == (1, 16)


def test_a_pooled_text_is_counted_as_a_request_whose_first_token_is_its_last():
    stats = Stats(max_model_len=100)
    timeline = answered(stats, tokens=0, max_tokens=None)
    stats.on_pooled(timeline, 15.0)
    stats.on_finish(timeline, FinishReason.STOP)
    assert sums(stats) == {
        "time_to_first_token_seconds": (1, 6),
        "e2e_request_latency_seconds": (1, 6),
        "request_queue_time_seconds": (1, 2),
        "request_prefill_time_seconds": (1, 3),
        "request_decode_time_seconds": (1, 0),
        "request_inference_time_seconds": (1, 3),
        "request_prompt_tokens": (1, 40),
        "request_generation_tokens": (1, 0),
        "request_max_num_generation_tokens": (1, 0),
        "request_params_n": (1, 1),
        "request_num_preemptions": (1, 0),
        "request_prefill_kv_computed_tokens": (1, 24),
    }
    assert numbers(stats).counters["prompt_tokens"] == 40 and numbers(stats).finished["stop"] == 1


def test_an_abort_in_the_queue_is_counted_but_not_timed():
    stats = Stats(max_model_len=100)
    timeline = stats.on_arrival(10.0, prompt_tokens=40, max_tokens=None)
    stats.on_finish(timeline, FinishReason.ABORT)
    assert numbers(stats).finished["abort"] == 1
    assert not {name for name in sums(stats) if name.endswith("_seconds") or name == "request_params_max_tokens"}


def test_a_request_ends_once():
    stats = Stats(max_model_len=100)
    timeline = answered(stats)
    stats.on_finish(timeline, FinishReason.STOP)
    stats.on_finish(timeline, FinishReason.ABORT)
    assert sum(numbers(stats).finished.values()) == 1


def test_tokens_that_come_together_share_the_time_since_the_last():
    stats = Stats(max_model_len=100)
    timeline = answered(stats, tokens=1)
    stats.on_tokens(timeline, 16.0, count=4)
    stats.on_step(0, host_s=0.0)
    latency = numbers(stats).histograms["inter_token_latency_seconds"]
    assert (sum(latency.counts), latency.sum) == (4, 1.0)
    assert numbers(stats).counters["generation_tokens"] == 5


def test_time_zero_is_a_time_like_any_other():
    stats = Stats(max_model_len=100)
    timeline = stats.on_arrival(0.0, prompt_tokens=1, max_tokens=2)
    for now in (0.0, 2.0):
        stats.on_scheduled(timeline, 0.0)
        stats.on_tokens(timeline, now)
    stats.on_step(0, host_s=0.0)
    assert sums(stats)["inter_token_latency_seconds"] == (1, 2)


def test_choices_of_one_request_are_one_group():
    stats, group = Stats(max_model_len=100), RequestGroup(num_choices=2)
    for tokens in (5, 2):
        stats.on_finish(answered(stats, tokens=tokens, group=group), FinishReason.STOP)
    seen = sums(stats)
    assert seen["request_params_n"] == (1, 2)
    assert seen["request_max_num_generation_tokens"] == (1, 5)
    assert seen["request_generation_tokens"] == (2, 7)


def test_steps_prefixes_and_sick_rows_are_counted():
    stats = Stats(max_model_len=100)
    stats.on_step(num_prompt_tokens=300, host_s=0.003)
    stats.on_prefix(queries=64, hits=48)
    stats.on_nonfinite()
    snapshot = numbers(stats)
    assert {name: value for name, value in snapshot.counters.items() if value} == {
        "engine_steps": 1,
        "prefix_cache_queries": 64,
        "prefix_cache_hits": 48,
        "nonfinite_logits": 1,
    }
    assert sums(stats) == {"iteration_tokens_total": (1, 300), "host_step_seconds": (1, 0.003)}


def test_a_step_counts_the_prompt_tokens_it_computed_and_the_tokens_it_generated():
    stats = Stats(max_model_len=100)
    first, second = answered(stats, tokens=0), answered(stats, tokens=0)
    stats.on_tokens(first, now=8.0)
    stats.on_step(num_prompt_tokens=7, host_s=0.0)
    for timeline in (first, second):
        stats.on_tokens(timeline, now=9.0)
    stats.on_step(num_prompt_tokens=0, host_s=0.0)
    seen, counters = sums(stats)["iteration_tokens_total"], numbers(stats).counters
    assert seen == (2, 7 + 1 + 2)
    assert seen[1] == 7 + counters["generation_tokens"]


def test_an_observation_falls_into_the_bucket_whose_bound_it_does_not_exceed():
    histogram = Histogram((1, 2, 5))
    for value in (0, 1, 1.5, 2, 5, 6):
        histogram.observe(value)
    assert histogram.snapshot().counts == (2, 2, 1, 1)


@pytest.mark.parametrize(
    ("largest", "bounds"),
    [(1, (1,)), (4, (1, 2)), (10, (1, 2, 5, 10)), (99, (1, 2, 5, 10, 20, 50)), (200, (1, 2, 5, 10, 20, 50, 100, 200))],
)
def test_sizes_are_counted_in_ones_twos_and_fives(largest, bounds):
    assert log_buckets(largest) == bounds


def test_pages_are_free_active_or_cached_and_add_up():
    cache = CacheManager([GroupSize(num_pages=11), GroupSize(num_pages=5, window=4, name="window 4")], page_size=4)
    pages = cache.pools[0].allocate(4)
    cache.pools[0].mark_cached(pages[0])
    cache.pools[0].decref(pages[:2])
    cache.pools[1].allocate(3)
    snapshot = Stats(max_model_len=100).snapshot(num_running=2, num_waiting=3, num_preempted=1, cache=cache)
    assert snapshot.cache_groups == (
        CacheGroupStats("full attention", 10, 7, 2, 1),
        CacheGroupStats("window 4", 4, 1, 3, 0),
    )
    assert (snapshot.pages_active, snapshot.kv_cache_usage) == (5, 0.75)
    assert (snapshot.num_requests_running, snapshot.num_requests_waiting, snapshot.num_requests_preempted) == (2, 3, 1)


def test_a_snapshot_does_not_change_any_more():
    stats = Stats(max_model_len=100)
    before = numbers(stats)
    stats.on_step(5, 0.1)
    assert before.counters["engine_steps"] == sum(before.histograms["iteration_tokens_total"].counts) == 0


def test_a_timed_request_tells_its_times_so_far_and_others_do_not():
    world = World(max_num_seqs=1)
    plain, first, second = (world.add(prompt(9), is_timed=traced) for traced in (False, True, True))
    world.run()
    times = {key: [output.times for output in outputs] for key, outputs in world.outputs.items()}
    assert set(times[plain.request_id]) == {None}
    for request in (first, second):
        own = times[request.request_id]
        assert len({(each.queue_s, each.prefill_s) for each in own}) == 1
        assert own[0].decode_s == 0 and [each.decode_s for each in own] == sorted({each.decode_s for each in own})
    histograms = world.stats.snapshot(num_running=0, num_waiting=0).histograms
    phases = ("queue", "prefill", "decode")
    queued, prefilled, decoded = (histograms[f"request_{phase}_time_seconds"].sum for phase in phases)
    assert 0 < times[second.request_id][-1].decode_s < decoded
    assert 0 < times[first.request_id][0].queue_s < times[second.request_id][0].queue_s < queued
    assert 0 < times[second.request_id][0].prefill_s < prefilled


def test_a_timed_request_that_is_preempted_keeps_its_first_times():
    world = World(num_pages=9, max_num_seqs=4, prefix=False)
    requests = [world.add(prompt(8 + index), is_timed=True, max_tokens=12) for index in range(3)]
    world.run()
    assert world.stats.snapshot(num_running=0, num_waiting=0).counters["num_preemptions"]
    for request in requests:
        times = [output.times for output in world.outputs[request.request_id]]
        assert len({(each.queue_s, each.prefill_s) for each in times}) == 1
