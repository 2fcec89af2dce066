"""Pages are made from what there is; what does not fit is said with numbers and the flag that helps."""

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxserve.cache.groups import num_pages_for
from jaxserve.cache.sizing import GroupNeeds, choose_cache_size
from jaxserve.config import GIB, MIB
from jaxserve.errors import BadConfig, OutOfMemory
from jaxserve.parallel.placement import MemoryFacts

LAPTOP = MemoryFacts(platform="cpu", total_bytes=24 * GIB, free_bytes=20 * GIB)
GPU = MemoryFacts(platform="gpu", total_bytes=100 * GIB, free_bytes=80 * GIB, scratch_bytes=2 * GIB)


def choose(memory: MemoryFacts = LAPTOP, **wishes):
    facts = {"groups": [GroupNeeds(page_bytes=MIB)], "page_size": 16, "model_max_len": 1024}
    return choose_cache_size(**{"memory": memory, "num_rows": 32, "step_tokens": 256} | facts | wishes)


def test_tokens_round_up_to_pages():
    assert [num_pages_for(n, 16) for n in (0, 1, 16, 17)] == [0, 1, 1, 2]


def test_a_cpu_gives_two_percent_of_its_memory():
    assert choose().total_bytes == pytest.approx(0.02 * 24 * GIB, abs=MIB)


def test_a_cpu_gives_more_when_one_longest_request_needs_more():
    size = choose(model_max_len=16_000)
    assert (size.num_pages, size.max_model_len) == (1001, 16_000)


def test_a_cpu_never_gives_more_than_four_gib():
    size = choose(MemoryFacts(platform="cpu", total_bytes=1000 * GIB, free_bytes=900 * GIB))
    assert size.total_bytes == 4 * GIB
    assert "at most 4.0 GiB" in size.reason


def test_a_cpu_never_gives_more_than_a_quarter_of_what_is_available():
    size = choose(MemoryFacts(platform="cpu", total_bytes=24 * GIB, free_bytes=400 * MIB))
    assert size.num_pages == 100
    assert "a quarter of 400.0 MiB" in size.reason


def test_a_device_gives_its_share_less_what_is_used_and_the_scratch():
    assert choose(GPU, gpu_memory_utilization=0.9).total_bytes == (90 - 20 - 2) * GIB


def test_a_size_in_bytes_wins_over_the_share():
    assert choose(GPU, kv_cache_memory_bytes=100 * MIB + 5).num_pages == 100


def test_a_number_of_pages_counts_page_zero():
    size = choose(num_gpu_blocks_override=65)
    assert (size.num_pages, size.max_model_len) == (65, 1024)


def test_two_sizes_at_once_contradict_each_other():
    with pytest.raises(BadConfig, match="give one"):
        choose(num_gpu_blocks_override=65, kv_cache_memory_bytes=GIB)


def test_a_longest_request_that_does_not_fit_is_refused_with_the_length_that_does():
    with pytest.raises(OutOfMemory, match="max_model_len=1024 tokens needs 64 pages") as refusal:
        choose(num_gpu_blocks_override=64)
    largest = int(re.search(r"--max-model-len (\d+)", str(refusal.value)).group(1))
    assert choose(num_gpu_blocks_override=64, max_model_len=largest).max_model_len == largest == 1008
    with pytest.raises(OutOfMemory):
        choose(num_gpu_blocks_override=64, max_model_len=largest + 1)


def test_minus_one_takes_what_fits_and_no_more_than_the_model_knows():
    assert choose(num_gpu_blocks_override=64, max_model_len=-1).max_model_len == 1008
    assert choose(num_gpu_blocks_override=1000, max_model_len=-1).max_model_len == 1024


def test_a_default_starts_with_as_long_requests_as_fit_if_they_are_of_use():
    facts = {"model_max_len": 131072, "num_gpu_blocks_override": 1000}
    size = choose(**facts)
    assert (size.max_model_len, size.is_shortened) == (15984, True)
    assert size == choose(**facts, max_model_len=-1)
    assert not choose(**facts, max_model_len=15984).is_shortened
    with pytest.raises(OutOfMemory, match="--max-model-len 1984"):
        choose(model_max_len=131072, num_gpu_blocks_override=125)


