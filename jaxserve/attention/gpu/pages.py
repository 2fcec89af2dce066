"""Pages on a GPU, the config of the kernels, and what one call of attention fixes before it runs."""

from dataclasses import dataclass, replace

import jax
from jax import Array

MIN_DOT = 16  # the shortest side of a product on the tensor cores
WIDE = 128  # beyond this head dimension the sums of a prefill tile take half of the registers
WIDEST = 256  # beyond this one those of 64 rows take all that the softmax leaves


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

    def flatten(self) -> "GpuPages":
        """Return the planes with one axis for pages, tokens and heads, [P * Z * K, H] and [P * Z * K].

        One number then says where a key is, which saves the kernels two products for every address.
        """

        def merge(plane: Array) -> Array:
            return plane.reshape(-1, *plane.shape[3:])

        return jax.tree.map(merge, self)


@dataclass(frozen=True)
class KernelConfig:
    """Sizes of the kernels that change their speed alone; those of splits, blocks and tiles change rounding, too.

    split_tokens          what one split of decode holds; fixed, so that a row's sums never depend on its neighbours
    row_programs          the most splits of decode for one row, all key heads together; those of a longer row hold a
                          multiple of split_tokens each. Two for each multiprocessor of an H200, so that one long row
                          fills it, and partial sums of 256 rows, 8 key heads of 128 and a group of 4 are 130 MiB
    decode_programs       programs of decode that share all splits, eight for each multiprocessor of an H200
    block_bytes           about the size of one key tile of decode; a turn of the loop holds one of keys, one of values
    prefill_block_bytes   the same for prefill, where longer blocks rescale the sums of values less often; 8-bit keys
                          count as the 16-bit ones that they are multiplied as
    wide_block_bytes      the same for heads above 128
    tile_rows             rows of a prefill tile: queries times the heads that share a key head
    wide_tile_rows        the same for heads up to 256. Two warpgroups want 64 rows each: with fewer they share rows,
                          and both compute all scores (head 256, sm_90, predicted: 29 % of peak at 64 rows, 46 % at 128)
    widest_tile_rows      the same for heads above 256: with 64 rows of 512 the sums spill (sm_90), and 32 fit an L4
    prefill_programs      with fewer tiles the keys of each are split; two for each multiprocessor of an H200
    prefill_split_tokens  the least length of such a split: writing and reading its sums costs about as much as 500 keys
    warps, stages         per kernel, as Triton means them. Page numbers are loaded a stage before their pages: below
                          five stages a block is fetched only after the one before it was used (seen in the code of
                          sm_90), which decode hides behind the four programs of a multiprocessor, and prefill has one
    has_fp8               Triton converts 8-bit floats for the GPU; for others LLVM ends the process
    """

    split_tokens: int = 256
    row_programs: int = 256
    decode_programs: int = 8 * 132
    block_bytes: int = 16 * 1024
    prefill_block_bytes: int = 32 * 1024
    wide_block_bytes: int = 32 * 1024
    tile_rows: int = 128
    wide_tile_rows: int = 128
    widest_tile_rows: int = 32
    prefill_programs: int = 2 * 132
    prefill_split_tokens: int = 1024
    decode_warps: int = 4
    decode_stages: int = 3
    prefill_warps: int = 8
    prefill_stages: int = 5
    has_fp8: bool = True


@dataclass(frozen=True)
class AttentionParams:
    """Static parameters that the kernels share."""

    kv_heads: int
    group: int  # query heads per key head
    head_dim: int
    page_size: int
    block_tokens: int  # keys per turn of the loop; blocks lie at fixed positions
    scale: float
    window: int | None
    softcap: float | None
    interpret: bool  # the kernels run as XLA, which knows no PTX

    @property
    def lanes(self) -> int:
        """The head dimension in the kernel: a power of two, the surplus masked and never fetched."""
        return max(MIN_DOT, next_power_of_two(self.head_dim))


def next_power_of_two(size: int) -> int:
    """Return the least power of two that is not below `size`; Triton knows no other sizes."""
    return 1 << max(0, size - 1).bit_length()


FP8_CAPABILITY = 8.9  # from which on Triton converts 8-bit floats
# Without wgmma both operands of a product lie in registers, beside sums and scores. Blocks of 16 KiB spill 44 to 76
# bytes at heads of 64, 96 and 128; those of 8 KiB (32 keys of 128) none, and reach less of the peak as predicted: 59 to
# 85 % where it was 63 to 94 % with spills (A100, Llama-3.1-8B). Heads of 256 want 32 keys, too; those of 512 take 16.
# Three stages of these and 64 rows of wide heads fit the 99 KiB of an L4.
_SMALL = KernelConfig(prefill_block_bytes=8 * 1024, wide_block_bytes=16 * 1024, prefill_stages=3, wide_tile_rows=64)
# Parts of the names that CUDA gives GPUs whose multiprocessors have 227 KiB of shared memory for one program, and
# operands of products in it.
_LARGE_GPUS = ("H100", "H200", "H800", "H20", "GH200", "B100", "B200", "B300")


def choose_config(device_kind: str, compute_capability: float) -> KernelConfig:
    """Return the sizes for a GPU by its name, and what it can do by its compute capability, 0 if that is unknown."""
    config = KernelConfig() if any(name in device_kind for name in _LARGE_GPUS) else _SMALL
    return replace(config, has_fp8=compute_capability >= FP8_CAPABILITY)


def choose_block_tokens(head_dim: int, itemsize: int, config: KernelConfig, *, is_decode: bool) -> int:
    """Return the number of keys of a block, a power of two: tiles of about block_bytes, between 32 and 128 keys.

    Prefill has 32 where the head is wide, whose scores then fit the registers beside its sums, or 16 where only these
    are no larger than wide_block_bytes.
    """
    lanes = max(MIN_DOT, next_power_of_two(head_dim))
    if is_decode:
        return min(128, config.split_tokens, max(32, next_power_of_two(config.block_bytes // (lanes * itemsize))))
    row_bytes = lanes * max(2, itemsize)
    if head_dim > WIDE:
        return max(MIN_DOT, min(32, config.wide_block_bytes // row_bytes))
    return min(128, max(32, next_power_of_two(config.prefill_block_bytes // row_bytes)))
