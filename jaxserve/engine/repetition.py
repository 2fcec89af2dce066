"""Whether an answer has begun to repeat itself, looked at token by token. Numpy on the host, no strings.

The last p * c tokens are c copies of one p-token pattern exactly if each of the last p * (c - 1) tokens equals the one
p places before it. So for each p it is enough to count for how long that has been true without a break: a token costs
one comparison for each pattern size, however long the answer is.
"""

from copy import copy

import numpy as np

from jaxserve.sampling_params import RepetitionDetection


class RepetitionDetector:
    """One answer's runs. push() takes every token once, in order.

    max_outputs    tokens that the answer may have: patterns that cannot fit often enough are not looked for
    """

    __slots__ = ("_at", "_largest", "_needed_P", "_recent", "_run_P", "_smallest")

    def __init__(self, params: RepetitionDetection, max_outputs: int) -> None:
        largest = min(params.max_pattern_size, max_outputs // params.min_count)
        self._smallest = min(max(params.min_pattern_size, 1), largest + 1)
        self._largest = largest
        self._needed_P = np.arange(self._smallest, largest + 1) * (params.min_count - 1 if largest else 0)
        self._run_P = np.zeros_like(self._needed_P)
        # The newest `largest` tokens twice, one copy behind the other, so that they always lie in one piece.
        self._recent = np.full(2 * self._largest, -1, np.int64)
        self._at = 0

    def copy(self) -> "RepetitionDetector":
        """Another one that has seen the same tokens."""
        other = copy(self)
        other._run_P, other._recent = self._run_P.copy(), self._recent.copy()
        return other

    def push(self, token: int) -> bool:
        """Whether the answer, with this token, ends in enough copies of a pattern."""
        if not len(self._run_P):
            return False
        newest_first = self._recent[self._at : self._at + self._largest][::-1]
        self._run_P = (self._run_P + 1) * (newest_first[self._smallest - 1 :] == token)
        self._recent[[self._at, self._at + self._largest]] = token
        self._at = (self._at + 1) % self._largest
        return bool((self._run_P >= self._needed_P).any())
