"""Attention for TPUs: JAX's own ragged paged attention kernel behind our signature. Unmeasured: no TPU was at hand.

It is what "auto" takes where our own kernels (mosaic/) do not run, or do not hold the pages or the page table, and what
these are compared with.

The kernel, jax.experimental.pallas.ops.tpu.ragged_paged_attention (the same in jax 0.10.2 and 0.12), takes one flat
batch of queries and pages in which keys and values alternate head by head. It lowers for TPU. JAX's TPU interpreter
runs it if reads of reshaped and bit-cast references and masked stores are added to it: so it is held to the contract of
the backends, freed pages, races and unwritten memory included. Its limits, and what becomes of them:

head sizes      lanes come by 128: a smaller head is stored and multiplied with zeros behind it, so 64 costs
                the memory of 128
key heads       twice their number, counted in 32-bit words, must be 1, 2, 4 or a multiple of 8, and heads above 128
                lanes must be alone: others are cut into parts, with a call of the kernel for each; float32 heads above
                128 lanes are refused by name
page table      lies in scalar memory, 1 MiB less 8 KiB, in tiles of 8 rows and 128 pages: a larger one is refused by
                name, and pages are as large by default as it takes for the table to fit
many heads      a block of queries is halved until it fits into vector memory
windows         all blocks of keys are fetched: rows and tables are cropped to what the window needs
8-bit pages     the kernel knows one scale for all keys and one for all values, not one for each token: 8-bit floats
                are stored without scales, as they are, and integers, which need some, are refused by name
rows without    queries between others cost a block of keys each; those at the end are not shown to the kernel
queries
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxserve.attention.inputs import AttentionCalls, AttentionInputs, crop_width
from jaxserve.attention.latent import BlockLatentAttention
from jaxserve.attention.page_types import has_scales, largest_number
from jaxserve.errors import BadConfig

LANES = 128
TABLE_BYTES = 2**20 - 2**13  # scalar memory of a core is 1 MiB on v5e and later; the kernel needs some of it
VECTOR_BYTES = 15 * 2**20  # of the 16 MiB that a kernel gets
MIN_PAGE_SIZE = 32
BLOCK_BYTES = 2 * 2**20  # keys and values of one turn; there are two such buffers, and vector memory is 16 MiB
BLOCK_QUERIES = 32
DECODE_BLOCK_QUERIES = 8  # with 32, decode computes longer than it reads: 1.4 times on v5e, 2 on v6e (compiled code)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TpuPages:
    """One layer, in parts of some key heads each, in order; H is a multiple of LANES.

    A part has X = 2K heads a token: key 0, value 0, key 1, value 1 and so on.
    """

    parts_PZXH: tuple[Array, ...]


class TpuAttention:
    """Attention by JAX's ragged paged attention kernel for TPUs."""

    name = "tpu"
    stacks_layers = False
    latent = BlockLatentAttention(LANES)

    def default_page_size(self, num_rows: int, max_tokens: int, dtype: Any) -> int:
        """Return the least size from MIN_PAGE_SIZE on with which a table of so many rows fits into scalar memory."""
        size = MIN_PAGE_SIZE
        while size < max_tokens and _table_bytes(num_rows, -(-max_tokens // size)) > TABLE_BYTES:
            size *= 2
        return size

    def max_pages(self, page_size: int, kv_heads: int, head_dim: int, dtype: Any) -> int | None:
        """Return None: any number."""
        return None

    def check_calls(self, calls: AttentionCalls) -> None:
        """Raise BadConfig if there are sinks, or if the page table is larger than scalar memory."""
        if calls.has_sinks:
            raise BadConfig("attention_backend 'tpu' has no attention sinks; try --attention-backend reference.")
        rows, width = calls.rows, calls.width
        if calls.window is not None:
            width = crop_width(width, calls.window, 1, calls.page_size)
        if _table_bytes(rows, width) > TABLE_BYTES:
            raise BadConfig(
                f"attention_backend 'tpu': a page table of {rows} rows x {width} pages does not fit into the 1 MiB of"
                " scalar memory; try a larger --block-size, or a smaller --max-model-len or --max-num-seqs."
            )

    def make_pages(self, num_pages: int, page_size: int, kv_heads: int, head_dim: int, dtype: Any) -> TpuPages:
        """Return one layer's pages, all zeros. Raises BadConfig if the kernel cannot hold such heads."""
        dtype, stored_dim = jnp.dtype(dtype), _round_up_to_lanes(head_dim)
        if jnp.issubdtype(dtype, jnp.integer):
            raise BadConfig(
                f"attention_backend 'tpu' has no scale for each token, without which keys cannot be {dtype}; try"
                " --kv-cache-dtype fp8."
            )
        parts = _split_heads(kv_heads, stored_dim, dtype)
        return TpuPages(tuple(jnp.zeros((num_pages, page_size, 2 * part, stored_dim), dtype) for part in parts))

    def write(self, pages: TpuPages, key_TKH: Array, value_TKH: Array, slot_T: Array) -> TpuPages:
        """Return the pages with the tokens in their slots. Donate pages."""
        num_tokens, kv_heads, head_dim = key_TKH.shape
        both_TXH = jnp.stack([key_TKH, value_TKH], axis=2).reshape(num_tokens, 2 * kv_heads, head_dim)
        written, end = [], 0
        for part_PZXH in pages.parts_PZXH:
            _, size, heads, stored_dim = part_PZXH.shape
            start, end = end, end + heads
            new_TXH = _cast(_pad_last(both_TXH[:, start:end], stored_dim), part_PZXH.dtype)
            written.append(part_PZXH.at[slot_T // size, slot_T % size].set(new_TXH))
        return TpuPages(tuple(written))

    def attend(
        self,
        query_TNH: Array,
        pages: TpuPages,
        inputs: AttentionInputs,
        *,
        scale: float,
        window: int | None = None,
        softcap: float | None = None,
        sinks: Array | None = None,
    ) -> Array:
        """Return softmax(scale * q.k) . v of every query, [T, N, H]; see `AttentionBackend`.

        Raises BadConfig if there are sinks, or if the page table is larger than scalar memory.
        """
        size = pages.parts_PZXH[0].shape[1]
        if window is not None:
            # The kernel fetches what lies behind a window and multiplies it by zero: freed pages must not be there.
            inputs = inputs.crop_to_window(window, size)
        rows, width = inputs.page_table_BW.shape
        self.check_calls(AttentionCalls(rows=rows, width=width, page_size=size, has_sinks=sinks is not None))
        group = query_TNH.shape[1] // (sum(part.shape[2] for part in pages.parts_PZXH) // 2)
        outputs, end = [], 0
        for part_PZXH in pages.parts_PZXH:
            start, end = end, end + group * part_PZXH.shape[2] // 2
            outputs.append(_attend_part(query_TNH[:, start:end], part_PZXH, inputs, scale, window, softcap))
        out_TNH = jnp.concatenate(outputs, axis=1) if len(outputs) > 1 else outputs[0]
        out_TNH = jnp.where(inputs.is_real_T[:, None, None], out_TNH[..., : query_TNH.shape[2]], 0)
        return out_TNH.astype(query_TNH.dtype)


def _attend_part(
    query_TNH: Array,
    part_PZXH: Array,
    inputs: AttentionInputs,
    scale: float,
    window: int | None,
    softcap: float | None,
) -> Array:
    """Call JAX's kernel for some key heads. Rows of the result that are padding hold anything."""
    _, size, heads, stored_dim = part_PZXH.shape
    page_bytes = size * heads * stored_dim * part_PZXH.dtype.itemsize
    block_pages = max(1, min(inputs.page_table_BW.shape[1], BLOCK_BYTES // page_bytes))
    block_queries = _choose_block_queries(
        DECODE_BLOCK_QUERIES if inputs.max_queries_per_row == 1 else BLOCK_QUERIES,
        num_heads=query_TNH.shape[1],
        stored_dim=stored_dim,
        block_bytes=block_pages * page_bytes,
        block_scores=block_pages * size * query_TNH.shape[1],
    )
    kernel_rows = _make_kernel_rows(inputs)
    is_narrow = has_scales(part_PZXH.dtype)
    scales = {"k_scale": 1.0, "v_scale": 1.0} if is_narrow else {}  # with which it converts keys to the query's type
    return _import_kernel()(
        _pad_last(query_TNH.astype(query_TNH.dtype if is_narrow else part_PZXH.dtype), stored_dim),
        part_PZXH,
        kernel_rows.length_B,
        inputs.page_table_BW,
        kernel_rows.query_start_B1,
        kernel_rows.num_rows_1,
        sm_scale=float(scale),
        sliding_window=window,
        soft_cap=softcap,
        # Ours to choose: JAX's own table asks the device at hand, and its default overflows with small pages.
        num_kv_pages_per_block=block_pages,
        num_queries_per_block=min(query_TNH.shape[0], block_queries),
        **scales,
    )


class KernelRows(NamedTuple):
    """The rows as JAX's kernel takes them.

    length_B         int32 [B], at least 1: the kernel waits for a block of keys of every row.
    query_start_B1   int32 [B + 1], with one query of the first row where there is none at all, for the same reason.
    num_rows_1       int32 [1], the rows up to the last one that owns a query: behind it the kernel would fetch keys
                     that it does not wait for.
    """

    length_B: Array
    query_start_B1: Array
    num_rows_1: Array


def _make_kernel_rows(inputs: AttentionInputs) -> KernelRows:
    start_B1 = jnp.asarray(inputs.query_start_B1)
    total = start_B1[-1]
    return KernelRows(
        length_B=jnp.maximum(jnp.asarray(inputs.length_B), 1),
        query_start_B1=jnp.where(total == 0, jnp.minimum(jnp.arange(len(start_B1)), 1), start_B1).astype(jnp.int32),
        num_rows_1=jnp.maximum((start_B1[:-1] < total).sum(dtype=jnp.int32), 1)[None],
    )


def _table_bytes(rows: int, width: int) -> int:
    """Return what a page table takes in scalar memory: whole tiles of 8 rows, or fewer, and 128 pages."""
    tile_rows = min(8, 1 << max(0, rows - 1).bit_length())
    return -(-rows // tile_rows) * tile_rows * -(-width // LANES) * LANES * 4


def _choose_block_queries(most: int, *, num_heads: int, stored_dim: int, block_bytes: int, block_scores: int) -> int:
    """Return the number of queries that a turn of the kernel takes: `most`, halved until the turn fits.

    block_bytes    The size of a block of keys and values, of which there are two.
    block_scores   The scores of one query with a block, of all heads.

    A query has two buffers in bfloat16 for itself and for its answer, a float32 sum, its maximum and the sum of its
    weights along LANES, and its scores. That estimate agrees with what libtpu 0.0.42 accepts for a v5e.
    """
    query_bytes = num_heads * (stored_dim * (2 * 2 * 2 + 4) + 2 * LANES * 4) + block_scores * 4
    while most > 1 and 2 * block_bytes + most * query_bytes > VECTOR_BYTES:
        most //= 2
    return most


def _split_heads(kv_heads: int, stored_dim: int, dtype: jnp.dtype) -> tuple[int, ...]:
    """Return the numbers of key heads of the parts, as few parts as the kernel allows.

    Raises BadConfig if the kernel takes not even one head of this size.
    """
    per_word = max(1, 4 // dtype.itemsize)

    def is_possible(part: int) -> bool:
        words, rest = divmod(2 * part, per_word)
        if stored_dim > LANES:  # the strides of several words are implemented for one tile of lanes
            return words == 1 and not rest
        return not rest and (words in (1, 2, 4, 8) or words % 8 == 0)

    parts: list[int] = []
    while (left := kv_heads - sum(parts)) > 0:
        part = next((part for part in range(left, 0, -1) if is_possible(part)), None)
        if part is None:
            raise BadConfig(
                f"attention_backend 'tpu' cannot hold {kv_heads} key heads of {stored_dim} lanes in {dtype}; try"
                f" {'--kv-cache-dtype' if has_scales(dtype) else '--dtype'} bfloat16, or --attention-backend reference."
            )
        parts.append(part)
    return tuple(parts)


def _cast(array: Array, dtype: jnp.dtype) -> Array:
    """Return the numbers in another type; those beyond the range of an 8-bit type become the largest."""
    if has_scales(dtype):
        largest = largest_number(dtype)
        array = jnp.clip(array, -largest, largest)
    return array.astype(dtype)


def _round_up_to_lanes(head_dim: int) -> int:
    return -(-head_dim // LANES) * LANES


def _pad_last(array: Array, size: int) -> Array:
    return jnp.pad(array, ((0, 0),) * (array.ndim - 1) + ((0, size - array.shape[-1]),))


def _import_kernel() -> Any:
    """Imported when first asked for: nobody else pays for Pallas."""
    from jax.experimental.pallas.ops.tpu.ragged_paged_attention import ragged_paged_attention

    return ragged_paged_attention
