"""Log-probabilities, ranks and the most probable tokens against numpy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from jaxserve.sampling import penalties
from jaxserve.sampling.columns import NUM_COLUMNS, unpack_columns
from jaxserve.sampling.logprobs import compute_logprobs, top_k
from jaxserve.sampling.sampler import LogitsInputs, LogprobsConfig, SampleMode, sample

jitted_score = jax.jit(compute_logprobs, static_argnames="max_logprobs")


def test_a_prompt_token_is_scored_as_a_generated_one():
    logits = np.random.default_rng(0).normal(0, 3, (6, 5000)).astype(np.float32)
    rows, position_B = unpack_columns(jnp.zeros((6, NUM_COLUMNS), jnp.int32)), jnp.zeros(6, jnp.int32)
    everything = np.full((6, penalties.num_words(5000)), 0xFFFFFFFF, np.uint32)
    inputs = LogitsInputs(penalties.init(6, 5000), jnp.arange(6), everything, jnp.zeros((6, 1), jnp.int32))
    out = jax.jit(partial(sample, mode=SampleMode.LOGPROBS, logprobs_config=LogprobsConfig(3)))(
        logits, rows, position_B, inputs
    )
    scored = jitted_score(logits, out.token_B, max_logprobs=3)
    for ours, theirs in zip(scored, (out.logprob_B, out.rank_B, out.top_id_BK, out.top_logprob_BK), strict=True):
        assert np.array_equal(ours, theirs)


def test_a_target_is_scored_wherever_it_ranks():
    logits = np.random.default_rng(1).normal(0, 3, (4, 300)).astype(np.float32)
    order = np.argsort(-logits, axis=1)
    target = order[np.arange(4), [0, 1, 150, 299]].astype(np.int32)
    logprob, rank, top_id, top_logprob = jitted_score(logits, target, max_logprobs=2)
    expected = log_softmax(logits.astype(np.float64), axis=1)
    assert np.array_equal(rank, [1, 2, 151, 300])
    assert np.allclose(logprob, expected[np.arange(4), target], atol=1e-5)
    assert np.array_equal(top_id, order[:, :2])
    assert top_logprob[0, 0] == logprob[0]
    assert top_logprob[1, 1] == logprob[1]


def test_equals_share_a_rank():
    _, rank, top_id, _ = jitted_score(jnp.asarray([[1.0, 2.0, 2.0, 0.0]]), jnp.asarray([2], jnp.int32), max_logprobs=4)
    assert rank[0] == 1
    assert np.array_equal(top_id, [[1, 2, 0, 3]])


def test_the_only_possible_token_has_logprob_zero():
    logits = jnp.full((1, 256), -jnp.inf).at[0, 200].set(-17.3)
    logprob, rank, top_id, top_logprob = jitted_score(logits, jnp.asarray([200], jnp.int32), max_logprobs=2)
    assert (logprob[0], rank[0]) == (0.0, 1)
    assert np.array_equal(top_id, [[200, 0]])
    assert np.array_equal(top_logprob, [[0.0, -np.inf]])


@pytest.mark.parametrize("width", [40, 5120])
def test_zero_and_negative_zero_are_equals(width):
    _, index = top_k(jnp.asarray([[-0.0, 0.0] * (width // 2)], jnp.float32), 10)
    assert np.array_equal(index, [range(10)])


@pytest.mark.parametrize("width", [20, 127, 2560, 2561, 49152])
@pytest.mark.parametrize("values", [2, 50, 10**6])
def test_the_best_are_found_exactly_with_the_lower_id_first(width, values):
    rng = np.random.default_rng(width + values)
    rows = rng.integers(-values, values, (3, width)).astype(np.float32)
    rows[1, rng.random(width) < 0.999] = -np.inf
    value, index = jax.jit(top_k, static_argnums=1)(jnp.asarray(rows), 20)
    expected = np.argsort(-rows, axis=1, kind="stable")[:, :20]
    assert np.array_equal(index, expected)
    assert np.array_equal(value, np.take_along_axis(rows, expected, 1))
