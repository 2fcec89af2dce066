"""The whole sampler: against the plain one, alone and in a batch, and over rows that cannot be sampled."""

from functools import partial

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_sampler import Settings, hostile_row, kept, scores
from scipy.special import log_softmax

from jaxserve.sampling import penalties
from jaxserve.sampling.columns import empty_row, pack_params, unpack_columns
from jaxserve.sampling.sampler import (
    NO_TOKEN,
    NOTHING_ALLOWED,
    LogitsInputs,
    LogprobsConfig,
    SampleMode,
    SamplerOutput,
    sample,
)
from jaxserve.sampling_params import SamplingParams

VOCAB = 1000
SEEDS = [-2, 0, 5, 2**63 - 1, -(2**63), 11, 12, 13]
SOME_PARAMS = [
    SamplingParams(),
    SamplingParams(temperature=0),
    SamplingParams(temperature=0.3, top_k=40),
    SamplingParams(top_p=0.9),
    SamplingParams(temperature=2, min_p=0.05),
    SamplingParams(temperature=0.7, top_k=20, top_p=0.8, min_p=0.01),
    SamplingParams(temperature=0.01),
    SamplingParams(top_k=1),
]


@partial(jax.jit, static_argnames=("mode", "config"))
def step(logits_BV, packed_BS, position_B, inputs=None, *, mode, config) -> SamplerOutput:
    return sample(logits_BV, unpack_columns(packed_BS), position_B, inputs, mode=mode, logprobs_config=config)


def run(logits, params, *, seeds=SEEDS, position=100, mask=None, mode=SampleMode.SAMPLE, **options) -> SamplerOutput:
    rows = [pack_params(each, seed) for each, seed in zip(params, seeds, strict=False)]
    position_B, vocab = np.broadcast_to(np.asarray(position, np.int32), len(rows)), np.shape(logits)[1]
    inputs = None
    if mode >= SampleMode.PROCESSORS:
        mask = bits(np.ones((len(rows), vocab), bool)) if mask is None else mask
        requested = np.zeros((len(rows), 3), np.int32)
        inputs = LogitsInputs(penalties.init(len(rows), vocab), np.arange(len(rows), dtype=np.int32), mask, requested)
    return step(
        np.asarray(logits, np.float32), np.stack(rows), position_B, inputs, mode=mode, config=LogprobsConfig(**options)
    )


def bits(allowed: np.ndarray) -> np.ndarray:
    padded = np.pad(allowed, ((0, 0), (0, -allowed.shape[1] % 32)))
    return np.packbits(padded, axis=1, bitorder="little").view(np.uint32)


def some_logits(kinds: list[int], seed: int = 0, vocab: int = VOCAB) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([hostile_row(kind, vocab, rng) for kind in kinds])


@settings(max_examples=60, deadline=None)
@given(kinds=st.lists(st.integers(0, 7), min_size=8, max_size=8), seed=st.integers(0, 2**32), first=st.integers(0, 7))
def test_every_token_is_the_plain_samplers_choice(kinds, seed, first):
    """Or ties with it within the rounding of float32, and is within rounding of being kept."""
    logits, params = some_logits(kinds, seed), SOME_PARAMS[first:] + SOME_PARAMS[:first]
    tokens = np.asarray(run(logits, params, position=seed % 2**31).token_B)
    for token, row, each, row_seed in zip(tokens, logits, params, SEEDS, strict=True):
        if each.is_greedy:
            assert token == np.argmax(row)
            continue
        tight, loose = (
            Settings(
                each.temperature, each.top_k, min(each.top_p * (1 + sign * 1e-5), 1), each.min_p * (1 - sign * 1e-4)
            )
            for sign in (-1, 1)
        )
        perturbed = scores(row, Settings(each.temperature), row_seed, seed % 2**31)
        assert kept(row, loose)[token]
        assert perturbed[token] >= perturbed[kept(row, tight)].max() - 1e-4


@pytest.mark.parametrize("seed", range(20))
def test_a_row_alone_is_the_same_row_in_a_batch(seed):
    """Bit for bit, whatever the batch size and the position in it."""
    rng = np.random.default_rng(seed)
    logits, position = some_logits(rng.integers(0, 8, 8).tolist(), seed), rng.integers(0, 2**20, 8)
    together = np.asarray(run(logits, SOME_PARAMS, position=position).token_B)
    order = rng.permutation(8)
    for chosen in (order, order[:3], order[3:4]):
        params, seeds = [SOME_PARAMS[i] for i in chosen], [SEEDS[i] for i in chosen]
        alone = run(logits[chosen], params, seeds=seeds, position=position[chosen]).token_B
        assert np.array_equal(alone, together[chosen])


def test_padding_changes_no_token():
    logits = some_logits([0] * 8)
    padded = np.concatenate([logits, np.zeros((2, VOCAB), np.float32)])
    rows = np.stack(
        [pack_params(each, seed) for each, seed in zip(SOME_PARAMS, SEEDS, strict=True)] + [empty_row()] * 2
    )
    tokens = step(padded, rows, np.full(10, 100, np.int32), mode=SampleMode.SAMPLE, config=LogprobsConfig()).token_B
    assert np.array_equal(tokens, [*run(logits, SOME_PARAMS).token_B, 0, 0])