def test_the_operators_length_wins_over_the_models():
    assert choose(max_model_len=512).max_model_len == 512


@pytest.mark.parametrize(
    ("memory", "wishes", "flag"),
    [
        (MemoryFacts(platform="gpu", total_bytes=GIB, free_bytes=1), {}, "--gpu-memory-utilization"),
        (MemoryFacts(platform="cpu", total_bytes=GIB, free_bytes=1), {}, "--kv-cache-memory-bytes"),
        (GPU, {"kv_cache_memory_bytes": 100}, "--kv-cache-memory-bytes"),
    ],
)
def test_where_nothing_fits_the_flag_that_helps_is_named(memory, wishes, flag):
    with pytest.raises(OutOfMemory, match=flag):
        choose(memory, **wishes)


def test_an_override_of_one_page_leaves_none_for_tokens():
    with pytest.raises(OutOfMemory, match="num_gpu_blocks_override=1"):
        choose(num_gpu_blocks_override=1, max_model_len=-1)


def test_no_group_has_more_pages_than_can_be_addressed():
    size = choose(GPU, groups=[replace(group, max_pages=300) for group in WINDOWED])
    assert [group.num_pages for group in size.groups] == [300, 300]
    assert size.reason.startswith("as many pages as attention can address, within 92%")
    assert "address" not in choose(GPU, groups=[GroupNeeds(page_bytes=GIB, max_pages=300)]).reason


WINDOWED = [GroupNeeds(name="window 64", window=64, page_bytes=5 * MIB), GroupNeeds(page_bytes=MIB)]
WANTED = 1 + 2 * (32 * (5 + 2) + 2 * 16)  # 32 rows of 5 pages and 2 that come and go, 2 chunks of 256 tokens, and twice


def test_a_window_group_gets_what_rows_use_twice_and_the_full_group_the_rest():
    size = choose(groups=WINDOWED, kv_cache_memory_bytes=10_000 * MIB)
    window, full = size.groups
    assert (window.num_pages, full.num_pages) == (WANTED, 10_000 - 5 * WANTED)
    assert size.num_pages == full.num_pages


def test_no_window_group_has_more_pages_than_the_full_group_or_half_of_the_memory():
    assert [group.num_pages for group in choose(groups=WINDOWED, num_gpu_blocks_override=65).groups] == [65, 65]
    assert [group.num_pages for group in choose(groups=WINDOWED, kv_cache_memory_bytes=MIB * 1000).groups] == [100, 500]


