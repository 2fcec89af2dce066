"""Rotary positions: angles, their scalings, and the rotation.

Every pair (i, i + H/2) of a head's numbers is turned by position * frequency[i]. A scaling changes the frequencies,
so that a model reads further than it was trained. Frequencies are worked out in float32 numpy while tracing, in the
order of operations that checkpoints were trained and are judged with (transformers, modeling_rope_utils.py), because
at position 100 000 one unit in the last place of a frequency is already 0.006 radians.
"""

import math
from dataclasses import dataclass, replace
from typing import TypeAlias

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
class LongRopeScaling:
    """LongRoPE (arXiv 2402.13753): each frequency divided by a factor of its own, from one of two lists.

    The long list holds where requests may be longer than original_positions. transformers chooses anew for every
    sequence; keys that lie in a cache cannot be turned again, so here max_positions, the longest request that is
    served, decides once for all (as in vLLM). attention_factor multiplies sine and cosine.
    """

    short_factors: tuple[float, ...]
    long_factors: tuple[float, ...]
    original_positions: int
    attention_factor: float
    max_positions: int

    @property
    def factors(self) -> tuple[float, ...]:
        """Return the list for requests of up to max_positions tokens."""
        return self.long_factors if self.max_positions > self.original_positions else self.short_factors


Scaling: TypeAlias = LinearScaling | Llama3Scaling | YarnScaling | LongRopeScaling


@dataclass(frozen=True, slots=True)
class RopeSpec:
    """The rotation of query and key heads: the numbers of a head that rotate, and their frequencies.

    theta           base of the geometric row of frequencies
    scaling         None: as trained
    rotary_dim      the first so many numbers of a head turn; None: all
    is_interleaved  neighbours (2i, 2i + 1) are turned together instead of (i, i + rotary_dim / 2)
    turning_pairs   the first so many of those pairs turn, as fast as if all did; None: all (Gemma 4)
    """

    theta: float
    scaling: Scaling | None = None
    rotary_dim: int | None = None
    is_interleaved: bool = False
    turning_pairs: int | None = None

    def for_length(self, max_model_len: int) -> "RopeSpec":
        """Return the scaling for requests of at most so many tokens."""
        if not isinstance(self.scaling, LongRopeScaling):
            return self
        return replace(self, scaling=replace(self.scaling, max_positions=max_model_len))


def inverse_frequencies(rope: RopeSpec, head_dim: int) -> np.ndarray:
    """Return radians per position, float32 [rotary_dim / 2], fastest first; 0 for pairs that do not turn."""
    frequencies = _scaled_frequencies(rope, rope.rotary_dim or head_dim)
    if rope.turning_pairs is not None:
        frequencies[rope.turning_pairs :] = 0
    return frequencies


def _scaled_frequencies(rope: RopeSpec, dim: int) -> np.ndarray:
    """Return the frequencies of all pairs of `dim` numbers."""
    exponent = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
    plain = np.float32(1) / np.float32(rope.theta) ** exponent
    match rope.scaling:
        case None:
            return plain
        case LinearScaling(factor):
            return plain / np.float32(factor)
        case Llama3Scaling() as scaling:
            return _llama3(plain, scaling)
        case YarnScaling() as scaling:
            return _yarn(plain, scaling, rope.theta, dim)
        case LongRopeScaling() as scaling:
            factors = np.array(scaling.factors, np.float32)
            return np.float32(1) / (factors * np.float32(rope.theta) ** exponent)


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
        """Return the dimension whose wave turns that many times in the trained length."""
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
    """Return cosine and sine of position_T int32, float32 [T, rotary_dim] each, for `apply_rope`.

    Computed once a step for all layers that rotate alike.
    Products with ones spread the angles over the numbers that they turn. They are exact, and they keep XLA for CPU
    from computing sines anew in every layer: that costs 5 % of a prompt chunk's time.
    """
    angle = position_T.astype(jnp.float32)[:, None] * inverse_frequencies(rope, head_dim)
    attention_factor = rope.scaling.attention_factor if isinstance(rope.scaling, YarnScaling | LongRopeScaling) else 1.0
    identity = np.eye(angle.shape[1], dtype=np.float32) * np.float32(attention_factor)
    cos_spread, sin_spread = np.concatenate([identity] * 2, axis=1), np.concatenate([-identity, identity], axis=1)
    if rope.is_interleaved:
        cos_spread, sin_spread = (_interleave(spread) for spread in (cos_spread, sin_spread))
    cos = jnp.dot(jnp.cos(angle), cos_spread, precision=lax.Precision.HIGHEST)
    sin = jnp.dot(jnp.sin(angle), sin_spread, precision=lax.Precision.HIGHEST)
    return cos, sin


def _interleave(spread: np.ndarray) -> np.ndarray:
    """Return columns of two halves in the order of neighbours."""
    return spread.reshape(len(spread), 2, -1).swapaxes(1, 2).reshape(len(spread), -1)


def apply_rope(x_TNH: Array, cos_TR: Array, sin_TR: Array, *, is_interleaved: bool = False) -> Array:
    """Turn the first R numbers of every head of every token by its angles, in float32; return x's shape and type.

    By default the first half is turned against the second, the layout of most Hugging Face checkpoints; the sine of
    the first of two numbers is negative.
    """
    rotary_dim = cos_TR.shape[-1]
    rotated = x_TNH if rotary_dim == x_TNH.shape[-1] else x_TNH[..., :rotary_dim]
    wide = rotated.astype(jnp.float32)
    if is_interleaved:
        pairs = wide.reshape(*wide.shape[:-1], -1, 2)
        swapped = pairs[..., ::-1].reshape(wide.shape)
    else:
        first, second = jnp.split(wide, 2, axis=-1)
        swapped = jnp.concatenate([second, first], axis=-1)
    turned = (wide * cos_TR[:, None, :] + swapped * sin_TR[:, None, :]).astype(x_TNH.dtype)
    if rotated is x_TNH:
        return turned
    return jnp.concatenate([turned, x_TNH[..., rotary_dim:]], axis=-1)
