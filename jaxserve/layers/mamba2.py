"""Mamba-2: a matrix for each head, which decays, and to which every token adds its key times its value.

With state S [K, V], key k, value v, step d >= 0 of a token, and rate a < 0 of a head:

    S ← exp(a d) S + k (d v)'        output = S'q

The heads of a group have the same keys and queries (B and C in the paper). Prefill computes chunks of tokens by matrix
products, as in "Transformers are SSMs" (arXiv 2405.21060): within a chunk it is attention without softmax, whose scores
decay with the distance of the tokens. All is float32.
"""

import jax.numpy as jnp
from jax import Array, lax

from jaxserve.layers.row_chunks import RowChunks, scan_chunks


def mamba2(
    query_TGK: Array,
    key_TGK: Array,
    value_TNV: Array,
    step_TN: Array,
    rate_N: Array,
    state_BNKV: Array,
    chunks: RowChunks,
) -> tuple[Array, Array]:
    """Return the outputs float32 [T, N, V] and the states of the rows behind their last tokens.

    query, key   Those of the groups: the first N / G heads are the first group.
    step, rate   A state is multiplied by exp(rate * step).
    chunks       The tokens in chunks of one row each.
    """
    (num_rows, heads, *_), groups = state_BNKV.shape, key_TGK.shape[1]
    value_TNV, decay_TN = _discretize(value_TNV, step_TN, rate_N)
    query_XGCK, key_XGCK = (_cut_heads(chunks, each.astype(jnp.float32)) for each in (query_TGK, key_TGK))
    value_XGRCV, decay_XGRC = (
        each.reshape(len(each), groups, heads // groups, *each.shape[2:])
        for each in (_cut_heads(chunks, value_TNV), _cut_heads(chunks, decay_TN))
    )
    terms = _prepare_chunks(query_XGCK, key_XGCK, value_XGRCV, decay_XGRC)
    state_BGRKV = state_BNKV.reshape(num_rows, groups, heads // groups, *state_BNKV.shape[2:])
    out_XGRCV, state_BGRKV = scan_chunks(_run_chunk, state_BGRKV, chunks, terms, jnp.zeros_like(value_XGRCV))
    out_XCNV = jnp.moveaxis(out_XGRCV.reshape(len(out_XGRCV), heads, *out_XGRCV.shape[3:]), 1, 2)
    return chunks.join(out_XCNV), state_BGRKV.reshape(state_BNKV.shape)


def mamba2_step(
    query_BGK: Array, key_BGK: Array, value_BNV: Array, step_BN: Array, rate_N: Array, state_BNKV: Array
) -> tuple[Array, Array]:
    """Return what `mamba2` does for one token of each row."""
    (num_rows, heads, *_), groups = state_BNKV.shape, key_BGK.shape[1]
    value_BNV, decay_BN = _discretize(value_BNV, step_BN, rate_N)
    query_BGK, key_BGK = query_BGK.astype(jnp.float32), key_BGK.astype(jnp.float32)
    decay_BGR = jnp.exp(decay_BN).reshape(num_rows, groups, heads // groups)
    value_BGRV = value_BNV.reshape(*decay_BGR.shape, -1)
    state_BGRKV = state_BNKV.reshape(*decay_BGR.shape, *state_BNKV.shape[2:])
    state_BGRKV = state_BGRKV * decay_BGR[..., None, None] + key_BGK[:, :, None, :, None] * value_BGRV[..., None, :]
    out_BGRV = jnp.einsum("bgk,bgrkv->bgrv", query_BGK, state_BGRKV, precision=lax.Precision.HIGHEST)
    return out_BGRV.reshape(value_BNV.shape), state_BGRKV.reshape(state_BNKV.shape)


def _discretize(value_TNV: Array, step_TN: Array, rate_N: Array) -> tuple[Array, Array]:
    """Return the values times their steps, and the logarithms of the decays."""
    step_TN = step_TN.astype(jnp.float32)
    return value_TNV.astype(jnp.float32) * step_TN[..., None], step_TN * rate_N


def _cut_heads(chunks: RowChunks, x_TN: Array) -> Array:
    """Return the values of tokens [T, N, ...] chunk by chunk, heads before tokens: [X, N, C, ...]."""
    return jnp.moveaxis(chunks.cut(x_TN), 1, 2)


def _prepare_chunks(query_XGCK: Array, key_XGCK: Array, value_XGRCV: Array, decay_XGRC: Array) -> tuple[Array, ...]:
    """Return what the chunks need and what does not depend on states; i and j are two tokens of a chunk.

    out_XGRiV     the outputs, if the state were zero before the chunk
    query_XGiK    queries of the state before the chunk
    grown_XGRi1   the decay of that until token i
    key_XGKj      keys
    value_XGRjV   values, with the decay until the chunk's end
    decay_XGR11   the decay of the whole chunk
    """
    total_XGRC, decay_XGRij = _sum_decays(decay_XGRC)
    key_XGKC = jnp.swapaxes(key_XGCK, -1, -2)
    score_XGij = _matmul(query_XGCK, key_XGKC)
    return (
        _matmul(score_XGij[:, :, None] * decay_XGRij, value_XGRCV),
        query_XGCK,
        jnp.exp(total_XGRC)[..., None],
        key_XGKC,
        value_XGRCV * decay_XGRij[..., -1, :, None],
        jnp.exp(total_XGRC[..., -1])[..., None, None],
    )


def _sum_decays(decay_XC: Array) -> tuple[Array, Array]:
    """Return the logarithm of the decay until each token i of a chunk [..., i], and the decay from j to i [..., i, j].

    A sum of decays may be thousands, of which float32 has three decimals. So their 64ths, whose sums and differences
    are exact, are summed by themselves, and then what is left of them.
    """
    up_to_ij = jnp.tri(decay_XC.shape[-1], dtype=jnp.float32)
    coarse_XC = jnp.round(decay_XC * 64) / 64
    totals = [_matmul(part_XC, up_to_ij.T) for part_XC in (coarse_XC, decay_XC - coarse_XC)]
    coarse_Xij, fine_Xij = (total_XC[..., :, None] - total_XC[..., None, :] for total_XC in totals)
    return totals[0] + totals[1], jnp.exp(jnp.where(up_to_ij > 0, coarse_Xij + fine_Xij, -jnp.inf))


def _run_chunk(state_GRKV: Array, terms: tuple[Array, ...]) -> tuple[Array, Array]:
    """Return the state behind a chunk and its outputs [G, R, C, V]."""
    out_GRCV, query_GCK, grown_GRC1, key_GKC, value_GRCV, decay_GR11 = terms
    out_GRCV = out_GRCV + grown_GRC1 * _matmul(query_GCK[:, None], state_GRKV)
    return state_GRKV * decay_GR11 + _matmul(key_GKC[:, None], value_GRCV), out_GRCV


def _matmul(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)
