"""Windows: what lies behind one is never read, because its pages are freed and the page table has page 0 there."""

import functools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxserve.attention import AttentionInputs
from tests.attention.cases import PAGE, ROWS, WIDTH, Case

SINKS = np.array([-3.0, 0.0, 2.0, 9.0], np.float32)
LAYOUTS = {
    "decode": {"lengths": [300, 71, 5]},
    "chunks of one length": {"lengths": [300, 71, 5, 130], "columns": 8},
    "ragged chunks": {"lengths": [70, 270, 133, 9], "counts": [17, 5, 1, 9], "tokens": 32},
    "rows without queries": {"lengths": [150, 40, 300, 9], "counts": [0, 20, 0, 9], "tokens": 32},
    "padding alone": {"lengths": [250, 40], "counts": [0, 0], "tokens": 32},
}
crop_to_window = jax.jit(AttentionInputs.crop_to_window, static_argnums=(1, 2, 3))


def check_freed(backend, case, window, **how):
    """The answers are right before and after the pages behind the window are freed, and not a bit depends on that.

    All of page 0 holds NaN.
    """
    pages = case.write(backend)
    attend = functools.partial(backend.attend, case.query, pages, scale=0.3, window=window, **how)
    intact = np.asarray(attend(case.inputs()))
    case.free_behind(window)
    np.testing.assert_array_equal(attend(case.inputs()), intact)
    np.testing.assert_allclose(intact, case.expect(scale=0.3, window=window, **how), atol=2e-5)


@pytest.mark.parametrize("window", [3 * PAGE, 50])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_pages_behind_a_window_may_be_freed(backend, layout, window):
    check_freed(backend, Case(backend, **layout), window)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_freed_pages_change_neither_sinks_nor_soft_caps(backend, layout):
    check_freed(backend, Case(backend, **layout), 20, softcap=5.0, sinks=SINKS)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_the_kernel_for_tpus_gets_no_freed_pages(tpu_backend, layout):
    check_freed(tpu_backend, Case(tpu_backend, **layout, head_dim=128), 2 * PAGE, softcap=5.0)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    rows=st.lists(st.tuples(st.integers(0, 8), st.integers(0, 300)), min_size=ROWS, max_size=ROWS),
    window=st.sampled_from([1, 9, PAGE, 60]),
    multiple=st.sampled_from([1, 4]),
)
def test_a_cropped_page_table_has_all_that_is_seen_and_nothing_that_is_freed(rows, window, multiple):
    counts, lengths = [count for count, _ in rows], [count + past for count, past in rows]
    start = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    position, slot = np.zeros(32, np.int32), np.arange(32, dtype=np.int32)
    for row, (count, past) in enumerate(rows):
        position[start[row] : start[row + 1]] = np.arange(past, past + count)
    table = 1 + np.arange(ROWS * WIDTH, dtype=np.int32).reshape(ROWS, WIDTH)
    cropped = crop_to_window(
        AttentionInputs(position, slot, table, np.array(lengths, np.int32), start, 8), window, PAGE, multiple
    )
    assert cropped.page_table_BW.shape[1] <= -(-(window + 6) // PAGE) + multiple
    for row, (_, past) in enumerate(rows):
        num_left_out = table[row].tolist().index(cropped.page_table_BW[row, 0])
        assert num_left_out % multiple == 0
        assert 0 <= max(0, past - window + 1) // PAGE - num_left_out < multiple
        assert cropped.length_B[row] == lengths[row] - num_left_out * PAGE
        num_live = -(-lengths[row] // PAGE)
        assert (
            cropped.page_table_BW[row, : num_live - num_left_out].tolist() == table[row, num_left_out:num_live].tolist()
        )
        taken = slice(start[row], start[row + 1])
        assert (position[taken] - cropped.position_T[taken] == num_left_out * PAGE).all()
    assert (cropped.slot_T == slot).all()
