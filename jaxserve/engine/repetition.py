"""Detection of outputs that repeat themselves (SamplingParams.repetition_detection), token by token, on the host.

The last p * c tokens are c copies of one p-token pattern exactly if each of the last p * (c - 1) tokens equals the one
p places before it. So for each p it is enough to count the unbroken run of such equalities: a token costs one
comparison for each pattern size, however long the output is.
"""

from copy import copy

import numpy as np

from jaxserve.sampling_params import RepetitionDetection


class RepetitionDetector:
    """A detector of outputs that end in copies of a pattern.

    params        The sizes of the patterns and the number of copies.
    max_outputs   The most tokens that the output may have; patterns that cannot fit min_count times are left out.
    """

    __slots__ = ("_largest", "_needed_P", "_next", "_recent", "_run_P", "_smallest")

    def __init__(self, params: RepetitionDetection, max_outputs: int) -> None:
        largest = min(params.max_pattern_size, max_outputs // params.min_count)
        self._smallest = min(max(params.min_pattern_size, 1), largest + 1)
        self._largest = largest
        self._needed_P = np.arange(self._smallest, largest + 1) * (params.min_count - 1 if largest else 0)
        self._run_P = np.zeros_like(self._needed_P)
        # A ring buffer of the newest `largest` tokens, kept twice in a row: its contents are always one slice.
        self._recent = np.full(2 * self._largest, -1, np.int64)
        self._next = 0

    def copy(self) -> "RepetitionDetector":
        """Return an independent detector in the same state."""
        other = copy(self)
        other._run_P, other._recent = self._run_P.copy(), self._recent.copy()
        return other

    def push(self, token: int) -> bool:
        """Take the next token; return whether the output now ends in min_count copies of a pattern.

        Every token is pushed exactly once, in order.
        """
        if not len(self._run_P):
            return False
        newest_first = self._recent[self._next : self._next + self._largest][::-1]
        self._run_P = (self._run_P + 1) * (newest_first[self._smallest - 1 :] == token)
        self._recent[[self._next, self._next + self._largest]] = token
        self._next = (self._next + 1) % self._largest
        return bool((self._run_P >= self._needed_P).any())
