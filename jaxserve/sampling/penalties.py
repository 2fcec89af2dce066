"""Logit biases and repetition, frequency and presence penalties, and the state that they need for every batch row.

The state stays on the device from step to step. `set_row` replaces a row's state when a sequence that needs it takes
the row, so nothing is left of the sequence before it; `update_counts` adds each new token. The state of a row whose
request uses neither penalties nor biases is not read.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxserve.parallel.ranks import ONE_RANK, Ranks
from jaxserve.sampling.columns import MAX_FLOAT32, SamplingColumns

MAX_BIAS = 100.0  # larger biases are clipped to this


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True)
class PenaltyState:
    """State of R rows, one more than the batch has: padding rows write into the last one.

    count_RV        int32, how often each token occurs in the output
    prompt_mask_RM  uint32, M = ceil(V / 32); bit t % 32 of word t // 32 is set if token t occurs in the prompt
    bias_RV         float32, added to the logits
    """

    count_RV: Array
    prompt_mask_RM: Array
    bias_RV: Array


class PenaltyRow(NamedTuple):
    """One row of PenaltyState, built on the host."""

    count_V: np.ndarray
    prompt_mask_M: np.ndarray
    bias_V: np.ndarray


def init(num_rows: int, vocab_size: int) -> PenaltyState:
    """Return the state of num_rows rows without any history or bias: all zeros."""
    return PenaltyState(
        jnp.zeros((num_rows, vocab_size), jnp.int32),
        jnp.zeros((num_rows, num_words(vocab_size)), jnp.uint32),
        jnp.zeros((num_rows, vocab_size), jnp.float32),
    )


def build_row(
    prompt_ids: Sequence[int], output_ids: Sequence[int], bias: Iterable[tuple[int, float]], vocab_size: int
) -> PenaltyRow:
    """Build the row of a sequence from its prompt, its output so far, and its biases as (token id, bias)."""
    bias_V = np.zeros(vocab_size, np.float32)
    for token, value in bias:
        bias_V[token] = min(max(value, -MAX_BIAS), MAX_BIAS)
    count_V = np.bincount(np.array(output_ids, np.int64), minlength=vocab_size).astype(np.int32)
    return PenaltyRow(count_V, pack_bits(prompt_ids, vocab_size), bias_V)


def pad_row(row: PenaltyRow, vocab_size: int) -> PenaltyRow:
    """Return the row with further token ids, up to vocab_size, that never occur; the row itself if it has so many."""
    num = vocab_size - len(row.count_V)
    if num == 0:
        return row
    num_new_words = num_words(vocab_size) - len(row.prompt_mask_M)
    return PenaltyRow(
        np.pad(row.count_V, (0, num)), np.pad(row.prompt_mask_M, (0, num_new_words)), np.pad(row.bias_V, (0, num))
    )


def set_row(state: PenaltyState, row: Array, values: PenaltyRow) -> PenaltyState:
    """Replace one row of the state; row is an int32 scalar. The caller donates state."""

    def set_axis(old_RX: Array, new_X: Any) -> Array:
        return lax.dynamic_update_slice(old_RX, new_X[None], (row, 0))

    return PenaltyState(
        set_axis(state.count_RV, values.count_V),
        set_axis(state.prompt_mask_RM, values.prompt_mask_M),
        set_axis(state.bias_RV, values.bias_V),
    )


def apply_bias_and_penalties(logits_BV: Array, state: PenaltyState, row_B: Array, params: SamplingColumns) -> Array:
    """Add biases to logits_BV, then apply the penalties; row_B says which row of the state belongs to which logits.

    Rows without biases and penalties keep their logits bit for bit. -inf stays -inf, and no finite logit becomes
    infinite. The repetition penalty is that of Keskar et al. (CTRL, arXiv 1909.05858) over prompt and output; the
    frequency and presence penalties are OpenAI's, over the output.
    """
    biased_BV = logits_BV + jnp.where(params.has_bias_B[:, None], state.bias_RV[row_B], 0.0)
    count_BV = state.count_RV[row_B]
    strength_B1 = jnp.where(params.repetition_penalty_B == 0, 1.0, params.repetition_penalty_B)[:, None]
    repeated_BV = ((count_BV > 0) | unpack_bits(state.prompt_mask_RM[row_B], logits_BV.shape[1])) & (strength_B1 != 1.0)
    weaker_BV = jnp.where(biased_BV > 0, biased_BV / strength_B1, biased_BV * strength_B1)
    z_BV = jnp.where(repeated_BV, weaker_BV, biased_BV)
    z_BV -= params.frequency_penalty_B[:, None] * count_BV.astype(jnp.float32)
    z_BV -= jnp.where(count_BV > 0, params.presence_penalty_B[:, None], 0.0)
    changes_BV = (params.has_bias_B | params.has_penalties_B)[:, None] & jnp.isfinite(logits_BV)
    return jnp.where(changes_BV, jnp.clip(z_BV, -MAX_FLOAT32, MAX_FLOAT32), logits_BV)


def update_counts(
    state: PenaltyState, row_B: Array, token_B: Array, params: SamplingColumns, ranks: Ranks = ONE_RANK
) -> PenaltyState:
    """Count each row's newest token if the row has penalties. The caller donates state."""
    row_B = jnp.where(params.has_penalties_B, row_B, state.count_RV.shape[0] - 1)
    if ranks.size > 1:
        num = state.count_RV.shape[1]
        column_B = token_B - ranks.offset(num)
        column_B = jnp.where(
            column_B < 0, num, column_B
        )  # behind the end, where nothing is counted, as on the ranks above
        count_RV = state.count_RV.at[row_B, column_B].add(1, mode="drop")
        return PenaltyState(count_RV, state.prompt_mask_RM, state.bias_RV)
    return PenaltyState(state.count_RV.at[row_B, token_B].add(1), state.prompt_mask_RM, state.bias_RV)


def num_words(vocab_size: int) -> int:
    """Return how many 32-bit words hold one bit for every token."""
    return -(-vocab_size // 32)


def pack_bits(ids: Iterable[int], vocab_size: int) -> np.ndarray:
    """Return a bit mask, uint32 [num_words], in which the bits of these token ids are set."""
    words_M, id_N = np.zeros(num_words(vocab_size), np.uint32), np.array(list(ids), np.uint32)
    np.bitwise_or.at(words_M, id_N >> 5, np.uint32(1) << (id_N & 31))
    return words_M


def unpack_bits(words_BM: Array, vocab_size: int) -> Array:
    """Expand bit masks to bool [B, vocab_size]. Surplus bits are ignored."""
    bits_BM32 = (words_BM[:, :, None] >> jnp.arange(32, dtype=jnp.uint32)) & jnp.uint32(1)
    return bits_BM32.reshape(words_BM.shape[0], -1)[:, :vocab_size] != 0
