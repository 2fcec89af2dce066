"""What penalties and biases must know of a row: one line a row of the batch, kept on the device from step to step.

A row's line is written whole when a request that needs one takes the row, and counts its tokens from then on, so
nothing of the row's last owner is left. Rows that use neither penalties nor biases never look at theirs.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxserve.sampling.rows import LARGEST, SamplingRows

MAX_BIAS = 100.0  # a bias beyond counts as this much


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True)
class Lines:
    """R lines, one more than there are rows: padding writes into the last.

    count_RV   int32, how often the answer holds each token
    seen_RM    uint32, M = ceil(V / 32), bit t % 32 of word t // 32: the prompt holds token t
    bias_RV    float32, added to the logits
    """

    count_RV: Array
    seen_RM: Array
    bias_RV: Array


class Line(NamedTuple):
    """One row's line, made on the host; what the axes hold is said in Lines."""

    count_V: np.ndarray
    seen_M: np.ndarray
    bias_V: np.ndarray


def fresh(num_rows: int, vocab_size: int) -> Lines:
    """num_rows lines of zeros."""
    return Lines(
        jnp.zeros((num_rows, vocab_size), jnp.int32),
        jnp.zeros((num_rows, num_words(vocab_size)), jnp.uint32),
        jnp.zeros((num_rows, vocab_size), jnp.float32),
    )


def line(
    prompt_ids: Sequence[int], answer_ids: Sequence[int], bias: Iterable[tuple[int, float]], vocab_size: int
) -> Line:
    """What a row must know of a request with this prompt, this much of an answer, and these biases by token id."""
    bias_V = np.zeros(vocab_size, np.float32)
    for token, value in bias:
        bias_V[token] = min(max(value, -MAX_BIAS), MAX_BIAS)
    count_V = np.bincount(np.array(answer_ids, np.int64), minlength=vocab_size).astype(np.int32)
    return Line(count_V, bitmap(prompt_ids, vocab_size), bias_V)


def write(lines: Lines, row: Array, new: Line) -> Lines:
    """Replaces one row's line, row being int32. Donate lines."""

    def put(old_RX: Array, new_X: Any) -> Array:
        return lax.dynamic_update_slice(old_RX, new_X[None], (row, 0))

    return Lines(put(lines.count_RV, new.count_V), put(lines.seen_RM, new.seen_M), put(lines.bias_RV, new.bias_V))


def shaped(logits_BV: Array, lines: Lines, row_B: Array, rows: SamplingRows) -> Array:
    """Biases, then penalties; a row without either keeps its logits bit for bit.

    -inf stays -inf, and nothing finite becomes infinite.
    """
    biased_BV = logits_BV + jnp.where(rows.biased_B[:, None], lines.bias_RV[row_B], 0.0)
    count_BV = lines.count_RV[row_B]
    strength_B1 = jnp.where(rows.repetition_B == 0, 1.0, rows.repetition_B)[:, None]
    repeated_BV = ((count_BV > 0) | unpack_bits(lines.seen_RM[row_B], logits_BV.shape[1])) & (strength_B1 != 1.0)
    weaker_BV = jnp.where(biased_BV > 0, biased_BV / strength_B1, biased_BV * strength_B1)
    z_BV = jnp.where(repeated_BV, weaker_BV, biased_BV)
    z_BV -= rows.frequency_B[:, None] * count_BV.astype(jnp.float32)
    z_BV -= jnp.where(count_BV > 0, rows.presence_B[:, None], 0.0)
    changes_BV = (rows.biased_B | rows.penalised_B)[:, None] & jnp.isfinite(logits_BV)
    return jnp.where(changes_BV, jnp.clip(z_BV, -LARGEST, LARGEST), logits_BV)


def counted(lines: Lines, row_B: Array, token_B: Array, rows: SamplingRows) -> Lines:
    """Counts each row's newest token, where somebody will ask. Donate lines."""
    row_B = jnp.where(rows.penalised_B, row_B, lines.count_RV.shape[0] - 1)
    return Lines(lines.count_RV.at[row_B, token_B].add(1), lines.seen_RM, lines.bias_RV)


def num_words(vocab_size: int) -> int:
    """Words of 32 bits that hold a bit for every token."""
    return -(-vocab_size // 32)


def bitmap(ids: Iterable[int], vocab_size: int) -> np.ndarray:
    """uint32 [num_words]: the bits of these ids."""
    words_M, id_N = np.zeros(num_words(vocab_size), np.uint32), np.array(list(ids), np.uint32)
    np.bitwise_or.at(words_M, id_N >> 5, np.uint32(1) << (id_N & 31))
    return words_M


def unpack_bits(words_BM: Array, vocab_size: int) -> Array:
    """bool [B, vocab_size]: whether each token's bit is set; surplus bits are ignored."""
    bits_BM32 = (words_BM[:, :, None] >> jnp.arange(32, dtype=jnp.uint32)) & jnp.uint32(1)
    return bits_BM32.reshape(words_BM.shape[0], -1)[:, :vocab_size] != 0
