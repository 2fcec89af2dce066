"""Numeric sampling parameters of a batch: one int32 row a request on the host, one array a parameter on the device.

A request's row is packed once and is part of the step plans. Floats are stored as their bits, the seed as two words.
In every column zero means "off", so a row of zeros is valid padding: greedy, without filters.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxserve.sampling_params import SamplingParams

(
    TEMPERATURE,
    TOP_K,
    TOP_P,
    MIN_P,
    SEED_LOW,
    SEED_HIGH,
    REPETITION_PENALTY,
    FREQUENCY_PENALTY,
    PRESENCE_PENALTY,
    HAS_BIAS,
) = range(10)
NUM_COLUMNS = 10
MAX_INT32 = 2**31 - 1
MIN_FLOAT32 = float(np.finfo(np.float32).tiny)
MAX_FLOAT32 = float(np.finfo(np.float32).max)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True)
class SamplingColumns:
    """Sampling parameters of B rows: one array a parameter, zero meaning "off".

    temperature_B         float32; 0 is greedy, and then filters and seed are 0, too
    top_k_B               int32
    top_p_B               float32 in [0, 1)
    min_p_B               float32 in [0, 1]
    seed_low_B            uint32, the lower half of the seed in two's complement
    seed_high_B           uint32, the upper half
    repetition_penalty_B  float32; 0 and 1 are both off
    frequency_penalty_B   float32
    presence_penalty_B    float32
    has_bias_B            bool, whether the row's biases in PenaltyState are added
    """

    temperature_B: Array
    top_k_B: Array
    top_p_B: Array
    min_p_B: Array
    seed_low_B: Array
    seed_high_B: Array
    repetition_penalty_B: Array
    frequency_penalty_B: Array
    presence_penalty_B: Array
    has_bias_B: Array

    @property
    def has_penalties_B(self) -> Array:
        """Whether a row has a penalty and so needs its token history, bool."""
        return (self.repetition_penalty_B != 0) | (self.frequency_penalty_B != 0) | (self.presence_penalty_B != 0)


def pack_params(params: SamplingParams, seed: int) -> np.ndarray:
    """Pack the parameters of one sequence into a row, int32 [NUM_COLUMNS].

    seed is the sequence's own (already chosen if the request gave none), taken modulo 2**64. The filters of a greedy
    request are left out, because they cannot change its token.
    """
    row = empty_row()
    if params.repetition_penalty != 1:
        row[REPETITION_PENALTY] = _bits(min(max(params.repetition_penalty, MIN_FLOAT32), MAX_FLOAT32))
    row[FREQUENCY_PENALTY] = _bits(params.frequency_penalty)
    row[PRESENCE_PENALTY] = _bits(params.presence_penalty)
    row[HAS_BIAS] = bool(params.logit_bias)
    if params.is_greedy:
        return row
    row[TEMPERATURE] = _bits(params.temperature)
    row[TOP_K] = min(max(params.top_k, 0), MAX_INT32)
    # A top_p too small for float32 must not turn into "off"; any value this small keeps the best token alone.
    row[TOP_P] = _bits(max(params.top_p, MIN_FLOAT32)) if np.float32(params.top_p) < 1 else 0
    row[MIN_P] = _bits(params.min_p)
    words = np.array([seed % 2**64], np.uint64).view(np.uint32)  # little end first, as on every machine JAX runs on
    row[SEED_LOW : SEED_HIGH + 1] = words.view(np.int32)
    return row


def empty_row() -> np.ndarray:
    """Return the row of padding: greedy, without filters, int32 [NUM_COLUMNS]."""
    return np.zeros(NUM_COLUMNS, np.int32)


def unpack_columns(packed_BS: Array) -> SamplingColumns:
    """Split packed rows, int32 [B, NUM_COLUMNS], into one array a parameter. Runs on the device."""
    assert packed_BS.shape[1] == NUM_COLUMNS and packed_BS.dtype == jnp.int32, (packed_BS.shape, packed_BS.dtype)

    def column(index: int, dtype: type) -> Array:
        return lax.bitcast_convert_type(packed_BS[:, index], dtype)

    return SamplingColumns(
        temperature_B=column(TEMPERATURE, jnp.float32),
        top_k_B=packed_BS[:, TOP_K],
        top_p_B=column(TOP_P, jnp.float32),
        min_p_B=column(MIN_P, jnp.float32),
        seed_low_B=column(SEED_LOW, jnp.uint32),
        seed_high_B=column(SEED_HIGH, jnp.uint32),
        repetition_penalty_B=column(REPETITION_PENALTY, jnp.float32),
        frequency_penalty_B=column(FREQUENCY_PENALTY, jnp.float32),
        presence_penalty_B=column(PRESENCE_PENALTY, jnp.float32),
        has_bias_B=packed_BS[:, HAS_BIAS] != 0,
    )


def _bits(value: float) -> np.int32:
    return np.float32(value).view(np.int32)
