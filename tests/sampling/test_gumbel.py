"""Gumbel noise: its words, its distribution, and that it depends on seed, position and token alone."""

import jax
import jax.numpy as jnp
import numpy as np
import plain_sampler
import pytest
from scipy.stats import chisquare

from jaxserve.sampling.columns import SamplingColumns, pack_params, unpack_columns
from jaxserve.sampling.gumbel import gumbel_noise, threefry2x32
from jaxserve.sampling.sampler import SampleMode, sample
from jaxserve.sampling_params import SamplingParams

SEEDS = [-2, 0, 1, 2**32, 2**63 - 1, -(2**63)]


def rows_for(seeds: list[int], **settings: float) -> SamplingColumns:
    return unpack_columns(jnp.asarray(np.stack([pack_params(SamplingParams(**settings), seed) for seed in seeds])))


def noise(seeds: list[int], positions: list[int], vocab: int) -> np.ndarray:
    rows = rows_for(seeds)
    position_B = jnp.asarray(positions, jnp.int32)
    return np.asarray(jax.jit(gumbel_noise, static_argnums=3)(rows.seed_low_B, rows.seed_high_B, position_B, vocab))


def sample_counts(logits: np.ndarray, *, seed: int, num: int, batch_size: int, **settings: float) -> np.ndarray:
    """Count how often each token is sampled at num positions of one seed."""

    @jax.jit
    def sample_batch(packed_BS: jax.Array, first: jax.Array) -> jax.Array:
        logits_BV = jnp.broadcast_to(jnp.asarray(logits, jnp.float32), (batch_size, len(logits)))
        position_B = first + jnp.arange(batch_size, dtype=jnp.int32)
        return sample(logits_BV, unpack_columns(packed_BS), position_B, mode=SampleMode.SAMPLE).token_B

    packed_BS = jnp.asarray(np.stack([pack_params(SamplingParams(**settings), seed)] * batch_size))
    tokens = [sample_batch(packed_BS, jnp.int32(first)) for first in range(0, num, batch_size)]
    return np.bincount(np.concatenate(tokens), minlength=len(logits))


@pytest.mark.parametrize(
    ("key", "counter", "words"),
    [  # the known answers of the authors' Random123 library, and of JAX's own generator
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_threefry_gives_the_known_answers(key, counter, words):
    ours = threefry2x32(*(jnp.full((1,), word, jnp.uint32) for word in (*key, *counter)))
    assert tuple(int(word[0]) for word in ours) == words


@pytest.mark.parametrize("seed", SEEDS)
def test_the_noise_is_that_of_the_plain_sampler(seed):
    """Equal to the last bits where it is great; next to v = 1, where it is small, float32 is coarser."""
    ours, theirs = noise([seed], [12345], 5000)[0], -np.log(plain_sampler.exponentials(seed, 12345, 5000))
    assert np.allclose(ours[theirs > -1], theirs[theirs > -1], rtol=0, atol=2e-6)
    assert np.allclose(ours, theirs, rtol=0, atol=0.05)


def test_the_noise_is_finite_for_every_word():
    assert np.isfinite(noise([0] * 8, list(range(8)), 2**20)).all()


def test_noise_depends_on_neither_the_batch_nor_the_vocabulary():
    together = noise(SEEDS, list(range(6)), 1000)
    for row, seed in enumerate(SEEDS):
        assert np.array_equal(noise([seed], [row], 1000)[0], together[row])
        assert np.array_equal(noise([seed], [row], 333)[0], together[row, :333])


def test_seeds_positions_and_tokens_are_unrelated():
    seeds = [7, 7, 8, 7 + 2**32, 7 - 2**63, -7]
    rows = noise(seeds, [100, 101, 100, 100, 100, 100], 2**16)
    related = np.corrcoef(np.concatenate([rows, np.roll(rows, 1, axis=1)])) - np.eye(12)
    assert np.abs(related).max() < 5 / 2**8  # five deviations of a correlation over 2**16 pairs


def test_the_greatest_values_are_distinct():
    """The 1000 greatest of 128k, where noise from 24-bit uniforms near 1 has about 128 values."""
    best = np.sort(noise([3], [0], 2**17)[0])[-1000:]
    assert len(np.unique(best)) >= 998


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_a_small_skewed_distribution_is_sampled_fairly(temperature):
    share = np.array([0.55, 0.25, 0.1, 0.05, 0.03, 0.015, 0.004, 0.001])
    counts = sample_counts(np.log(share), seed=-2, num=40960, batch_size=8192, temperature=temperature)
    expected = share ** (1 / temperature) / np.sum(share ** (1 / temperature))
    assert chisquare(counts, expected * counts.sum()).pvalue > 1e-3


@pytest.mark.parametrize("slope", [0.0, 1.0])
def test_a_vocabulary_of_128k_is_sampled_fairly(slope):
    """Flat, and falling as 1 / rank over scattered ids; counted in 64 groups of equal odds, and by id."""
    vocab, num = 2**17, 2048
    rank = np.random.default_rng(0).permutation(vocab) + 1.0
    share = rank**-slope / np.sum(rank**-slope)
    counts = sample_counts(np.log(share), seed=2**63 - 1, num=num, batch_size=8)
    assert counts.sum() == num
    for order in (np.argsort(rank), np.arange(vocab)):
        group = np.minimum(np.cumsum(share[order]) * 64, 63.0).astype(int)
        expected = np.bincount(group, share[order], 64) * num
        seen = np.bincount(group, counts[order], 64)
        live = expected > 5
        assert chisquare(seen[live], expected[live] * seen[live].sum() / expected[live].sum()).pvalue > 1e-3


def test_filtered_samples_keep_the_odds_among_what_is_left():
    share = np.array([0.4, 0.3, 0.2, 0.1])
    counts = sample_counts(np.log(share), seed=1, num=16384, batch_size=8192, top_k=3, top_p=0.5)
    assert counts[2:].sum() == 0
    assert chisquare(counts[:2], np.array([4, 3]) / 7 * counts.sum()).pvalue > 1e-3
