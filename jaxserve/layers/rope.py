"""Rotary positions: the angles, their scalings, and the turn.

Every pair (i, i + H/2) of a head's numbers is turned by position * frequency[i]. A scaling changes the frequencies,
so that a model reads further than it was trained. Frequencies are worked out in float32 numpy while tracing, in the
order of operations that checkpoints were trained and are judged with (transformers, modeling_rope_utils.py), because
at position 100 000 one unit in the last place of a frequency is already 0.006 radians.
"""

import math
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax import Array, lax


@dataclass(frozen=True, slots=True)
class LinearScaling:
    """All frequencies divided by `factor` (position interpolation)."""

    factor: float


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """Long waves divided by `factor`, short ones kept, those between blended (Llama 3.1, llama-models/model.py).

    A wave is long above original_positions / low_freq_factor tokens, short below original_positions / high_freq_factor.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_positions: int


@dataclass(frozen=True, slots=True)
class YarnScaling:
    """YaRN (arXiv 2309.00071): waves that turn fewer than `beta_slow` times in the trained length are divided by
    `factor`, those that turn more than `beta_fast` times are kept, between them runs a ramp;
    `attention_factor` multiplies sine and cosine, which is to sharpen the softmax.
    `truncate` rounds the ramp's ends to whole dimensions.
    """

    factor: float
    original_positions: int
    beta_fast: float
    beta_slow: float
    attention_factor: float
    truncate: bool


@dataclass(frozen=True, slots=True)
class RopeSpec:
    """theta is the base of the geometric row of frequencies; scaling None means: as trained."""

    theta: float
    scaling: LinearScaling | Llama3Scaling | YarnScaling | None = None


def inverse_frequencies(rope: RopeSpec, head_dim: int) -> np.ndarray:
    """Radians per position, float32 [head_dim / 2], fastest first."""
    exponent = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    plain = np.float32(1) / np.float32(rope.theta) ** exponent
    match rope.scaling:
        case None:
            return plain
        case LinearScaling(factor):
            return plain / np.float32(factor)
        case Llama3Scaling() as scaling:
            return _llama3(plain, scaling)
        case YarnScaling() as scaling:
            return _yarn(plain, scaling, rope.theta, head_dim)


def _llama3(plain: np.ndarray, scaling: Llama3Scaling) -> np.ndarray:
    factor = np.float32(scaling.factor)
    wavelength = np.float32(2 * math.pi) / plain
    blend = (np.float32(scaling.original_positions) / wavelength - np.float32(scaling.low_freq_factor)) / np.float32(
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    between = (1 - blend) * plain / factor + blend * plain
    is_long = wavelength > scaling.original_positions / scaling.low_freq_factor
    is_short = wavelength < scaling.original_positions / scaling.high_freq_factor
    return np.where(is_long, plain / factor, np.where(is_short, plain, between)).astype(np.float32)


def _yarn(plain: np.ndarray, scaling: YarnScaling, theta: float, head_dim: int) -> np.ndarray:
    def dimension(turns: float) -> float:
        """The dimension whose wave turns that many times in the trained length."""
        return head_dim * math.log(scaling.original_positions / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = dimension(scaling.beta_fast), dimension(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    if low == high:
        high += 0.001  # a ramp of no width would divide by zero
    ramp = np.clip((np.arange(head_dim // 2, dtype=np.float32) - low) / (high - low), 0, 1).astype(np.float32)
    return (plain / np.float32(scaling.factor) * ramp + plain * (1 - ramp)).astype(np.float32)


def compute_cos_sin(position_T: Array, rope: RopeSpec, head_dim: int) -> tuple[Array, Array]:
    """position_T int32 → cosine and sine, float32 [T, head_dim], as `apply_rope` wants them.

    Computed once a step for all layers.

    Products with ones spread the angles over both halves of a head. They are exact, and they keep XLA for CPU from
    computing sines anew in every layer: that costs 5 % of a prompt chunk's time.
    """
    angle = position_T.astype(jnp.float32)[:, None] * inverse_frequencies(rope, head_dim)
    attention_factor = rope.scaling.attention_factor if isinstance(rope.scaling, YarnScaling) else 1.0
    identity = np.eye(head_dim // 2, dtype=np.float32) * np.float32(attention_factor)
    cos = jnp.dot(jnp.cos(angle), np.concatenate([identity, identity], axis=1), precision=lax.Precision.HIGHEST)
    sin = jnp.dot(jnp.sin(angle), np.concatenate([-identity, identity], axis=1), precision=lax.Precision.HIGHEST)
    return cos, sin


def apply_rope(x_TNH: Array, cos_TH: Array, sin_TH: Array) -> Array:
    """Turns every head of every token by its angles, in float32; returns x's shape and type.

    First half against second half, the layout of Hugging Face checkpoints (not interleaved pairs, as in Meta's); the
    sine of the first half is negative.
    """
    wide = x_TNH.astype(jnp.float32)
    first, second = jnp.split(wide, 2, axis=-1)
    turned = wide * cos_TH[:, None, :] + jnp.concatenate([second, first], axis=-1) * sin_TH[:, None, :]
    return turned.astype(x_TNH.dtype)