def test_one_longest_request_fits_before_windows_get_their_half():
    size = choose(groups=WINDOWED, model_max_len=9600, kv_cache_memory_bytes=1000 * MIB)
    assert [group.num_pages for group in size.groups] == [(1000 - 601) // 5, 605]
    assert size.max_model_len == 9600
    with pytest.raises(OutOfMemory, match="--max-model-len 1") as refusal:
        choose(groups=WINDOWED, model_max_len=16_000, max_model_len=16_000, kv_cache_memory_bytes=1000 * MIB)
    largest = int(re.search(r"--max-model-len (\d+)", str(refusal.value)).group(1))
    assert choose(groups=WINDOWED, model_max_len=16_000, max_model_len=-1, kv_cache_memory_bytes=1000 * MIB)
    assert choose(groups=WINDOWED, max_model_len=largest, kv_cache_memory_bytes=1000 * MIB).max_model_len == largest


@given(st.integers(1, 3000), st.integers(1, 20_000), st.integers(1, 64), st.integers(16, 4096))
def test_memory_is_never_exceeded_and_hardly_wasted(megabytes, max_len, rows, step_tokens):
    facts = {"num_rows": rows, "step_tokens": step_tokens, "max_model_len": -1, "model_max_len": max_len}
    try:
        size = choose(groups=WINDOWED, kv_cache_memory_bytes=megabytes * MIB, **facts)
    except OutOfMemory:
        assert megabytes < 6 * 3
        return
    assert size.total_bytes <= megabytes * MIB < size.total_bytes + 6 * MIB
    window, full = size.groups
    assert size.max_model_len <= (full.num_pages - 1) * 16
    assert WINDOWED[0].request_pages(size.max_model_len, step_tokens, 16) < window.num_pages


def test_a_model_of_windows_alone_serves_any_length_that_its_window_does():
    needs = [GroupNeeds(name="window 64", window=64, page_bytes=MIB)]
    size = choose(groups=needs, model_max_len=100_000, num_gpu_blocks_override=50)
    assert ([group.num_pages for group in size.groups], size.max_model_len) == ([50], 100_000)
    with pytest.raises(OutOfMemory, match="needs 38 pages"):
        choose(groups=needs, model_max_len=100_000, num_gpu_blocks_override=38)


HYBRID = [GroupNeeds(page_bytes=MIB), GroupNeeds(name="recurrent state", page_bytes=4 * MIB, is_recurrent=True)]


@pytest.mark.parametrize(
    ("megabytes", "max_len", "slots"),
    [(10_000, 1024, 4 * 32), (400, 1024, 400 // 2 // 4 - 1), (400, 4000, (400 - 251) // 4 - 1), (207, 1024, 32 + 2)],
    ids=["as wanted", "half of the memory", "what a request leaves", "the least"],
)
def test_rows_have_states_before_snapshots_and_pages_share_the_rest(megabytes, max_len, slots):
    pages, states = choose(groups=HYBRID, model_max_len=max_len, kv_cache_memory_bytes=megabytes * MIB).groups
    assert (states.num_pages, states.num_rows, pages.num_rows) == (1 + slots, 32, 0)
    assert pages.num_pages == megabytes - 4 * (1 + slots)


def test_without_a_prefix_cache_no_memory_is_kept_for_snapshots():
    [_, states] = choose(groups=HYBRID, kv_cache_memory_bytes=10_000 * MIB, has_prefix_cache=False).groups
    assert states.num_pages == 1 + 32


@pytest.mark.parametrize(("rows", "slots"), [(1, 4), (2, 6), (32, 64)])
def test_a_cache_given_in_pages_has_a_state_and_a_snapshot_for_each_row(rows, slots):
    [_, states] = choose(groups=HYBRID, num_gpu_blocks_override=100, num_rows=rows).groups
    assert states.num_pages == 1 + slots


def test_states_that_do_not_fit_name_the_number_of_rows():
    with pytest.raises(OutOfMemory, match=r"2 pages and the states of 34 sequences.*lower --max-num-seqs 32"):
        choose(groups=HYBRID, kv_cache_memory_bytes=100 * MIB)


def test_a_model_of_states_alone_is_refused():
    with pytest.raises(BadConfig, match="recurrent"):
        choose(groups=HYBRID[1:])


GEMMAS = {
    "270m": (3, 15, 512, 2 * 256, 20, 4.7),
    "1b": (4, 22, 512, 2 * 256, 20, 4.5),
    "27b": (10, 52, 1024, 2 * 16 * 128, 20, 3.1),
}
"""Full layers, windowed ones, the window, numbers of a token in a layer; GiB for the cache, and what divides gains."""


@pytest.mark.parametrize("sizes", GEMMAS.values(), ids=GEMMAS)
def test_gemma_3_holds_several_times_the_context_in_the_same_memory(sizes):
    num_full, num_windowed, window, numbers, gib, times = sizes
    layer_bytes = 16 * numbers * 2
    groups = [
        GroupNeeds(name="window", window=window, page_bytes=num_windowed * layer_bytes),
        GroupNeeds(page_bytes=num_full * layer_bytes),
    ]
    together = [GroupNeeds(page_bytes=(num_full + num_windowed) * layer_bytes)]
    facts = {"kv_cache_memory_bytes": gib * GIB, "num_rows": 256, "step_tokens": 2048, "model_max_len": 32_768}
    divided, undivided = choose(groups=groups, **facts), choose(groups=together, **facts)
    assert divided.total_bytes <= gib * GIB
    assert divided.num_pages / undivided.num_pages == pytest.approx(times, abs=0.1)
