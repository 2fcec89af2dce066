"""The mask of allowed tokens, and the filters min_p, top_k and top_p.

A filter keeps every token whose logit is at or above a threshold, ties included, so a filter is a function from
logits to thresholds, float32 [B]; -inf keeps everything. Thresholds apply to logits before the temperature: dividing
by a positive number keeps the order, and undivided logits cannot overflow.

No filter sorts. Thresholds are found by bisection over the float32 numbers themselves, taken as integers of the same
order, so they are exact: a full sort of 32 rows of 49152 costs 430 ms on a two-core CPU, a threshold about 4.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array, lax

from jaxserve.parallel.ranks import ONE_RANK, Ranks
from jaxserve.sampling.penalties import num_words, unpack_bits

# Probabilities are fixed point with this many bits for the whole row; less than half a unit rounds to 0.
MASS_BITS = 30
NEGLIGIBLE_NATS = 22.0  # this far below the greatest logit, in nats: exp(-22) < 2**-(MASS_BITS + 1)

ROUNDS_BY_VALUE = 12  # of the bisection; see _bisect_threshold
VALUE_STEP = 32.0

WeightFunction = Callable[[Array], Array]  # logits [B, 1] → int32 weights [B, 1]


def apply_mask(logits_BV: Array, mask_BM: Array) -> Array:
    """Set the logits of tokens that the mask forbids to -inf.

    mask_BM is uint32 [B, ceil(V / 32)]; bit t % 32 of word t // 32 allows token t. Surplus bits are ignored.
    """
    num_rows, vocab = logits_BV.shape
    assert mask_BM.shape == (num_rows, num_words(vocab)) and mask_BM.dtype == jnp.uint32, (mask_BM.shape, mask_BM.dtype)
    return jnp.where(unpack_bits(mask_BM, vocab), logits_BV, -jnp.inf)


def row_max(logits_BV: Array, ranks: Ranks = ONE_RANK) -> Array:
    """Return each row's greatest logit; +inf if the row has +inf or NaN, -inf if it has nothing else.

    NaN is turned into +inf before the maximum is taken, because XLA's vectorised maximum on CPU loses NaNs.
    """
    return ranks.max(jnp.max(jnp.where(logits_BV < jnp.inf, logits_BV, jnp.inf), axis=-1))


def scale_by_temperature(logits_BV: Array, max_B: Array, temperature_B: Array) -> Array:
    """Subtract max_B and divide by the temperature; temperature 0 counts as 1.

    max_B is at least the row's greatest logit, so nothing overflows upwards. Works for [B, V] and for [B, 1].
    """
    divisor_B = jnp.where(temperature_B == 0, 1.0, temperature_B)
    return (logits_BV - max_B[:, None]) / divisor_B[:, None]


def min_p_threshold(max_B: Array, temperature_B: Array, min_p_B: Array) -> Array:
    """Return the threshold that drops tokens less probable than min_p times the most probable one; 0 is off."""
    return jnp.where(min_p_B > 0, max_B + temperature_B * jnp.log(min_p_B), -jnp.inf)


def top_k_threshold(logits_BV: Array, max_B: Array, top_k_B: Array, ranks: Ranks = ONE_RANK) -> Array:
    """Return the threshold that keeps the k greatest logits and all equal to the last of them; 0 and k >= V are off."""
    on_B = (top_k_B > 0) & (top_k_B < logits_BV.shape[1] * ranks.size)
    everything_B = jnp.full_like(max_B, -jnp.inf)
    return lax.cond(
        jnp.any(on_B),
        lambda: _bisect_threshold(
            logits_BV, 1, lambda x: jnp.ones_like(x, jnp.int32), top_k_B, everything_B, max_B, on_B, ranks
        ),
        lambda: everything_B,
    )


def top_p_threshold(
    logits_BV: Array,
    max_B: Array,
    temperature_B: Array,
    top_p_B: Array,
    threshold_B: Array,
    ranks: Ranks = ONE_RANK,
) -> Array:
    """Return the threshold of nucleus sampling among the tokens at or above threshold_B; 0 is off.

    Kept are the tokens with less than top_p of the probability mass strictly above them, so always the most probable
    one (Holtzman et al., arXiv 1904.09751). Where top_p is off, threshold_B is returned.

    Masses are integers, in units of at most 2**-29 of the row's whole mass, because a sum of integers does not depend
    on its order: neither batch nor bucket nor shards can move the threshold. Rounding moves it by less than V * 2**-30
    of the mass in the worst case, and by about 1e-7 for the logits of real models.
    """
    return lax.cond(
        jnp.any(top_p_B > 0),
        lambda: _find_top_p_threshold(logits_BV, max_B, temperature_B, top_p_B, threshold_B, ranks),
        lambda: threshold_B,
    )


def _find_top_p_threshold(
    logits_BV: Array, max_B: Array, temperature_B: Array, top_p_B: Array, threshold_B: Array, ranks: Ranks
) -> Array:
    def unnormalized_prob(logits_BX: Array) -> Array:
        return jnp.exp(scale_by_temperature(logits_BX, max_B, temperature_B))

    kept_BV = logits_BV >= threshold_B[:, None]
    kept_prob_B = ranks.sum(jnp.sum(jnp.where(kept_BV, unnormalized_prob(logits_BV), 0.0), axis=-1))
    _, exponent_B = jnp.frexp(kept_prob_B)
    unit_B1 = jnp.ldexp(jnp.ones_like(max_B), MASS_BITS - exponent_B)[:, None]

    def weigh(logits_BX: Array) -> Array:
        return jnp.round(unnormalized_prob(logits_BX) * unit_B1).astype(jnp.int32)

    weight_BV = jnp.where(kept_BV, weigh(logits_BV), 0)
    mass_B = ranks.sum(jnp.sum(weight_BV, axis=-1))
    need_B = jnp.ceil(top_p_B * mass_B.astype(jnp.float32)).astype(jnp.int32)
    need_B = jnp.clip(need_B, 1, mass_B)
    on_B = top_p_B > 0
    low_B = jnp.where(on_B, jnp.maximum(threshold_B, max_B - NEGLIGIBLE_NATS * temperature_B), threshold_B)
    return _bisect_threshold(logits_BV, weight_BV, weigh, need_B, low_B, max_B, on_B, ranks)


def _bisect_threshold(
    logits_BV: Array,
    weight_BV: Array | int,
    weight_at: WeightFunction,
    need_B: Array,
    low_B: Array,
    max_B: Array,
    on_B: Array,
    ranks: Ranks,
) -> Array:
    """Find the greatest threshold such that the tokens at or above it together weigh at least need_B.

    weight_BV is int32 and monotone: weight_at gives, for logits [B, 1], the weight of a token with that logit, and a
    greater logit never weighs less. The tokens at or above low_B must weigh enough. Rows that are not on get low_B.

    Every round halves each row's interval of floats. A row is done when one float is left, or sooner, when leaving out
    a single token at the threshold would already be too much: then no token lies between this threshold and the exact
    one. The first rounds halve by value near the greatest logit, because tokens lie there; the others halve by key, 32
    times at most. (The worst of 32 rows of 49152: 16 rounds for top_k 40 and 9 for top_p 0.9, against 22 and 17 by key
    alone.)
    """

    def halve_interval(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        num_rounds, low_B, high_B = state
        is_open_B = low_B + 1 < high_B
        middle_B = jnp.where(num_rounds < ROUNDS_BY_VALUE, _midpoint_by_value(low_B, high_B), _midpoint(low_B, high_B))
        threshold_B1 = _key_to_float(middle_B)[:, None]
        total_B = ranks.sum(jnp.sum(jnp.where(logits_BV >= threshold_B1, weight_BV, 0), axis=-1))
        is_enough_B = total_B >= need_B
        low_B = jnp.where(is_open_B & is_enough_B, middle_B, low_B)
        is_exact_B = is_enough_B & (total_B - weight_at(threshold_B1)[:, 0] < need_B)
        high_B = jnp.where(is_open_B & is_exact_B, middle_B + 1, jnp.where(is_open_B & ~is_enough_B, middle_B, high_B))
        return num_rounds + 1, low_B, high_B

    low_key_B = _float_to_key(low_B)
    high_key_B = jnp.where(on_B, jnp.maximum(_float_to_key(max_B), low_key_B), low_key_B) + 1
    state = (jnp.int32(0), low_key_B, high_key_B)
    _, low_key_B, _ = lax.while_loop(lambda state: jnp.any(state[1] + 1 < state[2]), halve_interval, state)
    return _key_to_float(low_key_B)


def _midpoint(low_B: Array, high_B: Array) -> Array:
    """Return the key half way between two keys, without their sum, which could overflow."""
    return (low_B >> 1) + (high_B >> 1) + (low_B & high_B & 1)


def _midpoint_by_value(low_B: Array, high_B: Array) -> Array:
    """Return the key of the number half way between two keys' numbers, at most VALUE_STEP below the upper one."""
    high = _key_to_float(high_B)
    middle = high - jnp.minimum(0.5 * (high - _key_to_float(low_B)), VALUE_STEP)
    return jnp.clip(_float_to_key(middle), low_B + 1, high_B - 1)


def _float_to_key(value: Array) -> Array:
    """Map float32 to int32 so that the order is kept: of negative numbers, all bits but the sign are inverted."""
    bits = lax.bitcast_convert_type(value, jnp.int32)
    return bits ^ ((bits >> 31) & jnp.int32(0x7FFFFFFF))


def _key_to_float(key: Array) -> Array:
    """Invert _float_to_key."""
    return lax.bitcast_convert_type(key ^ ((key >> 31) & jnp.int32(0x7FFFFFFF)), jnp.float32)
