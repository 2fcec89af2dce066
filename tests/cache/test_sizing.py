"""Pages are made from what there is; what does not fit is said with numbers and the flag that helps."""

import re

import pytest

from jaxserve.cache.sizing import choose_cache_size, num_pages_for, num_pages_within
from jaxserve.config import GIB, MIB
from jaxserve.errors import BadConfig, OutOfMemory
from jaxserve.parallel.placement import MemoryFacts

LAPTOP = MemoryFacts(platform="cpu", total_bytes=24 * GIB, free_bytes=20 * GIB)
GPU = MemoryFacts(platform="gpu", total_bytes=100 * GIB, free_bytes=80 * GIB, scratch_bytes=2 * GIB)


def choose(memory: MemoryFacts = LAPTOP, **wishes):
    return choose_cache_size(**{"memory": memory, "page_bytes": MIB, "page_size": 16, "model_max_len": 1024} | wishes)


def test_tokens_round_up_to_pages_and_bytes_round_down():
    assert [num_pages_for(n, 16) for n in (0, 1, 16, 17)] == [0, 1, 1, 2]
    assert [num_pages_within(n, 100) for n in (-5, 99, 100, 250)] == [0, 0, 1, 2]


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
