"""The batch sizes that are compiled (buckets), and rounding up to them.

Every bucket costs seconds at start-up, every gap between buckets costs padding in each step. Buckets are chosen before
the first request; asking for more than the largest is a bug, so it raises instead of compiling.
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
    """The compiled batch sizes, each tuple in ascending order. Context lengths have no buckets.

    decode    Numbers of rows of a decode step.
    prefill   Numbers of tokens of a prompt chunk.

    Raises ValueError if a tuple is empty, does not ascend, or starts below 1.
    """

    decode: tuple[int, ...]
    prefill: tuple[int, ...]

    def __post_init__(self) -> None:
        for name in ("decode", "prefill"):
            sizes = getattr(self, name)
            if not sizes or sizes[0] < 1 or any(a >= b for a, b in pairwise(sizes)):
                raise ValueError(f"{name} buckets must rise from at least 1, got {sizes}")

    def decode_bucket(self, num_rows: int) -> int:
        """Round a number of decode rows up to a compiled one; raises ValueError if there is none so large."""
        return _round_up(self.decode, num_rows, "decode rows")

    def prefill_bucket(self, num_tokens: int) -> int:
        """Round a number of chunk tokens up to a compiled one; raises ValueError if there is none so large."""
        return _round_up(self.prefill, num_tokens, "tokens in a chunk")


# The bucket under batch invariance is a multiple of this: rows beyond the last whole tile of a matrix product are
# computed by other code, which rounds differently.
_TILE = 16


def choose_buckets(
    *, max_num_seqs: int, max_chunk_tokens: int, platform: str, page_size: int = 1, batch_invariant: bool = False
) -> Buckets:
    """Return the buckets for a platform; the largest of each kind is exactly the limit given.

    An unknown platform is treated as a GPU. Under batch invariance there is one size for decode and prefill: at least
    max_num_seqs rows and a page of tokens, because how a matrix product rounds depends on its shape.
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


def _round_up(sizes: tuple[int, ...], number: int, unit: str) -> int:
    index = bisect_left(sizes, number)
    if index == len(sizes):
        raise ValueError(f"{number} {unit} are more than the largest compiled shape, {sizes[-1]}")
    return sizes[index]
