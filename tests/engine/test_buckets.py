"""Sizes round up to the few shapes that are compiled."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxserve.engine.buckets import Buckets, choose_buckets

SMALL = Buckets(decode=(1, 4, 16), prefill=(16, 64))


def test_sizes_round_up_to_the_next_shape():
    assert [SMALL.decode_bucket(n) for n in (1, 2, 4, 5, 16)] == [1, 4, 4, 16, 16]
    assert [SMALL.prefill_bucket(n) for n in (1, 16, 17)] == [16, 16, 64]


def test_more_than_the_largest_shape_is_a_bug_and_says_so():
    with pytest.raises(ValueError, match="17 decode rows are more than the largest compiled shape, 16"):
        SMALL.decode_bucket(17)


@pytest.mark.parametrize("sizes", [(), (0, 1), (4, 4), (4, 2)])
def test_shapes_rise_from_one(sizes):
    with pytest.raises(ValueError, match="must rise"):
        Buckets(decode=sizes, prefill=(16,))


@given(st.integers(1, 300), st.integers(1, 5000), st.sampled_from(["cpu", "gpu", "tpu", "METAL"]))
def test_everything_allowed_has_a_shape_and_the_largest_is_the_limit(seqs, tokens, platform):
    buckets = choose_buckets(max_num_seqs=seqs, max_chunk_tokens=tokens, platform=platform)
    assert (buckets.decode_bucket(seqs), buckets.prefill_bucket(tokens)) == (seqs, tokens)
    assert len(buckets.decode) <= 10 and len(buckets.prefill) <= 7
