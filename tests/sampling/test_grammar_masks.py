"""A grammar comes before raw log-probabilities are taken, all else after; rows without one do not see it."""

from dataclasses import replace
from functools import cache, partial

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_sampler import History, apply_penalties, hostile_row
from scipy.special import log_softmax

from jaxserve.sampling import penalties
from jaxserve.sampling.columns import pack_params, unpack_columns
from jaxserve.sampling.sampler import NOTHING_ALLOWED, LogitsInputs, LogprobsConfig, SampleMode, sample
from jaxserve.sampling_params import SamplingParams

SCORED = [SampleMode.LOGPROBS, SampleMode.ALL_LOGPROBS, SampleMode.BEAM]
REQUESTED = (0, 3, 5)
PARAMS = SamplingParams(temperature=0, frequency_penalty=1.0, logit_bias=((2, 4.0),))
HISTORY = History(output=(7, 7, 9), bias=PARAMS.logit_bias)


@partial(jax.jit, static_argnames=("mode", "config"))
def step(logits_BV, packed_BS, position_B, given, *, mode, config):
    return sample(logits_BV, unpack_columns(packed_BS), position_B, given, mode=mode, logprobs_config=config)


@cache
def penalty_state(num, vocab):
    row = penalties.build_row((), HISTORY.output, HISTORY.bias, vocab)
    return penalties.PenaltyState(*(np.stack([array] * num) for array in row))


def pack_masks(allowed_BV):
    """Pack masks as the engine does: a row that allows everything has all bits of the last word set, too."""
    masks = np.stack([penalties.pack_bits(np.flatnonzero(row), len(row)) for row in allowed_BV])
    masks[allowed_BV.all(axis=1)] = 0xFFFFFFFF
    return masks


def sample_with(logits, grammar, rest, mode, logprobs_mode="raw_logprobs"):
    """Sample with a grammar; rest is the mask of what everything else allows."""
    num, vocab = logits.shape
    given = LogitsInputs(
        penalty_state(num, vocab),
        np.arange(num, dtype=np.int32),
        pack_masks(grammar & rest),
        np.tile(np.array(REQUESTED, np.int32), (num, 1)),
        pack_masks(grammar) if mode >= SampleMode.LOGPROBS else None,
    )
    config = LogprobsConfig(6, logprobs_mode, num_candidates=8, all_logprobs=True)
    return step(
        logits, np.stack([pack_params(PARAMS, 7)] * num), np.full(num, 9, np.int32), given, mode=mode, config=config
    )


def close(ours, theirs):
    return np.allclose(np.asarray(ours), theirs, rtol=1e-5, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), mode=st.sampled_from(SCORED))
def test_raw_log_probabilities_are_those_of_what_the_grammar_allows(seed, mode):
    rng, vocab = np.random.default_rng(seed), 50
    logits = np.stack([hostile_row(0, vocab, rng) for _ in range(4)])
    grammar, rest = rng.random((4, vocab)) < 0.3, rng.random((4, vocab)) < 0.8
    grammar[0], rest[:, 4] = True, True
    grammar[1] = np.arange(vocab) == 4
    grammar[2:, 4] = True
    out = sample_with(logits, grammar, rest, mode)
    raw = log_softmax(np.where(grammar, logits.astype(np.float64), -np.inf), axis=1)
    z = np.stack([apply_penalties(row, HISTORY, frequency=1.0) for row in logits])
    left = np.where(grammar & rest, z, -np.inf)
    token = np.argmax(left, axis=1)
    assert np.array_equal(out.token_B, token)
    own = np.take_along_axis(raw, token[:, None], 1)
    assert close(out.logprob_B, own[:, 0]) and float(out.logprob_B[1]) == 0.0
    assert np.array_equal(out.rank_B, 1 + (raw > own).sum(axis=1))
    order = np.argsort(-raw, axis=1, kind="stable")[:, :6]
    assert np.array_equal(out.top_id_BK, order) and close(out.top_logprob_BK, np.take_along_axis(raw, order, 1))
    assert close(out.requested_logprob_BI, raw[:, REQUESTED])
    if mode != SampleMode.LOGPROBS:
        assert close(out.all_logprob_BV, raw)
    if mode == SampleMode.BEAM:
        nexts = np.argsort(-left, axis=1, kind="stable")[:, :8]
        is_one = np.take_along_axis(left, nexts, 1) > -np.inf
        assert np.array_equal(np.where(is_one, out.candidate_id_BC, -1), np.where(is_one, nexts, -1))
        assert close(out.candidate_logprob_BC, np.take_along_axis(log_softmax(left, axis=1), nexts, 1))
        assert close(
            np.where(is_one, out.candidate_raw_logprob_BC, 0), np.where(is_one, np.take_along_axis(raw, nexts, 1), 0)
        )


@pytest.mark.parametrize("logprobs_mode", ["raw_logits", "processed_logprobs", "processed_logits"])
def test_the_other_numbers_see_the_grammar_too(logprobs_mode):
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 2, (3, 50)).astype(np.float32)
    grammar, rest = rng.random((3, 50)) < 0.4, rng.random((3, 50)) < 0.9
    values = np.where(grammar, logits, -np.inf)
    if logprobs_mode.startswith("processed"):
        z = np.stack([apply_penalties(row, HISTORY, frequency=1.0) for row in logits])
        values = np.where(grammar & rest, z, -np.inf)
    if logprobs_mode.endswith("logprobs"):
        values = log_softmax(values, axis=1)
    assert close(sample_with(logits, grammar, rest, SampleMode.ALL_LOGPROBS, logprobs_mode).all_logprob_BV, values)


@pytest.mark.parametrize("mode", [SampleMode.PROCESSORS, *SCORED])
def test_a_row_without_a_grammar_is_the_same_beside_one_that_has_one(mode):
    rng = np.random.default_rng(2)
    logits, free = rng.normal(0, 2, (4, 50)).astype(np.float32), np.ones((4, 50), bool)
    grammar = free.copy()
    grammar[1], grammar[3] = rng.random(50) < 0.2, False
    alone, beside = (sample_with(logits, one, free, mode) for one in (free, grammar))
    for ours, theirs in zip(jax.tree.leaves(beside), jax.tree.leaves(alone), strict=True):
        assert np.array_equal(np.asarray(ours)[::2].view(np.int32), np.asarray(theirs)[::2].view(np.int32))
    assert int(beside.token_B[3]) == NOTHING_ALLOWED


def test_no_grammars_at_all_are_the_same_as_grammars_that_allow_everything():
    logits = np.random.default_rng(3).normal(0, 2, (4, 50)).astype(np.float32)
    given = LogitsInputs(
        penalties.init(4, 50), np.arange(4), np.full((4, 2), 0xFFFFFFFF, np.uint32), np.zeros((4, 3), np.int32)
    )
    rest = (np.stack([pack_params(PARAMS, 7)] * 4), np.full(4, 9, np.int32))
    options = {"mode": SampleMode.LOGPROBS, "config": LogprobsConfig(6)}
    without = step(logits, *rest, given, **options)
    everything = step(logits, *rest, replace(given, grammar_BM=given.mask_BM), **options)
    for ours, theirs in zip(jax.tree.leaves(everything), jax.tree.leaves(without), strict=True):
        assert np.array_equal(ours, theirs)
