"""The few shapes that are compiled, and rounding up to them.

Every shape costs seconds at the start, every gap between shapes costs padding in each step. Buckets are settled
before the doors open; asking for more than the largest is a bug, so it raises instead of compiling.
"""

from bisect import bisect_left
from dataclasses import dataclass
from itertools import pairwise

# Rows of a decode step. A GPU's products take the same time up to about 100 rows, so few buckets do; one row
# alone is worth a shape everywhere (vector instead of matrix products). A CPU pays for every padded row.
_DECODE = {"cpu": (1, 2, 4, 8, 16, 32, 64, 128, 256), "gpu": (1, 8, 32, 64, 128, 256), "tpu": (8, 32, 64, 128, 256)}
# Tokens of a prompt chunk.
_PREFILL = {"cpu": (16, 64, 256, 512), "gpu": (16, 64, 256, 512, 1024, 2048), "tpu": (16, 64, 256, 512, 1024, 2048)}
# Pages a row may read, in steps of this factor. Only the plain XLA gather on a CPU pays for pages it does not
# need; kernels take lengths as they come and have the full width alone.
_WIDTH_FACTOR = 4
_NARROWEST_CPU = 16


@dataclass(frozen=True, slots=True)
class Buckets:
    """Compiled sizes, each rising: decode rows, prompt tokens of a chunk, and pages per row (W of the table)."""

    decode: tuple[int, ...]
    prefill: tuple[int, ...]
    width: tuple[int, ...]

    def __post_init__(self) -> None:
        for name in ("decode", "prefill", "width"):
            sizes = getattr(self, name)
            if not sizes or sizes[0] < 1 or any(a >= b for a, b in pairwise(sizes)):
                raise ValueError(f"{name} buckets must rise from at least 1, got {sizes}")

    def decode_bucket(self, num_rows: int) -> int:
        """Rows of the smallest compiled decode step that takes num_rows."""
        return _round_up(self.decode, num_rows, "decode rows")

    def prefill_bucket(self, num_tokens: int) -> int:
        """Tokens of the smallest compiled chunk that takes num_tokens."""
        return _round_up(self.prefill, num_tokens, "tokens in a chunk")

    def width_bucket(self, num_pages: int) -> int:
        """Width of the smallest compiled page table that takes num_pages."""
        return _round_up(self.width, num_pages, "pages in a row")


def choose(*, max_num_seqs: int, max_num_batched_tokens: int, pages_per_row: int, platform: str) -> Buckets:
    """The shapes for this machine; the largest of each kind is exactly the limit given.

    pages_per_row is what one request of max_model_len occupies. An unknown platform is treated as a GPU.
    """
    kind = platform if platform in _DECODE else "gpu"
    return Buckets(
        decode=_up_to(_DECODE[kind], max_num_seqs),
        prefill=_up_to(_PREFILL[kind], max_num_batched_tokens),
        width=_widths(pages_per_row) if kind == "cpu" else (pages_per_row,),
    )


def _widths(pages_per_row: int) -> tuple[int, ...]:
    sizes = [_NARROWEST_CPU]
    while sizes[-1] < pages_per_row:
        sizes.append(sizes[-1] * _WIDTH_FACTOR)
    return _up_to(sizes, pages_per_row)


def _up_to(sizes: tuple[int, ...] | list[int], largest: int) -> tuple[int, ...]:
    return (*(size for size in sizes if size < largest), largest)


def _round_up(sizes: tuple[int, ...], wanted: int, what: str) -> int:
    at = bisect_left(sizes, wanted)
    if at == len(sizes):
        raise ValueError(f"{wanted} {what} are more than the largest compiled shape, {sizes[-1]}")
    return sizes[at]
