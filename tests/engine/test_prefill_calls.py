"""A step's prompt chunks are divided into calls at the least cost, in order, and never beyond a program's room."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxserve.engine.prefill_calls import CALL_COST, divide_into_calls

SIZES = [(16, 2), (64, 8), (128, 8), (256, 8)]


def cost(calls):
    return sum(CALL_COST + SIZES[size][0] for _, size in calls)


def all_divisions(counts):
    """Every division of consecutive chunks, each call with the smallest size that has room."""
    for borders in product((False, True), repeat=len(counts) - 1):
        groups = [[counts[0]]]
        for count, is_border in zip(counts[1:], borders, strict=True):
            groups.append([count]) if is_border else groups[-1].append(count)
        sizes = [
            next((i for i, (tokens, chunks) in enumerate(SIZES) if sum(one) <= tokens and len(one) <= chunks), None)
            for one in groups
        ]
        if None not in sizes:
            yield [(len(one), size) for one, size in zip(groups, sizes, strict=True)]


@given(st.lists(st.integers(1, 256), min_size=1, max_size=7))
def test_no_division_costs_less(counts):
    calls = divide_into_calls(counts, SIZES)
    assert calls in list(all_divisions(counts))
    assert cost(calls) == min(map(cost, all_divisions(counts)))


def test_short_prompts_share_calls_and_long_ones_do_not():
    assert divide_into_calls([20] * 12, SIZES) == [(6, 2), (6, 2)]
    assert divide_into_calls([256, 256], SIZES) == [(1, 3), (1, 3)]
    assert divide_into_calls([3], SIZES) == [(1, 0)]


def test_a_chunk_that_fits_no_program_is_an_error():
    with pytest.raises(ValueError, match="300 tokens in 1 chunks"):
        divide_into_calls([300], SIZES)
