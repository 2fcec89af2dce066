"""A grammar comes before raw log-probabilities are taken, all else after; rows without one do not see it."""

from dataclasses import replace
from functools import cache, partial

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_sampler import History, hostile_row, shaped
from scipy.special import log_softmax

from jaxserve.sampling import penalties
from jaxserve.sampling.columns import pack_params, unpack_columns
from jaxserve.sampling.sampler import NOTHING_ALLOWED, LogitsInputs, LogprobsConfig, SampleMode, sample
from jaxserve.sampling_params import SamplingParams

SCORED = [SampleMode.LOGPROBS, SampleMode.ALL_LOGPROBS, SampleMode.BEAM]
WANTED = (0, 3, 5)
PARAMS = SamplingParams(temperature=0, frequency_penalty=1.0, logit_bias=((2, 4.0),))
HISTORY = History(answer=(7, 7, 9), bias=PARAMS.logit_bias)


@partial(jax.jit, static_argnames=("mode", "how"))
def step(logits_BV, packed_BS, position_B, given, *, mode, how):
    return sample(logits_BV, unpack_columns(packed_BS), position_B, given, mode=mode, logprobs_config=how)


@cache
def histories(num, vocab):
    one = penalties.build_row((), HISTORY.answer, HISTORY.bias, vocab)
    return penalties.PenaltyState(*(np.stack([array] * num) for array in one))


def bitmaps(allowed_BV):
    """A row that allows everything as the engine says it: with all the bits of the last word, too."""
    found = np.stack([penalties.pack_bits(np.flatnonzero(row), len(row)) for row in allowed_BV])
    found[allowed_BV.all(axis=1)] = 0xFFFFFFFF
    return found


def draw(logits, grammar, rest, mode, how="raw_logprobs"):
    """rest: what else is allowed."""
    num, vocab = logits.shape
    given = LogitsInputs(
        histories(num, vocab),
        np.arange(num, dtype=np.int32),
        bitmaps(grammar & rest),
        np.tile(np.array(WANTED, np.int32), (num, 1)),
        bitmaps(grammar) if mode >= SampleMode.LOGPROBS else None,
    )
    score = LogprobsConfig(6, how, num_candidates=8, all_logprobs=True)
    return step(
        logits, np.stack([pack_params(PARAMS, 7)] * num), np.full(num, 9, np.int32), given, mode=mode, how=score
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
    out = draw(logits, grammar, rest, mode)
    raw = log_softmax(np.where(grammar, logits.astype(np.float64), -np.inf), axis=1)
    z = np.stack([shaped(row, HISTORY, frequency=1.0) for row in logits])
    left = np.where(grammar & rest, z, -np.inf)
    token = np.argmax(left, axis=1)
    assert np.array_equal(out.token_B, token)
    own = np.take_along_axis(raw, token[:, None], 1)
    assert close(out.logprob_B, own[:, 0]) and float(out.logprob_B[1]) == 0.0
    assert np.array_equal(out.rank_B, 1 + (raw > own).sum(axis=1))
    order = np.argsort(-raw, axis=1, kind="stable")[:, :6]
    assert np.array_equal(out.top_id_BK, order) and close(out.top_logprob_BK, np.take_along_axis(raw, order, 1))
    assert close(out.requested_logprob_BI, raw[:, WANTED])
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


@pytest.mark.parametrize("how", ["raw_logits", "processed_logprobs", "processed_logits"])
def test_the_other_numbers_see_the_grammar_too(how):
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 2, (3, 50)).astype(np.float32)
    grammar, rest = rng.random((3, 50)) < 0.4, rng.random((3, 50)) < 0.9
    values = np.where(grammar, logits, -np.inf)
    if how.startswith("processed"):
        z = np.stack([shaped(row, HISTORY, frequency=1.0) for row in logits])
        values = np.where(grammar & rest, z, -np.inf)
    if how.endswith("logprobs"):
        values = log_softmax(values, axis=1)
    assert close(draw(logits, grammar, rest, SampleMode.ALL_LOGPROBS, how).all_logprob_BV, values)


@pytest.mark.parametrize("mode", [SampleMode.PROCESSORS, *SCORED])
def test_a_row_without_a_grammar_is_the_same_beside_one_that_has_one(mode):
    rng = np.random.default_rng(2)
    logits, free = rng.normal(0, 2, (4, 50)).astype(np.float32), np.ones((4, 50), bool)
    grammar = free.copy()
    grammar[1], grammar[3] = rng.random(50) < 0.2, False
    alone, beside = (draw(logits, one, free, mode) for one in (free, grammar))
    for ours, theirs in zip(jax.tree.leaves(beside), jax.tree.leaves(alone), strict=True):
        assert np.array_equal(np.asarray(ours)[::2].view(np.int32), np.asarray(theirs)[::2].view(np.int32))
    assert int(beside.token_B[3]) == NOTHING_ALLOWED


def test_no_grammars_at_all_are_the_same_as_grammars_that_allow_everything():
    logits = np.random.default_rng(3).normal(0, 2, (4, 50)).astype(np.float32)
    given = LogitsInputs(
        penalties.init(4, 50), np.arange(4), np.full((4, 2), 0xFFFFFFFF, np.uint32), np.zeros((4, 3), np.int32)
    )
    rest = (np.stack([pack_params(PARAMS, 7)] * 4), np.full(4, 9, np.int32))
    how = {"mode": SampleMode.LOGPROBS, "how": LogprobsConfig(6)}
    without = step(logits, *rest, given, **how)
    everything = step(logits, *rest, replace(given, grammar_BM=given.mask_BM), **how)
    for ours, theirs in zip(jax.tree.leaves(everything), jax.tree.leaves(without), strict=True):
        assert np.array_equal(ours, theirs)
