"""Gumbel noise for sampling, a function of (seed, position, token id) alone.

The Gumbel-max trick: with an independent E ~ Exponential(1) for every token, the token with the greatest z - log E has
the distribution softmax(z). E is computed as -log1p(-v) for v uniform in (0, 1), so the greatest noise comes from small
v, where floats are dense. The usual form, -log(-log u) with u in steps of 2**-24, decides among 128k tokens by the 128
values of u nearest to 1, which shows as ties and bias.
"""

import jax.numpy as jnp
from jax import Array, lax

# Threefry-2x32 of Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
# 13 rounds pass their statistical tests; 20 are their default with a margin, and cost 0.4 ms more of 4 for
# 32 rows of 49152 on a two-core CPU, since the logarithms take most of the time.
NUM_ROUNDS = 20
ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)
KEY_PARITY = 0x1BD11BDA
MAX_BELOW_ONE = 1 - 2.0**-24


def gumbel_noise(
    seed_low_B: Array, seed_high_B: Array, position_B: Array, vocab_size: int, first: Array | int = 0
) -> Array:
    """Return the noise -log E of every row and token, float32 [B, vocab_size].

    Adding it to log-weights and taking the argmax samples a token. The words of the seed are uint32; position_B
    int32 is the absolute position of the token to sample; `first` is the id of the first token.
    """
    token_BV = lax.broadcasted_iota(jnp.uint32, (position_B.shape[0], vocab_size), 1)
    if not isinstance(first, int) or first:
        token_BV += jnp.uint32(first)
    position_B1 = lax.bitcast_convert_type(position_B, jnp.uint32)[:, None]
    word_BV, _ = threefry2x32(seed_low_B[:, None], seed_high_B[:, None], position_B1, token_BV)
    uniform_BV = (word_BV.astype(jnp.float32) + 0.5) * 2.0**-32
    # Words near 2**32 round up to it; at v = 1 the noise would be -inf.
    return -jnp.log(-jnp.log1p(-jnp.minimum(uniform_BV, MAX_BELOW_ONE)))


def threefry2x32(key_0: Array, key_1: Array, counter_0: Array, counter_1: Array) -> tuple[Array, Array]:
    """Return two pseudorandom words for two key words and two counter words, all uint32, of one broadcast shape."""
    keys = (key_0, key_1, key_0 ^ key_1 ^ jnp.uint32(KEY_PARITY))
    x, y = counter_0 + keys[0], counter_1 + keys[1]
    for round_number in range(1, NUM_ROUNDS + 1):
        rotation = ROTATIONS[(round_number - 1) % 8]
        x = x + y
        y = ((y << jnp.uint32(rotation)) | (y >> jnp.uint32(32 - rotation))) ^ x
        if round_number % 4 == 0:
            x = x + keys[round_number // 4 % 3]
            y = y + keys[(round_number // 4 + 1) % 3] + jnp.uint32(round_number // 4)
    return x, y
