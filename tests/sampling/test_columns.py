"""Sampling parameters packed into rows and unpacked on the device."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxserve.sampling.columns import NUM_COLUMNS, empty_row, pack_params, unpack_columns
from jaxserve.sampling_params import SamplingParams


def rows_of(*rows: np.ndarray):
    return unpack_columns(jnp.asarray(np.stack(rows)))


def test_what_is_packed_comes_out_on_the_device():
    rows = rows_of(pack_params(SamplingParams(temperature=0.7, top_k=20, top_p=0.9, min_p=0.05), seed=2**32 * 3 + 5))
    assert rows.temperature_B[0] == np.float32(0.7)
    assert rows.top_k_B[0] == 20
    assert rows.top_p_B[0] == np.float32(0.9)
    assert rows.min_p_B[0] == np.float32(0.05)
    assert (rows.seed_low_B[0], rows.seed_high_B[0]) == (5, 3)


@pytest.mark.parametrize("seed", [-2, -1, 0, 1, 2**31, 2**32, 2**63 - 1, -(2**63)])
def test_a_seed_travels_in_twos_complement(seed):
    rows = rows_of(pack_params(SamplingParams(), seed))
    assert int(rows.seed_low_B[0]) + (int(rows.seed_high_B[0]) << 32) == seed % 2**64


def test_a_seed_wraps_past_the_last_one():
    assert np.array_equal(pack_params(SamplingParams(), 2**63 - 1 + 1), pack_params(SamplingParams(), -(2**63)))


@pytest.mark.parametrize("off", [{"top_k": -1}, {"top_k": 0}, {"top_p": 1.0}, {"min_p": 0.0}])
def test_a_filter_that_is_off_is_zero(off):
    assert np.array_equal(pack_params(SamplingParams(**off), 1), pack_params(SamplingParams(), 1))


def test_greedy_rows_pack_as_neutral_whatever_their_filters():
    greedy = SamplingParams(temperature=0, top_k=5, top_p=0.5, min_p=0.1)
    assert np.array_equal(pack_params(greedy, 7), empty_row())
    assert np.array_equal(empty_row(), np.zeros(NUM_COLUMNS, np.int32))


def test_a_top_p_too_small_for_float32_stays_on():
    assert rows_of(pack_params(SamplingParams(top_p=1e-60), 1)).top_p_B[0] > 0


def test_a_top_k_too_great_for_int32_stays_great():
    assert rows_of(pack_params(SamplingParams(top_k=10**15), 1)).top_k_B[0] == 2**31 - 1
