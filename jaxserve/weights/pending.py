"""Tensors that are going to be written: described first, so that sizes are known, and made one after the other."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from typing import TypeAlias

import numpy as np

ProgressCallback: TypeAlias = Callable[[str, float, float], None]

MAX_THREADS = 8


@dataclass(frozen=True, slots=True)
class PendingTensor:
    """A tensor that a checkpoint is going to hold.

    name    Its name there.
    shape   Its shape as it is stored.
    dtype   Its type as it is stored.
    make    Return its values, contiguous; called once, in any thread.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    make: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        """The bytes of its values."""
        return prod(self.shape) * self.dtype.itemsize


def make_in_order(tensors: Sequence[PendingTensor]) -> Iterator[np.ndarray]:
    """Yield the values of tensors in their order. Threads make a few ahead, so that memory holds few of them."""
    num_threads = min(MAX_THREADS, os.cpu_count() or 1)
    pool, running = ThreadPoolExecutor(num_threads, "convert"), deque[Future[np.ndarray]]()
    try:
        for tensor in tensors:
            running.append(pool.submit(tensor.make))
            if len(running) > num_threads:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
