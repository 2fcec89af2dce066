"""Embedding of token ids, and logits from vectors. A packed table is laid out for its product, [D, V]."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from jaxserve.layers import quant
from jaxserve.layers.linear import matmul_precision
from jaxserve.layers.scaled_weight import ScaledWeight, scaled_matmul, scaled_rows
from jaxserve.parallel.ranks import ONE_RANK, Ranks

# With fewer rows XLA for GPUs makes the product one of vectors, and where no Triton kernel takes that it converts the
# whole table to float32 first (2 GiB at Llama-3.1-8B's size, jax 0.10.2). Eight rows cost what one does.
MIN_GPU_ROWS = 8


class Embedding(nnx.Module):
    """A table with one row per token; a model with tied weights reads its logits from the same table.

    ranks: each has the rows of some tokens.
    """

    def __init__(
        self, vocab_size: int, width: int, *, dtype: DTypeLike, rngs: nnx.Rngs, ranks: Ranks = ONE_RANK
    ) -> None:
        self.ranks, self.dtype = ranks, jnp.dtype(dtype)
        self.table = nnx.Param(0.02 * rngs.params.normal((vocab_size, width), dtype))

    def __call__(self, token_T: Array) -> Array:
        """Return x_TD for token_T int32. Ids outside the vocabulary read the nearest row."""
        return take_rows(self.table.get_value(), token_T, self.dtype, self.ranks)

    def compute_logits(self, hidden_BD: Array) -> Array:
        """Return logits_BV float32 for hidden_BD, in a model whose head is tied to the embedding."""
        return compute_logits(hidden_BD, self.table.get_value())

    def take_rows(self, token_N: Array) -> Array:
        """Return the rows [N, D] with which vectors are multiplied for the logits of these tokens."""
        return self(token_N)


def take_rows(
    table: Array | quant.PackedWeight | ScaledWeight, token_T: Array, dtype: DTypeLike, ranks: Ranks
) -> Array:
    """Return the rows [T, D] of tokens; ids outside the vocabulary read the nearest. ranks: each has some rows."""
    if ranks.size == 1:
        return _take_own_rows(table, token_T, dtype)
    num = table.shape[1] if isinstance(table, quant.PackedWeight) else table.shape[0]
    row_T = token_T - ranks.offset(num)
    is_here_T = (row_T >= 0) & (row_T < num)  # ranks that do not have a token's row add zeros
    return ranks.sum(jnp.where(is_here_T[:, None], _take_own_rows(table, row_T, dtype), 0))


def _take_own_rows(table: Array | quant.PackedWeight | ScaledWeight, row_T: Array, dtype: DTypeLike) -> Array:
    if isinstance(table, ScaledWeight):
        return scaled_rows(table, row_T).astype(dtype)
    if isinstance(table, quant.PackedWeight):
        return quant.embedding_rows(table, row_T)
    return jnp.take(table, row_T, axis=0, mode="clip")


class LMHead(nnx.Module):
    """The output table of a model that does not tie it to the embedding. Laid out [V, D], as the embedding is."""

    def __init__(
        self,
        vocab_size: int,
        width: int,
        *,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
        has_bias: bool = False,
        ranks: Ranks = ONE_RANK,
    ) -> None:
        self.ranks, self.dtype = ranks, jnp.dtype(dtype)
        self.bias = nnx.Param(jnp.zeros((vocab_size,), dtype)) if has_bias else None
        self.table = nnx.Param(0.02 * rngs.params.normal((vocab_size, width), dtype))

    def compute_logits(self, hidden_BD: Array) -> Array:
        """Return logits_BV float32 for hidden_BD."""
        logits_BV = compute_logits(hidden_BD, self.table.get_value())
        return logits_BV if self.bias is None else logits_BV + self.bias[...].astype(jnp.float32)

    def take_rows(self, token_N: Array) -> Array:
        """Return the rows [N, D] with which vectors are multiplied for the logits of these tokens."""
        return take_rows(self.table.get_value(), token_N, self.dtype, self.ranks)


def compute_logits(hidden_BD: Array, table_VD: Array | quant.PackedWeight | ScaledWeight) -> Array:
    """Return the logits of vectors: products with every token's row, summed in float32.

    Half a bfloat16 step can change the best token.
    """
    if isinstance(table_VD, ScaledWeight):
        return scaled_matmul(hidden_BD, table_VD)
    if isinstance(table_VD, quant.PackedWeight):
        return quant.packed_matmul(hidden_BD.astype(jnp.float32), table_VD)[0]
    if len(hidden_BD) < MIN_GPU_ROWS and hidden_BD.dtype.itemsize == 2:
        return jax.lax.platform_dependent(hidden_BD, table_VD, cuda=_multiply_filled, default=_multiply)
    return _multiply(hidden_BD, table_VD)


def _multiply(hidden_BD: Array, table_VD: Array) -> Array:
    return jnp.einsum(
        "bd,vd->bv",
        hidden_BD,
        table_VD,
        precision=matmul_precision(hidden_BD.dtype),
        preferred_element_type=jnp.float32,
    )


def _multiply_filled(hidden_BD: Array, table_VD: Array) -> Array:
    """Multiply with rows of zeros behind the real ones."""
    rows = len(hidden_BD)
    return _multiply(jnp.pad(hidden_BD, ((0, MIN_GPU_ROWS - rows), (0, 0))), table_VD)[:rows]
