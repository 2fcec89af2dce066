"""Log-probabilities of a token and of the best ones, with ranks, from raw logits.

Used for generated tokens by the sampler and for prompt tokens as it stands.
"""

from dataclasses import dataclass

import jax.numpy as jnp
from jax import Array, lax

BLOCK = 128


def compute_logprobs(
    values_TV: Array, target_T: Array, *, max_logprobs: int, is_normalized: bool = True
) -> tuple[Array, Array, Array, Array]:
    """How the distribution of each row of logits sees its target token, and which tokens it likes best.

    values_TV is float32, target_T int32 in [0, V). Returns
      logprob_T      float32, log_softmax at the target
      rank_T         int32, 1 + the number of tokens with a strictly greater logit
      top_id_TK      int32, the best tokens, best first, the lower id first among equals; K = min(max_logprobs, V)
      top_logprob_TK float32
    Not normalised, the values themselves stand in place of their log_softmax. Logits of -inf are tokens that cannot
    be; a row with NaN or +inf gives meaningless numbers.
    """
    target_T1 = jnp.take_along_axis(values_TV, target_T[:, None], axis=-1)
    rank_T = 1 + jnp.sum((values_TV > target_T1).astype(jnp.int32), axis=-1)
    top_TK, top_id_TK = top_k(values_TV, max_logprobs)
    if not is_normalized:
        return target_T1[:, 0], rank_T, top_id_TK, top_TK
    normalizer = LogNormalizer.from_logits(values_TV)
    return normalizer.normalize(target_T1)[:, 0], rank_T, top_id_TK, normalizer.normalize(top_TK)


@dataclass(frozen=True, slots=True)
class LogNormalizer:
    """What turns logits of a row into log-probabilities: its best logit, and the logarithm of its mass below that."""

    max_T1: Array
    log_sum_T1: Array

    @classmethod
    def from_logits(cls, logits_TV: Array) -> "LogNormalizer":
        best_T1 = jnp.max(logits_TV, axis=-1, keepdims=True)
        return cls(best_T1, jnp.log(jnp.sum(jnp.exp(logits_TV - best_T1), axis=-1, keepdims=True)))

    def normalize(self, logits_TX: Array) -> Array:
        """The difference to the best logit comes first: a certain token gets 0.0 and not its rounding error."""
        return logits_TX - self.max_T1 - self.log_sum_T1


def top_k(values_TV: Array, num: int) -> tuple[Array, Array]:
    """The num greatest of each row, best first, the lower index first among equals; and their indices, int32.

    Exact, in two stages: the blocks with the greatest maxima hold all that is sought, so only those are ranked.
    """
    num_rows, width = values_TV.shape
    num = min(num, width)
    num_blocks = -(-width // BLOCK)
    if num == 0 or num >= num_blocks:
        return _lax_top_k(values_TV, num)
    padded_TV = jnp.pad(values_TV, ((0, 0), (0, num_blocks * BLOCK - width)), constant_values=-jnp.inf)
    blocks_TNB = padded_TV.reshape(num_rows, num_blocks, BLOCK)
    _, block_TK = _lax_top_k(jnp.max(blocks_TNB, axis=-1), num)
    block_TK = jnp.sort(block_TK, axis=-1)  # back in order, so that ties fall to the lower index again
    chosen_TKB = jnp.take_along_axis(blocks_TNB, block_TK[:, :, None], axis=1)
    value_TK, position_TK = _lax_top_k(chosen_TKB.reshape(num_rows, num * BLOCK), num)
    index_TK = jnp.take_along_axis(block_TK, position_TK // BLOCK, axis=-1) * BLOCK + position_TK % BLOCK
    return value_TK, index_TK


def _lax_top_k(values_TX: Array, num: int) -> tuple[Array, Array]:
    """`lax.top_k`, to which 0.0 is greater than -0.0; here they are equal."""
    value_TK, index_TK = lax.top_k(jnp.where(values_TX == 0, 0.0, values_TX), num)
    return value_TK, index_TK
