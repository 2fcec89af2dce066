"""The division of a step's prompt chunks into calls of the prefill programs."""

from collections.abc import Sequence
from itertools import accumulate

CALL_COST = 32  # tokens that take as long as reading the weights once; measured on a CPU, where a call takes 25 ms


def divide_into_calls(counts: Sequence[int], sizes: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Divide consecutive chunks into calls at the least cost; return (chunks, index of the size) of each call.

    counts   The number of tokens of each chunk.
    sizes    The tokens and the chunks that each program has room for, both in ascending order.

    The cost of a call is that of reading the weights, and of its tokens with padding.

    Raises ValueError if a chunk fits no program.
    """
    if len(counts) == 1:
        return [(1, _find_size(counts[0], 1, sizes))]
    ends = [0, *accumulate(counts)]
    best: list[tuple[int, int, int]] = [(0, 0, 0)]  # of the first n chunks: cost, chunks of the last call, its size
    for end in range(1, len(ends)):
        options = []
        for num in range(1, end + 1):
            if num > 1 and (num > sizes[-1][1] or ends[end] - ends[end - num] > sizes[-1][0]):
                break
            size = _find_size(ends[end] - ends[end - num], num, sizes)
            options.append((best[end - num][0] + CALL_COST + sizes[size][0], num, size))
        best.append(min(options))
    calls, end = [], len(counts)
    while end:
        _, num, size = best[end]
        calls.append((num, size))
        end -= num
    return calls[::-1]


def _find_size(num_tokens: int, num_chunks: int, sizes: Sequence[tuple[int, int]]) -> int:
    for index, (tokens, chunks) in enumerate(sizes):
        if num_tokens <= tokens and num_chunks <= chunks:
            return index
    raise ValueError(
        f"{num_tokens} tokens in {num_chunks} chunks are more than the largest compiled shape, {sizes[-1]}"
    )
