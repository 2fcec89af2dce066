"""Biases and penalties: against the plain version, row by row, and no effect on rows that have none."""

from functools import partial

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_sampler import History, apply_penalties, hostile_row
from scipy.special import log_softmax

from jaxserve.sampling import penalties
from jaxserve.sampling.columns import pack_params, unpack_columns
from jaxserve.sampling.sampler import NO_TOKEN, LogitsInputs, LogprobsConfig, SampleMode, sample
from jaxserve.sampling_params import SamplingParams

ROWS = 4
set_row = jax.jit(penalties.set_row)


@jax.jit
def apply(logits_BV, state, row_B, packed_BS):
    return penalties.apply_bias_and_penalties(logits_BV, state, row_B, unpack_columns(packed_BS))


@jax.jit
def update_counts(state, row_B, token_B, packed_BS):
    return penalties.update_counts(state, row_B, token_B, unpack_columns(packed_BS))


@partial(jax.jit, static_argnames=("mode", "config"))
def step(logits_BV, packed_BS, position_B, given, *, mode, config):
    return sample(logits_BV, unpack_columns(packed_BS), position_B, given, mode=mode, logprobs_config=config)


def state_for(histories, vocab):
    state = penalties.init(len(histories) + 1, vocab)
    for row, history in enumerate(histories):
        state = set_row(state, np.int32(row), penalties.build_row(history.prompt, history.output, history.bias, vocab))
    return state


def packed(params):
    return np.stack([pack_params(row_params, 7) for row_params in params])


def some_ids(vocab):
    return st.lists(st.integers(0, vocab - 1), max_size=12).map(tuple)


@st.composite
def rows(draw):
    vocab = draw(st.sampled_from([32, 33, 100, 1000]))
    histories, params = [], []
    for _ in range(ROWS):
        bias = draw(st.dictionaries(st.integers(0, vocab - 1), st.floats(-150, 150, width=32), max_size=5))
        histories.append(History(draw(some_ids(vocab)), draw(some_ids(vocab)), tuple(bias.items())))
        params.append(
            SamplingParams(
                repetition_penalty=draw(st.sampled_from([1.0, 1.0, 0.5, 1.3, 1e-30, 1e30])),
                frequency_penalty=draw(st.sampled_from([0.0, 0.7, -2.0])),
                presence_penalty=draw(st.sampled_from([0.0, 0.3, -2.0])),
                logit_bias=histories[-1].bias,
            )
        )
    return vocab, histories, params, draw(st.integers(0, 7)), draw(st.integers(0, 2**32 - 1))


@settings(max_examples=120, deadline=None)
@given(rows())
def test_it_is_what_the_plain_version_does(case):
    """On extreme rows too: all equal, nearly all forbidden, at the ends of float32."""
    vocab, histories, params, kind, seed = case
    rng = np.random.default_rng(seed)
    logits = np.stack([hostile_row(kind + i, vocab, rng) for i in range(ROWS)])
    order = rng.permutation(ROWS).astype(np.int32)
    ours = np.asarray(apply(logits[order], state_for(histories, vocab), order, packed([params[i] for i in order])))
    for position, row in enumerate(order):
        row_params = params[row]
        with np.errstate(over="ignore"):
            plain = apply_penalties(
                logits[row],
                histories[row],
                repetition=row_params.repetition_penalty,
                frequency=row_params.frequency_penalty,
                presence=row_params.presence_penalty,
            )
        finite, largest = np.isfinite(logits[row]), np.finfo(np.float32).max
        assert np.array_equal(ours[position] == -np.inf, ~finite)
        expected = np.clip(plain[finite], -largest, largest)
        assert np.allclose(ours[position][finite], expected, rtol=2e-5, atol=2e-5)


def test_a_row_without_penalties_and_biases_keeps_every_bit_whatever_its_state_is():
    rng = np.random.default_rng(0)
    logits = np.stack([hostile_row(kind, 100, rng) for kind in range(8)])
    dirty = penalties.PenaltyState(
        *(rng.integers(1, 9, leaf.shape).astype(leaf.dtype) for leaf in jax.tree.leaves(penalties.init(9, 100)))
    )
    plain = np.stack([pack_params(SamplingParams(), 7)] * 8)
    ours = np.asarray(apply(logits, dirty, np.arange(8, dtype=np.int32), plain))
    assert np.array_equal(ours.view(np.int32), logits.view(np.int32))


def test_tokens_are_counted_only_for_rows_with_penalties_and_in_their_own_row():
    params = [SamplingParams(presence_penalty=1.0), SamplingParams(), SamplingParams(repetition_penalty=2.0)]
    counted = state_for([History()] * 5, 40)
    for token in (7, 7, 9):
        counted = update_counts(counted, np.array([3, 1, 0], np.int32), np.full(3, token, np.int32), packed(params))
    counts = np.asarray(counted.count_RV)[:5]
    assert counts[3, 7] == counts[0, 7] == 2 and counts[3, 9] == counts[0, 9] == 1
    assert counts.sum() == 6


