"""Pages on a GPU, the config of the kernels, and what one call of attention fixes before it runs."""

from dataclasses import dataclass

import jax
from jax import Array

MIN_DOT = 16  # the shortest side of a product on the tensor cores


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class GpuPages:
    """One layer, token-major: a token's heads lie together.

    A write is then one contiguous row per token (2 KiB of keys with 8 heads of 128 in bfloat16), where
    head-major pages [P, K, Z, H] would take K scattered pieces. A read of one head is Z rows of H elements with
    a stride: each row is 128 bytes or more from H = 64 on, whole cache lines either way, and the programs of the
    heads run side by side, so that neighbours fetch from the same DRAM pages. (Reasoned, not measured.) It is
    also the layout of the reference. 8-bit pages carry a float32 scale per token and head; others carry none.
    """

    key_PZKH: Array
    value_PZKH: Array
    key_scale_PZK: Array | None = None
    value_scale_PZK: Array | None = None


@dataclass(frozen=True)
class KernelConfig:
    """Sizes of the kernels that change their speed alone; the first three change rounding, too.

    split_tokens  what one program of decode reads; fixed, so that a row's sums never depend on its neighbours
    row_programs  the most programs of decode for one row, all key heads together; those of a longer row read a multiple
                  of split_tokens each. Two for each multiprocessor of an H200, because short rows pay for them as well
    block_bytes   about the size of one key tile; a turn of the loop holds one of keys and one of values
    tile_rows     rows of a prefill tile: queries times the heads that share a key head; half above H = 128
    warps, stages per kernel, as Triton means them
    """

    split_tokens: int = 256
    row_programs: int = 256
    block_bytes: int = 16 * 1024
    tile_rows: int = 128
    decode_warps: int = 4
    decode_stages: int = 3
    prefill_warps: int = 8
    prefill_stages: int = 3


@dataclass(frozen=True)
class AttentionParams:
    """Static parameters that the kernels share."""

    group: int  # query heads per key head
    head_dim: int
    page_size: int
    block_tokens: int  # keys per turn of the loop; blocks lie at fixed positions
    scale: float
    window: int | None
    softcap: float | None

    @property
    def lanes(self) -> int:
        """The head dimension in the kernel: a power of two, the surplus masked and never fetched."""
        return max(MIN_DOT, next_power_of_two(self.head_dim))


def next_power_of_two(size: int) -> int:
    """Return the least power of two that is not below `size`; Triton knows no other sizes."""
    return 1 << max(0, size - 1).bit_length()


def choose_block_tokens(head_dim: int, itemsize: int, config: KernelConfig) -> int:
    """Return the number of keys of a block, a power of two: tiles of about block_bytes, between 32 and 128 keys."""
    row_bytes = max(MIN_DOT, next_power_of_two(head_dim)) * itemsize
    return min(128, config.split_tokens, max(32, next_power_of_two(config.block_bytes // row_bytes)))
