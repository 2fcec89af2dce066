"""The pooling of a prompt that is computed chunk by chunk, on the host."""

import numpy as np

from jaxserve.models.pooling_spec import PoolingSpec


class PooledChunks:
    """The parts that the device has pooled of a sequence's chunks, in their order.

    spec   The way of pooling. Of sequences that are computed whole, there is one chunk, whose mean the device makes.
    """

    def __init__(self, spec: PoolingSpec) -> None:
        self._kind, self._is_sum = spec.kind, spec.kind == "mean" and not spec.is_whole
        self._parts: list[np.ndarray] = []
        self._num_tokens = 0

    def add(self, part: np.ndarray, num_tokens: int) -> None:
        """Add what was pooled of the next chunk, of num_tokens tokens: a sum, if the mean is wanted."""
        self._num_tokens += num_tokens
        if self._kind == "all" or not self._parts:
            self._parts.append(part)
        elif self._is_sum:
            self._parts[0] = self._parts[0] + part
        elif self._kind == "last":
            self._parts[0] = part

    def clear(self) -> None:
        """Forget all chunks: they will be computed again."""
        self._parts.clear()
        self._num_tokens = 0

    def finish(self) -> np.ndarray:
        """Return the result of all chunks: float32 [X], or [n, X] with a vector for each token."""
        if self._kind == "all":
            return np.concatenate(self._parts)
        [result] = self._parts
        return result / np.float32(self._num_tokens) if self._is_sum else result