def test_a_new_sequence_finds_a_clean_row():
    first = state_for([History((1, 2), (3, 3), ((4, 1.0),))], 40)
    again = set_row(first, np.int32(0), penalties.build_row((5,), (6,), (), 40))
    clean = state_for([History((5,), (6,))], 40)
    for ours, expected in zip(jax.tree.leaves(again), jax.tree.leaves(clean), strict=True):
        assert np.array_equal(ours, expected)


def given_for(logits, histories, allowed=None):
    vocab, rows = logits.shape[1], len(logits)
    allowed = np.ones(logits.shape, bool) if allowed is None else allowed
    mask = np.stack([penalties.pack_bits(np.flatnonzero(row), vocab) for row in allowed])
    requested = np.tile(np.array([0, 3, 5], np.int32), (rows, 1))
    return LogitsInputs(state_for(histories, vocab), np.arange(rows, dtype=np.int32), mask, requested)


MODES = ("raw_logprobs", "raw_logits", "processed_logprobs", "processed_logits")


@pytest.mark.parametrize("mode", MODES)
def test_log_probabilities_are_those_that_the_mode_names(mode):
    rng, params = np.random.default_rng(1), SamplingParams(temperature=0.5, top_k=4, logit_bias=((3, 2.5),))
    logits = rng.normal(0, 2, (ROWS, 50)).astype(np.float32)
    allowed = rng.random((ROWS, 50)) < 0.9
    histories = [History(bias=params.logit_bias)] * ROWS
    out = step(
        logits,
        packed([params] * ROWS),
        np.full(ROWS, 9, np.int32),
        given_for(logits, histories, allowed),
        mode=SampleMode.LOGPROBS,
        config=LogprobsConfig(6, mode),
    )
    values = logits.astype(np.float64)
    if mode.startswith("processed"):
        values = np.where(allowed, np.stack([apply_penalties(row, histories[0]) for row in logits]), -np.inf) / 0.5
        values = np.where(values >= np.sort(values, axis=1)[:, -4:-3], values, -np.inf)
    if mode.endswith("logprobs"):
        values = log_softmax(values, axis=1)
    token = np.asarray(out.token_B)[:, None]
    assert np.allclose(out.logprob_B, np.take_along_axis(values, token, 1)[:, 0], atol=1e-5)
    assert np.allclose(out.requested_logprob_BI, values[:, [0, 3, 5]], atol=1e-5)
    best = np.take_along_axis(values, np.argsort(-values, axis=1, kind="stable")[:, :6], 1)
    assert np.allclose(out.top_logprob_BK, best, atol=1e-5)


def test_the_whole_vocabulary_and_the_best_continuations_agree_with_the_rest():
    rng = np.random.default_rng(2)
    logits = rng.normal(0, 2, (ROWS, 50)).astype(np.float32)
    allowed = rng.random((ROWS, 50)) < 0.5
    params = [SamplingParams(temperature=0, frequency_penalty=1.0)] * ROWS
    histories = [History(output=tuple(rng.integers(0, 50, 9).tolist())) for _ in range(ROWS)]
    given = given_for(logits, histories, allowed)
    rest = (packed(params), np.full(ROWS, 9, np.int32), given)
    whole = step(logits, *rest, mode=SampleMode.ALL_LOGPROBS, config=LogprobsConfig(5))
    beams = step(logits, *rest, mode=SampleMode.BEAM, config=LogprobsConfig(5, num_candidates=8, all_logprobs=True))
    some = step(logits, *rest, mode=SampleMode.BEAM, config=LogprobsConfig(5, num_candidates=8))
    raw = log_softmax(logits.astype(np.float64), axis=1)
    z = np.stack([apply_penalties(row, one, frequency=1.0) for row, one in zip(logits, histories, strict=True)])
    left = log_softmax(np.where(allowed, z, -np.inf), axis=1)
    assert np.allclose(whole.all_logprob_BV, raw, atol=1e-5)
    assert np.array_equal(beams.all_logprob_BV, whole.all_logprob_BV) and some.all_logprob_BV is None
    assert np.array_equal(some.candidate_id_BC, beams.candidate_id_BC)
    order = np.argsort(-left, axis=1, kind="stable")[:, :8]
    assert np.array_equal(beams.candidate_id_BC, order)
    assert np.allclose(beams.candidate_logprob_BC, np.take_along_axis(left, order, 1), atol=1e-5)
    assert np.allclose(beams.candidate_raw_logprob_BC, np.take_along_axis(raw, order, 1), atol=1e-5)
    assert np.array_equal(beams.token_B, order[:, 0]) and np.array_equal(whole.token_B, order[:, 0])


def test_nan_and_infinity_are_no_tokens_behind_a_bias_either():
    logits = np.zeros((ROWS, 40), np.float32)
    logits[0, 3], logits[1, 3] = np.nan, np.inf
    params = [SamplingParams(temperature=0, logit_bias=((3, -100.0),))] * ROWS
    given = given_for(logits, [History(bias=params[0].logit_bias)] * ROWS)
    out = step(
        logits, packed(params), np.full(ROWS, 9, np.int32), given, mode=SampleMode.PROCESSORS, config=LogprobsConfig()
    )
    assert np.array_equal(out.token_B, [NO_TOKEN, NO_TOKEN, 0, 0])
