"""The gated delta rule: a matrix for each head, which decays, and which every token corrects at its own key.

With state S [K, V], key k, value v, rate b and decay g <= 0 of a token, a number, or one for each of the key's:

    S ← exp(g) S        S ← S + k (b (v - S'k))'        output = S'q

Prefill computes chunks of tokens by matrix products, as in "Gated Delta Networks" (arXiv 2412.06464): within a chunk
the corrections depend on each other by a triangular system, whose inverse gives them all at once. All is float32. G is
K where every number of a key decays by itself ("Kimi Linear", arXiv 2510.26692), else 1.
"""

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxserve.layers.row_chunks import RowChunks, scan_chunks

MIN_SYSTEM = 32  # rows of a triangular system that are substituted one after the other
DECAY_BLOCK = 16  # tokens whose decays towards each other are computed one by one, where every key number has its own
HIGHEST = lax.Precision.HIGHEST


def delta_rule(
    query_TNK: Array,
    key_TNK: Array,
    value_TNV: Array,
    decay_TNG: Array,
    rate_TN: Array,
    state_BNKV: Array,
    chunks: RowChunks,
) -> tuple[Array, Array]:
    """Return the outputs float32 [T, N, V] and the states of the rows behind their last tokens.

    decay    Logarithms: a state is multiplied by exp(decay).
    chunks   The tokens in chunks of one row each.
    """
    values = (query_TNK, key_TNK, value_TNV, decay_TNG, rate_TN)
    terms = _prepare_chunks(*(jnp.moveaxis(chunks.cut(each.astype(jnp.float32)), 1, 2) for each in values))
    out_XNCV, state_BNKV = scan_chunks(_run_chunk, state_BNKV, chunks, terms, jnp.zeros_like(terms[0]))
    return chunks.join(jnp.moveaxis(out_XNCV, 1, 2)), state_BNKV


def delta_rule_step(
    query_BNK: Array, key_BNK: Array, value_BNV: Array, decay_BNG: Array, rate_BN: Array, state_BNKV: Array
) -> tuple[Array, Array]:
    """Return what `delta_rule` does for one token of each row."""
    values = (query_BNK, key_BNK, value_BNV, decay_BNG, rate_BN)
    query_BNK, key_BNK, value_BNV, decay_BNG, rate_BN = (each.astype(jnp.float32) for each in values)
    state_BNKV = state_BNKV * jnp.exp(decay_BNG)[..., None]
    known_BNV = jnp.einsum("bnk,bnkv->bnv", key_BNK, state_BNKV, precision=HIGHEST)
    change_BNV = (value_BNV - known_BNV) * rate_BN[..., None]
    state_BNKV = state_BNKV + key_BNK[..., None] * change_BNV[..., None, :]
    return jnp.einsum("bnk,bnkv->bnv", query_BNK, state_BNKV, precision=HIGHEST), state_BNKV


def _prepare_chunks(
    query_XNCK: Array, key_XNCK: Array, value_XNCV: Array, decay_XNCG: Array, rate_XNC: Array
) -> tuple[Array, ...]:
    """Return what the chunks need and what does not depend on states; i and j are two tokens of a chunk.

    change_XNiV   the corrections of the state, if it were zero before the chunk
    known_XNiK    keys by which the state before the chunk lowers them
    mixed_XNij    factor of the correction of token j in the output of token i
    query_XNiK    queries of the state before the chunk
    key_XNjK      keys of the corrections, with the decay until the chunk's end
    decay_XNG1    the decay of the whole chunk

    One layout, heads before tokens, for all products: with several the program takes XLA five times as long to compile.
    """
    up_to_ij = jnp.tri(decay_XNCG.shape[-2], dtype=jnp.float32)
    total_XNCG = jnp.swapaxes(_matmul(jnp.swapaxes(decay_XNCG, -1, -2), up_to_ij.T), -1, -2)
    rated_XNCK = key_XNCK * rate_XNC[..., None]
    overlap_XNij = jnp.where(up_to_ij.T > 0, 0, _decayed_products(rated_XNCK, key_XNCK, total_XNCG))
    inverse_XNij = invert_unit_lower(overlap_XNij)
    grown_XNCG = jnp.exp(total_XNCG)
    return (
        _matmul(inverse_XNij, value_XNCV * rate_XNC[..., None]),
        _matmul(inverse_XNij, rated_XNCK * grown_XNCG),
        _decayed_products(query_XNCK, key_XNCK, total_XNCG),
        query_XNCK * grown_XNCG,
        key_XNCK * jnp.exp(total_XNCG[..., -1:, :] - total_XNCG),
        jnp.exp(total_XNCG[..., -1, :])[..., None],
    )


