"""Attention in plain jnp: gathers every page of every row and masks. Runs anywhere; the others are compared with it."""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxserve.attention.inputs import PAGE_SIZE, AttentionCalls, AttentionInputs
from jaxserve.attention.page_types import as_stored, check_latent_type, from_stored, make_scales, quantize, to_stored

MASKED_SCORE = -1e30  # finite, so that a row that sees nothing gives zeros instead of NaN


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ReferencePages:
    """One layer: a token's heads lie together, so that a write is one contiguous row.

    Pages of 8-bit numbers have scales, see page_types.py. number_type is static: the type of the numbers.
    """

    key_PZKH: Array
    value_PZKH: Array
    key_scale_PZK: Array | None = None
    value_scale_PZK: Array | None = None
    number_type: Any = field(default=None, metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ReferenceLatentPages:
    """One layer of latent vectors, each with the rotated part of the key behind it."""

    latent_PZR: Array
    rotated_PZC: Array


class ReferenceLatentAttention:
    """Latent attention that gathers the whole page table of every row."""

    def check_calls(self, calls: AttentionCalls) -> None:
        """Accept all calls."""

    def make_pages(
        self, num_pages: int, page_size: int, latent_dim: int, rotary_dim: int, dtype: Any
    ) -> ReferenceLatentPages:
        """Return one layer's pages, all zeros. Raises BadConfig for 8-bit types."""
        check_latent_type(dtype)
        latent, rotated = (jnp.zeros((num_pages, page_size, size), dtype) for size in (latent_dim, rotary_dim))
        return ReferenceLatentPages(latent, rotated)

    def write(self, pages: ReferenceLatentPages, latent_TC: Array, slot_T: Array) -> ReferenceLatentPages:
        """Return the pages with the tokens in their slots. Donate pages."""
        _, size, latent_dim = pages.latent_PZR.shape
        index_T, latent_TC = (slot_T // size, slot_T % size), latent_TC.astype(pages.latent_PZR.dtype)
        return ReferenceLatentPages(
            pages.latent_PZR.at[index_T].set(latent_TC[:, :latent_dim]),
            pages.rotated_PZC.at[index_T].set(latent_TC[:, latent_dim:]),
        )

    def attend(self, query_TNC: Array, pages: ReferenceLatentPages, inputs: AttentionInputs, *, scale: float) -> Array:
        """Return softmax(scale * q.k) . v of every query, [T, N, latent_dim]; see `LatentBackend`."""
        key_PZC = jnp.concatenate([pages.latent_PZR, pages.rotated_PZC], axis=-1)
        latent_PZR = pages.latent_PZR
        pages_of_one_head = ReferencePages(key_PZC[:, :, None], latent_PZR[:, :, None], number_type=latent_PZR.dtype)
        return _attend(query_TNC, pages_of_one_head, inputs, scale=scale)


class ReferenceAttention:
    """Attention that gathers the whole page table of every row: slow, and right."""

    name = "reference"
    stacks_layers = False
    latent = ReferenceLatentAttention()

    def default_page_size(self, num_rows: int, max_tokens: int, dtype: Any) -> int:
        """Return PAGE_SIZE."""
        return PAGE_SIZE

    def max_pages(self, page_size: int, kv_heads: int, head_dim: int, dtype: Any) -> int | None:
        """Return None: any number."""
        return None

    def check_calls(self, calls: AttentionCalls) -> None:
        """Accept all calls."""

    def make_pages(self, num_pages: int, page_size: int, kv_heads: int, head_dim: int, dtype: Any) -> ReferencePages:
        """Return one layer's pages, all zeros."""
        shape = (num_pages, page_size, kv_heads, head_dim)
        key, value = (jnp.zeros(shape, as_stored(dtype)) for _ in range(2))
        return ReferencePages(key, value, *make_scales(shape[:3], dtype), number_type=np.dtype(dtype))

    def write(self, pages: ReferencePages, key_TKH: Array, value_TKH: Array, slot_T: Array) -> ReferencePages:
        """Return the pages with the tokens in their slots. Donate pages."""
        size = pages.key_PZKH.shape[1]
        index_T = (slot_T // size, slot_T % size)
        key_TKH, key_scale_TK = quantize(key_TKH, pages.number_type)
        value_TKH, value_scale_TK = quantize(value_TKH, pages.number_type)
        new_planes = (to_stored(key_TKH), to_stored(value_TKH), key_scale_TK, value_scale_TK)
        new = ReferencePages(*new_planes, number_type=pages.number_type)
        return jax.tree.map(lambda plane, new: plane.at[index_T].set(new), pages, new)

    def attend(
        self,
        query_TNH: Array,
        pages: ReferencePages,
        inputs: AttentionInputs,
        *,
        scale: float,
        window: int | None = None,
        softcap: float | None = None,
        sinks: Array | None = None,
    ) -> Array:
        """Return softmax(scale * q.k) . v of every query, [T, N, H]; see `AttentionBackend`."""
        return _attend(query_TNH, pages, inputs, scale=scale, window=window, softcap=softcap, sinks=sinks)


def _attend(
    query_TNH: Array,
    pages: ReferencePages,
    inputs: AttentionInputs,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Array | None = None,
) -> Array:
    """Return softmax(scale * q.k) . v of every query, [T, N, V]."""
    rows, width = inputs.page_table_BW.shape
    num_tokens, columns = len(inputs.position_T), inputs.max_queries_per_row
    _, size, kv_heads, head_dim = pages.key_PZKH.shape
    value_dim = pages.value_PZKH.shape[-1]
    # A rectangle of each row's queries; what lies behind a row's last query is another's and sees nothing here.
    start_B1 = jnp.asarray(inputs.query_start_B1)
    token_BC = start_B1[:-1, None] + jnp.arange(columns)
    is_own_BC = token_BC < start_B1[1:, None]
    token_BC = jnp.minimum(token_BC, num_tokens - 1)
    query_BCKGH = query_TNH[token_BC].reshape(rows, columns, kv_heads, -1, head_dim)
    gather = partial(_gather, inputs.page_table_BW, pages.number_type)
    key_BSKH = gather(pages.key_PZKH, pages.key_scale_PZK)
    value_BSKV = gather(pages.value_PZKH, pages.value_scale_PZK)

    key_position_S = jnp.arange(width * size)
    position_BC1 = jnp.asarray(inputs.position_T)[token_BC][..., None]
    live_BS = key_position_S < inputs.length_B[:, None]
    seen_BCS = is_own_BC[..., None] & live_BS[:, None, :] & (key_position_S <= position_BC1)
    if window is not None:
        seen_BCS &= key_position_S > position_BC1 - window
    used_BS = seen_BCS.any(1)

    score_BKGCS = scale * jnp.einsum("BCKGH,BSKH->BKGCS", query_BCKGH, key_BSKH, preferred_element_type=jnp.float32)
    if softcap is not None:
        score_BKGCS = softcap * jnp.tanh(score_BKGCS / softcap)
    score_BKGCS = jnp.where(seen_BCS[:, None, None], score_BKGCS, MASKED_SCORE)
    running_max_BKGC = score_BKGCS.max(-1)
    sink_KG1 = None if sinks is None else sinks.astype(jnp.float32).reshape(kv_heads, -1, 1)
    if sink_KG1 is not None:
        running_max_BKGC = jnp.maximum(running_max_BKGC, sink_KG1)
    weight_BKGCS = jnp.where(seen_BCS[:, None, None], jnp.exp(score_BKGCS - running_max_BKGC[..., None]), 0.0)
    running_sum_BKGC = weight_BKGCS.sum(-1)
    if sink_KG1 is not None:
        running_sum_BKGC += jnp.exp(sink_KG1 - running_max_BKGC)
    value_BSKV = jnp.where(used_BS[:, :, None, None], value_BSKV, 0)
    out_BKGCV = jnp.einsum("BKGCS,BSKV->BKGCV", weight_BKGCS, value_BSKV.astype(jnp.float32))
    out_BKGCV /= jnp.where(running_sum_BKGC == 0, 1.0, running_sum_BKGC)[..., None]
    out_BCNV = out_BKGCV.transpose(0, 3, 1, 2, 4).reshape(rows, columns, -1, value_dim)
    row_T = inputs.row_T
    index_T = jnp.clip(jnp.arange(num_tokens) - start_B1[row_T], 0, columns - 1)
    out_TNV = jnp.where(inputs.is_real_T[:, None, None], out_BCNV[row_T, index_T], 0)
    return out_TNV.astype(query_TNH.dtype)


def _gather(page_table_BW: Array, number_type: Any, plane_PZKH: Array, scale_PZK: Array | None) -> Array:
    """Return the numbers of every row's pages, [B, S, K, H], multiplied by their scales if they have any."""
    rows = len(page_table_BW)
    array_BSKH = from_stored(plane_PZKH[page_table_BW].reshape(rows, -1, *plane_PZKH.shape[2:]), number_type)
    if scale_PZK is None:
        return array_BSKH
    scale_BSK = scale_PZK[page_table_BW].reshape(rows, -1, scale_PZK.shape[2])
    return array_BSKH.astype(scale_BSK.dtype) * scale_BSK[..., None]
