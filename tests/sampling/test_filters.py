"""The filters against a plain numpy sampler that sorts, over extreme rows."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_sampler import Settings, hostile_row, kept

from jaxserve.sampling.columns import pack_params, unpack_columns
from jaxserve.sampling.filters import apply_mask, row_max, top_k_threshold, top_p_threshold
from jaxserve.sampling.sampler import filter_threshold
from jaxserve.sampling_params import SamplingParams

NUM_ROWS = 4
SOME_SETTINGS = st.builds(
    Settings,
    temperature=st.floats(0.01, 2),
    top_k=st.one_of(st.just(0), st.integers(1, 50), st.just(10**6)),
    top_p=st.one_of(st.just(1.0), st.floats(0.01, 0.999)),
    min_p=st.one_of(st.just(0.0), st.floats(0.001, 0.9), st.just(1.0)),
)
jitted_threshold = jax.jit(
    lambda logits_BV, packed_BS: filter_threshold(logits_BV, row_max(logits_BV), unpack_columns(packed_BS))
)
not_below = jax.jit(
    lambda logits_BV, threshold_B: logits_BV >= threshold_B[:, None]
)  # on the device: numpy has denormals


def packed(rows: list[Settings]) -> jax.Array:
    params = [SamplingParams(temperature=r.temperature, top_k=r.top_k, top_p=r.top_p, min_p=r.min_p) for r in rows]
    return jnp.asarray(np.stack([pack_params(each, seed=1) for each in params]))


def kept_by_filters(logits: np.ndarray, rows: list[Settings]) -> np.ndarray:
    return np.asarray(not_below(logits, jitted_threshold(jnp.asarray(logits), packed(rows)))) & np.isfinite(logits)


@pytest.mark.parametrize("vocab", [32, 33, 1000, 4099])
@settings(max_examples=40, deadline=None)
@given(
    kinds=st.lists(st.integers(0, 7), min_size=NUM_ROWS, max_size=NUM_ROWS),
    rows=st.lists(SOME_SETTINGS, min_size=NUM_ROWS, max_size=NUM_ROWS),
    seed=st.integers(0, 2**32),
)
def test_the_filters_keep_what_the_contract_keeps(vocab, kinds, rows, seed):
    """Up to rounding: a little less and a little more of min_p and top_p enclose what is kept."""
    rng = np.random.default_rng(seed)
    logits = np.stack([hostile_row(kind, vocab, rng) for kind in kinds])
    for row, ours, logit in zip(rows, kept_by_filters(logits, rows), logits, strict=True):
        tight = Settings(row.temperature, row.top_k, row.top_p * (1 - 1e-5), min(row.min_p * (1 + 1e-4), 1))
        loose = Settings(row.temperature, row.top_k, row.top_p * (1 + 1e-5), row.min_p * (1 - 1e-4))
        assert not (kept(logit, tight) & ~ours).any()
        assert not (ours & ~kept(logit, loose)).any()


@pytest.mark.parametrize("vocab", [131072, 262144])
def test_the_filters_hold_over_great_vocabularies(vocab):
    rng = np.random.default_rng(5)
    logits = np.stack([hostile_row(kind, vocab, rng) for kind in (0, 0, 2, 6)])
    rows = [Settings(1.0, 0, 0.9), Settings(0.7, 50, 0.8), Settings(2.0, 999, 0.5, 0.1), Settings(0.5, 0, 0.3)]
    assert np.array_equal(kept_by_filters(logits, rows), [kept(*each) for each in zip(logits, rows, strict=True)])


@pytest.mark.parametrize("kind", range(8))
def test_top_k_is_exact_and_keeps_ties(kind):
    logits = hostile_row(kind, 1000, np.random.default_rng(kind))
    for k in (1, 2, 10, 999):
        ours = kept_by_filters(logits[None], [Settings(top_k=k)])[0]
        assert np.array_equal(ours, (logits >= np.sort(logits)[-k]) & np.isfinite(logits))


def test_top_k_tells_neighbouring_floats_apart():
    logits = np.float32(20) - np.arange(64, dtype=np.float32) * np.float32(2.0**-19)
    assert kept_by_filters(logits[None], [Settings(top_k=3)])[0].sum() == 3


@pytest.mark.parametrize(("top_p", "num_kept"), [(1e-30, 1), (0.5, 1), (0.50001, 3), (0.75, 3), (0.9, 3), (0.99999, 3)])
def test_top_p_drops_a_token_when_the_mass_above_it_is_exactly_top_p(top_p, num_kept):
    logits = np.full((1, 32), -np.inf, np.float32)
    logits[0, 5:8] = np.log([0.5, 0.25, 0.25])
    assert kept_by_filters(logits, [Settings(top_p=top_p)])[0].sum() == num_kept


def test_top_p_counts_what_top_k_left_as_the_whole():
    logits = np.log(np.array([[0.4, 0.3, 0.2] + [0.1 / 29] * 29], np.float32))
    assert kept_by_filters(logits, [Settings(top_p=0.5)])[0].sum() == 2
    assert kept_by_filters(logits, [Settings(top_k=2, top_p=0.5)])[0].sum() == 1


def test_neutral_filters_have_no_threshold_even_beside_busy_neighbours():
    logits = np.random.default_rng(1).normal(size=(NUM_ROWS, 1000)).astype(np.float32)
    neutral = Settings(top_k=1000, top_p=1.0, min_p=0.0)
    threshold = jitted_threshold(jnp.asarray(logits), packed([neutral, Settings(top_k=3, top_p=0.5, min_p=0.1)] * 2))
    assert np.array_equal(np.isneginf(threshold), [True, False, True, False])


def test_filters_nobody_asks_for_cost_no_pass_over_the_logits():
    def loops(jaxpr) -> int:
        return str(jaxpr).count("while[")

    logits_BV, zero_B = jnp.zeros((2, 64)), jnp.zeros(2)
    for threshold in (
        partial(top_k_threshold, logits_BV, zero_B, zero_B.astype(jnp.int32)),
        partial(top_p_threshold, logits_BV, zero_B, zero_B, zero_B, zero_B),
    ):
        jaxpr = jax.make_jaxpr(threshold)()
        assert [str(eqn.primitive) for eqn in jaxpr.eqns].count("cond") == 1
        assert "while" not in [str(eqn.primitive) for eqn in jaxpr.eqns]
        assert loops(jaxpr) == 1


@pytest.mark.parametrize("vocab", [32, 33, 1000])
def test_the_mask_allows_exactly_the_tokens_whose_bit_is_set(vocab):
    rng = np.random.default_rng(vocab)
    allowed = rng.random((3, vocab)) < 0.5
    bits = np.packbits(np.pad(allowed, ((0, 0), (0, -vocab % 32)), constant_values=True), axis=1, bitorder="little")
    logits = rng.normal(size=(3, vocab)).astype(np.float32)
    masked = apply_mask(jnp.asarray(logits), jnp.asarray(bits.view(np.uint32)))
    assert np.array_equal(masked, np.where(allowed, logits, -np.inf))


def test_the_greatest_logit_of_a_row_with_nan_is_infinite():
    logits = np.random.default_rng(1).normal(size=(5, 49152)).astype(np.float32)
    logits[1, 777], logits[2, 49151], logits[3, 5] = np.nan, -np.nan, np.inf
    logits[4] = -np.inf
    maxima = np.asarray(jax.jit(row_max)(jnp.asarray(logits)))
    assert np.array_equal(maxima, [logits[0].max(), np.inf, np.inf, np.inf, -np.inf])
