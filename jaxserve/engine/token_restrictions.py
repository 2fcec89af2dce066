"""What one request may never draw, or not just now: host only, one bitmap for each draw that needs one."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from jaxserve.sampling.lines import bitmap, num_words

ALL_BITS = np.uint32(0xFFFFFFFF)


@dataclass(frozen=True, slots=True, eq=False)
class TokenRestrictions:
    """A request's whitelist and bad words.

    allowed_M   uint32 [ceil(V / 32)], bit set = allowed: what holds at every token; None: everything is allowed
    banned_after  tokens that may have to stand before → ids that may then not follow, for words of several tokens
    max_prefix_len  most tokens that have to stand before
    """

    vocab_size: int
    allowed_M: np.ndarray | None
    banned_after: dict[tuple[int, ...], tuple[int, ...]]
    max_prefix_len: int

    @classmethod
    def from_ids(
        cls, allowed_ids: Sequence[int] | None, bad_sequences: Iterable[tuple[int, ...]], vocab_size: int
    ) -> "TokenRestrictions":
        """sequences: the last id of each may not follow the others."""
        banned_after: dict[tuple[int, ...], tuple[int, ...]] = {}
        for *before, last in bad_sequences:
            banned_after[tuple(before)] = (*banned_after.get(tuple(before), ()), last)
        never = banned_after.pop((), ())
        allowed_M = None
        if allowed_ids is not None or never:
            allowed_M = (
                np.full(num_words(vocab_size), ALL_BITS) if allowed_ids is None else bitmap(allowed_ids, vocab_size)
            )
            allowed_M &= ~bitmap(never, vocab_size)
        return cls(vocab_size, allowed_M, banned_after, max(map(len, banned_after), default=0))

    @property
    def needs_mask(self) -> bool:
        """Whether every token of the request needs a mask."""
        return self.allowed_M is not None or bool(self.banned_after)

    @property
    def needs_previous_tokens(self) -> bool:
        """Whether the mask depends on the tokens before."""
        return bool(self.banned_after)

    def make_mask(
        self,
        tokens: Sequence[int],
        first_output: int,
        suppressed_ids: Sequence[int],
        grammar_M: np.ndarray | None = None,
    ) -> np.ndarray | None:
        """The mask of the token after `tokens`, whose answer begins at `first_output`; None: everything is allowed.

        Of what grammar_M allows, if there is one. suppressed_ids are forbidden besides, unless it leaves no others.
        """
        banned: list[int] = []
        for length in range(1, min(self.max_prefix_len, len(tokens) - first_output) + 1):
            banned += self.banned_after.get(tuple(tokens[-length:]), ())
        allowed_M = self.allowed_M if self.allowed_M is not None else grammar_M
        if self.allowed_M is not None and grammar_M is not None:
            allowed_M = self.allowed_M & grammar_M
        if banned:
            allowed_M = self._without(allowed_M, banned)
        if suppressed_ids:
            others_M = self._without(allowed_M, suppressed_ids)
            if grammar_M is None or others_M.any():
                return others_M
        return allowed_M

    def _without(self, allowed_M: np.ndarray | None, ids: Iterable[int]) -> np.ndarray:
        gone_M = ~bitmap(ids, self.vocab_size)
        return gone_M if allowed_M is None else allowed_M & gone_M
