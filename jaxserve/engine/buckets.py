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
_PREFILL = {
    "cpu": (16, 64, 128, 256, 512),
    "gpu": (16, 64, 256, 512, 1024, 2048),
    "tpu": (16, 64, 256, 512, 1024, 2048),
}


@dataclass(frozen=True, slots=True)
class Buckets:
    """Compiled sizes, each rising: decode rows, and prompt tokens of a chunk. Attention takes lengths as they come."""

    decode: tuple[int, ...]
    prefill: tuple[int, ...]

    def __post_init__(self) -> None:
        for name in ("decode", "prefill"):
            sizes = getattr(self, name)
            if not sizes or sizes[0] < 1 or any(a >= b for a, b in pairwise(sizes)):
                raise ValueError(f"{name} buckets must rise from at least 1, got {sizes}")

    def decode_bucket(self, num_rows: int) -> int:
        """Rows of the smallest compiled decode step that takes num_rows."""
        return _round_up(self.decode, num_rows, "decode rows")

    def prefill_bucket(self, num_tokens: int) -> int:
        """Tokens of the smallest compiled chunk that takes num_tokens."""
        return _round_up(self.prefill, num_tokens, "tokens in a chunk")


# Rows of the one shape under batch invariance come in whole tiles: a remainder is computed by other code, and rounds
# differently from the same row in the middle.
_TILE = 16


def choose_buckets(
    *, max_num_seqs: int, max_chunk_tokens: int, platform: str, page_size: int = 1, batch_invariant: bool = False
) -> Buckets:
    """The shapes for this machine; the largest of each kind is exactly the limit given.

    An unknown platform is treated as a GPU. Under batch invariance there is one shape for everything, of as many
    tokens as there may be rows, and at least a page: how a product rounds depends on its shape.
    """
    if batch_invariant:
        rows = -(-max(max_num_seqs, page_size) // _TILE) * _TILE
        return Buckets(decode=(rows,), prefill=(rows,))
    kind = platform if platform in _DECODE else "gpu"
    return Buckets(
        decode=_up_to(_DECODE[kind], max_num_seqs),
        prefill=_up_to(_PREFILL[kind], max_chunk_tokens),
    )


def _up_to(sizes: tuple[int, ...] | list[int], largest: int) -> tuple[int, ...]:
    return (*(size for size in sizes if size < largest), largest)


def _round_up(sizes: tuple[int, ...], wanted: int, what: str) -> int:
    at = bisect_left(sizes, wanted)
    if at == len(sizes):
        raise ValueError(f"{wanted} {what} are more than the largest compiled shape, {sizes[-1]}")
    return sizes[at]