def _decayed_products(left_XNiK: Array, key_XNjK: Array, total_XNCG: Array) -> Array:
    """Return the products of vectors with the keys of no later tokens, which have decayed since then; zeros else.

    total   The sums of the decays up to each token.

    Where each number decays by itself, blocks of rows take the decay to their first token out of the product, so that
    no exponent is above zero: the sum over a chunk may be so low that its inverse is infinite.
    """
    size, num = total_XNCG.shape[-2:]
    if num == 1:
        decay_XNij = _decay_between(total_XNCG)[..., 0]
        return _matmul(left_XNiK, jnp.swapaxes(key_XNjK, -1, -2)) * decay_XNij
    rows = []
    for start in range(0, size, DECAY_BLOCK):
        block, before = slice(start, start + DECAY_BLOCK), slice(0, start)
        first_XN1K = total_XNCG[..., start : start + 1, :]
        own_XNiK = left_XNiK[..., block, :] * jnp.exp(total_XNCG[..., block, :] - first_XN1K)
        decayed_XNjK = key_XNjK[..., before, :] * jnp.exp(first_XN1K - total_XNCG[..., before, :])
        pairs_XNijK = left_XNiK[..., block, None, :] * key_XNjK[..., None, block, :]
        inside_XNij = (pairs_XNijK * _decay_between(total_XNCG[..., block, :])).sum(-1)
        behind = jnp.zeros((*inside_XNij.shape[:-1], size - start - inside_XNij.shape[-1]), jnp.float32)
        rows.append(jnp.concatenate([_matmul(own_XNiK, jnp.swapaxes(decayed_XNjK, -1, -2)), inside_XNij, behind], -1))
    return jnp.concatenate(rows, axis=-2)


def _decay_between(total_XNCG: Array) -> Array:
    """Return by how much what token j leaves has decayed at token i, [X, N, i, j, G]; 0 where j comes later."""
    up_to_ij1 = jnp.tri(total_XNCG.shape[-2], dtype=jnp.float32)[..., None]
    difference_XNijG = total_XNCG[..., :, None, :] - total_XNCG[..., None, :, :]
    return jnp.exp(jnp.where(up_to_ij1 > 0, difference_XNijG, -jnp.inf))


def _run_chunk(state_NKV: Array, terms: tuple[Array, ...]) -> tuple[Array, Array]:
    """Return the state behind a chunk and its outputs [N, C, V]."""
    change_NCV, known_NCK, mixed_Nij, query_NCK, key_NCK, decay_NG1 = terms
    change_NCV = change_NCV - _matmul(known_NCK, state_NKV)
    out_NCV = _matmul(query_NCK, state_NKV) + _matmul(mixed_Nij, change_NCV)
    return state_NKV * decay_NG1 + _matmul(jnp.swapaxes(key_NCK, -1, -2), change_NCV), out_NCV


def invert_unit_lower(lower_ij: Array) -> Array:
    """Return the inverse of 1 + lower, for strictly lower triangular matrices [..., C, C], C a power of two.

    Small blocks on the diagonal are inverted row by row, then joined two by two. (A sum of powers would be shorter,
    but loses all digits where keys repeat; LAPACK's solver is not there when a program from the store runs.)
    """
    num = lower_ij.shape[-1]
    size = min(MIN_SYSTEM, num)
    diagonal_ij = jnp.stack([lower_ij[..., at : at + size, at : at + size] for at in range(0, num, size)], axis=-3)

    def substitute(row: Array, inverse_ij: Array) -> Array:
        factor_1j = lax.dynamic_slice_in_dim(diagonal_ij, row, 1, -2)
        known_1j = (jnp.swapaxes(factor_1j, -1, -2) * inverse_ij).sum(-2, keepdims=True)
        old_1j = lax.dynamic_slice_in_dim(inverse_ij, row, 1, -2)
        return lax.dynamic_update_slice_in_dim(inverse_ij, old_1j - known_1j, row, -2)

    unit_ij = jnp.broadcast_to(jnp.eye(size, dtype=lower_ij.dtype), diagonal_ij.shape)
    inverse_ij = lax.fori_loop(1, size, substitute, unit_ij)
    while size < num:
        first, second = inverse_ij[..., 0::2, :, :], inverse_ij[..., 1::2, :, :]
        starts = range(0, num, 2 * size)
        below = jnp.stack([lower_ij[..., at + size : at + 2 * size, at : at + size] for at in starts], axis=-3)
        corner = -_matmul(_matmul(second, below), first)
        inverse_ij = jnp.block([[first, jnp.zeros_like(first)], [corner, second]])
        size *= 2
    return inverse_ij[..., 0, :, :]


def _matmul(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def unit_length(x_TNK: Array, eps: float = 1e-6) -> Array:
    """Return vectors of length 1, as float32; eps is added to the square of the length."""
    x_TNK = x_TNK.astype(jnp.float32)
    return x_TNK * lax.rsqrt((x_TNK * x_TNK).sum(-1, keepdims=True) + eps)


def log_decay(rate_TX: Array, log_a_X: Array, bias_X: Array) -> Array:
    """Return -exp(log_a) * softplus(rate + bias), float32: the logarithm by which a head's state decays."""
    return -jnp.exp(log_a_X.astype(jnp.float32)) * jax.nn.softplus(rate_TX.astype(jnp.float32) + bias_X)
