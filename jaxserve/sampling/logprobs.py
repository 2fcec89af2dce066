"""Log-probabilities and ranks of tokens, and the most probable tokens of each row.

The sampler uses them for generated tokens, the engine for prompt tokens.
"""

from dataclasses import dataclass

import jax.numpy as jnp
from jax import Array, lax

from jaxserve.parallel.ranks import ONE_RANK, Ranks

BLOCK = 128


def compute_logprobs(
    values_TV: Array, target_T: Array, *, max_logprobs: int, is_normalized: bool = True, ranks: Ranks = ONE_RANK
) -> tuple[Array, Array, Array, Array]:
    """Return the log-probability and rank of each row's target token, and the row's most probable tokens.

    values_TV is float32, target_T int32 in [0, V). The result is
      logprob_T       float32, log_softmax at the target
      rank_T          int32, 1 + the number of tokens with a strictly greater logit
      top_id_TK       int32, the most probable tokens in order, the lower id first if equal; K = min(max_logprobs, V)
      top_logprob_TK  float32
    Unless is_normalized, the values themselves are returned instead of their log_softmax. A logit of -inf is a token of
    probability 0; the numbers of a row with NaN or +inf are meaningless. Several `ranks` have V / size columns each.
    """
    target_T1 = ranks.take(values_TV, target_T[:, None])
    rank_T = 1 + ranks.sum(jnp.sum((values_TV > target_T1).astype(jnp.int32), axis=-1))
    top_TK, top_id_TK = top_k(values_TV, max_logprobs, ranks)
    if not is_normalized:
        return target_T1[:, 0], rank_T, top_id_TK, top_TK
    normalizer = LogNormalizer.from_logits(values_TV, ranks)
    return normalizer.normalize(target_T1)[:, 0], rank_T, top_id_TK, normalizer.normalize(top_TK)


@dataclass(frozen=True, slots=True)
class LogNormalizer:
    """The two terms of log_softmax that all tokens of a row share.

    max_T1      float32, the greatest logit
    log_sum_T1  float32, log of the sum of exp(logit - max)
    """

    max_T1: Array
    log_sum_T1: Array

    @classmethod
    def from_logits(cls, logits_TV: Array, ranks: Ranks = ONE_RANK) -> "LogNormalizer":
        """Compute the terms of each row of logits."""
        max_T1 = ranks.max(jnp.max(logits_TV, axis=-1, keepdims=True))
        return cls(max_T1, jnp.log(ranks.sum(jnp.sum(jnp.exp(logits_TV - max_T1), axis=-1, keepdims=True))))

    def normalize(self, logits_TX: Array) -> Array:
        """Turn some logits of the rows, [T, X], into log-probabilities.

        The maximum is subtracted first, so that a token of probability 1 gets 0.0 and not its rounding error.
        """
        return logits_TX - self.max_T1 - self.log_sum_T1


def top_k(values_TV: Array, num: int, ranks: Ranks = ONE_RANK) -> tuple[Array, Array]:
    """Return the num greatest values of each row in order, the lower index first if equal, and their int32 indices.

    Exact, in two stages: the num blocks with the greatest maxima contain all results, so only those are ranked. Several
    ranks exchange the best of each, which lie in the order of the indices, so ties stay with the lower one.
    """
    if ranks.size > 1:
        best_TK, index_TK = top_k(values_TV, num)
        best_TX = ranks.concatenate(best_TK)
        index_TX = ranks.concatenate(index_TK + ranks.offset(values_TV.shape[1]))
        value_TK, position_TK = _lax_top_k(best_TX, min(num, best_TX.shape[1]))
        return value_TK, jnp.take_along_axis(index_TX, position_TK, axis=-1)
    num_rows, width = values_TV.shape
    num = min(num, width)
    num_blocks = -(-width // BLOCK)
    if num == 0 or num >= num_blocks:
        return _lax_top_k(values_TV, num)
    padded_TV = jnp.pad(values_TV, ((0, 0), (0, num_blocks * BLOCK - width)), constant_values=-jnp.inf)
    blocks_TNB = padded_TV.reshape(num_rows, num_blocks, BLOCK)
    _, block_TK = _lax_top_k(jnp.max(blocks_TNB, axis=-1), num)
    block_TK = jnp.sort(block_TK, axis=-1)  # in ascending order, so that ties are won by the lower index
    chosen_TKB = jnp.take_along_axis(blocks_TNB, block_TK[:, :, None], axis=1)
    value_TK, position_TK = _lax_top_k(chosen_TKB.reshape(num_rows, num * BLOCK), num)
    index_TK = jnp.take_along_axis(block_TK, position_TK // BLOCK, axis=-1) * BLOCK + position_TK % BLOCK
    return value_TK, index_TK


def _lax_top_k(values_TX: Array, num: int) -> tuple[Array, Array]:
    """Call `lax.top_k` with -0.0 replaced by 0.0, which it would rank higher."""
    value_TK, index_TK = lax.top_k(jnp.where(values_TX == 0, 0.0, values_TX), num)
    return value_TK, index_TK