def test_neutral_filters_change_no_token():
    logits = some_logits([0] * 8)
    plain = run(logits, [SamplingParams()] * 8).token_B
    neutral_params = SamplingParams(top_k=VOCAB, top_p=1.0, min_p=0.0)
    assert np.array_equal(run(logits, [neutral_params] * 8).token_B, plain)
    mixed = run(logits, [neutral_params, SamplingParams(top_k=2, top_p=0.5)] * 4).token_B
    assert np.array_equal(mixed[::2], plain[::2])


@pytest.mark.parametrize("seed", range(3))
def test_temperature_zero_is_greedy_in_every_mode_and_takes_the_lowest_of_equals(seed):
    logits, greedy = some_logits(list(range(8)), seed), [SamplingParams(temperature=0, top_p=0.5)] * 8
    for mode in SampleMode:
        assert np.array_equal(run(logits, greedy, mode=mode).token_B, np.argmax(logits, axis=1))


def test_a_greedy_row_beside_a_sampled_one_is_still_greedy():
    logits = some_logits(list(range(8)))
    tokens = run(logits, [SamplingParams(temperature=0), SamplingParams()] * 4).token_B
    assert np.array_equal(tokens[::2], np.argmax(logits, axis=1)[::2])


@pytest.mark.parametrize("mode", [mode for mode in SampleMode if mode > SampleMode.SAMPLE])
def test_the_higher_modes_sample_what_mode_sample_samples(mode):
    logits = some_logits([0] * 8)
    assert np.array_equal(run(logits, SOME_PARAMS, mode=mode).token_B, run(logits, SOME_PARAMS).token_B)


@pytest.mark.parametrize("mode", SampleMode)
@pytest.mark.parametrize("params", [SamplingParams(temperature=0), SamplingParams(top_k=5, top_p=0.9, min_p=0.1)])
def test_a_row_that_cannot_be_sampled_gives_no_token_and_changes_no_other_row(mode, params):
    logits = some_logits([0] * 8)
    healthy = run(logits, [params] * 8, mode=mode).token_B
    logits[0, 3], logits[2, 999], logits[4, 0], logits[6] = np.nan, -np.nan, np.inf, -np.inf
    tokens = run(logits, [params] * 8, mode=mode).token_B
    assert np.array_equal(tokens[::2], [NO_TOKEN] * 4)
    assert np.array_equal(tokens[1::2], healthy[1::2])


def test_only_allowed_tokens_are_sampled_and_none_where_none_is():
    logits, allowed = some_logits([0] * 8), np.zeros((8, VOCAB), bool)
    allowed[:4, [31, 32, 999]] = True
    logits[3, [31, 32, 999]] = -np.inf
    tokens = np.asarray(run(logits, SOME_PARAMS, mode=SampleMode.LOGPROBS, mask=bits(allowed)).token_B)
    assert set(tokens[:3]) <= {31, 32, 999}
    assert np.array_equal(tokens[3:], [NOTHING_ALLOWED] * 5)


def test_a_nan_behind_the_mask_is_still_a_nan():
    logits, allowed = some_logits([0] * 8), np.ones((8, VOCAB), bool)
    logits[1, 7], allowed[1, 7] = np.nan, False
    tokens = run(logits, SOME_PARAMS, mode=SampleMode.LOGPROBS, mask=bits(allowed)).token_B
    assert tokens[1] == NO_TOKEN


@pytest.mark.parametrize("num", [0, 5, VOCAB + 7])
def test_logprobs_are_those_of_the_raw_logits(num):
    """Whatever the temperature, the filters and the mask: the best tokens are forbidden here."""
    logits = some_logits([0, 2, 4, 6] * 2)
    allowed = logits < np.sort(logits, axis=1)[:, -3:-2]
    allowed[allowed.sum(axis=1) == 0] = True
    out = run(logits, SOME_PARAMS, mode=SampleMode.LOGPROBS, mask=bits(allowed), max_logprobs=num)
    expected = log_softmax(logits.astype(np.float64), axis=1)
    order = np.argsort(-logits, axis=1, kind="stable")[:, : min(num, VOCAB)]
    token = np.asarray(out.token_B)[:, None]
    assert np.array_equal(out.top_id_BK, order)
    assert np.allclose(out.top_logprob_BK, np.take_along_axis(expected, order, 1), rtol=1e-5, atol=1e-5)
    assert np.allclose(out.logprob_B, np.take_along_axis(expected, token, 1)[:, 0], rtol=1e-5, atol=1e-5)
    assert np.array_equal(out.rank_B, 1 + (logits > np.take_along_axis(logits, token, 1)).sum(axis=1))


def test_lower_modes_return_tokens_and_nothing_else():
    out = run(some_logits([0] * 8), SOME_PARAMS, mode=SampleMode.GREEDY)
    assert (out.logprob_B, out.rank_B, out.top_id_BK, out.top_logprob_BK) == (None, None, None, None)


@pytest.mark.parametrize("vocab", [33, 262144])
def test_any_vocabulary_will_do(vocab):
    logits = some_logits([0] * 8, vocab=vocab)
    out = run(logits, SOME_PARAMS, mode=SampleMode.LOGPROBS, mask=bits(np.ones((8, vocab), bool)), max_logprobs=4)
    for row, (token, params, seed) in enumerate(zip(out.token_B, SOME_PARAMS, SEEDS, strict=True)):
        perturbed = scores(logits[row], Settings(params.temperature or 0.01), seed, 100)
        left = kept(logits[row], Settings(params.temperature or 0.01, params.top_k, params.top_p, params.min_p))
        best = logits[row] if params.is_greedy else np.where(left, perturbed, -np.inf)
        assert token == np.argmax(best)
