"""What one request may never draw, or not just now: host only, one bitmap for each draw that needs one."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from jaxserve.sampling.lines import bitmap, num_words

ALL = np.uint32(0xFFFFFFFF)


@dataclass(frozen=True, slots=True, eq=False)
class Bans:
    """A request's whitelist and bad words.

    standing_M   uint32 [ceil(V / 32)], bit set = allowed: what holds at every token; None: everything is allowed
    endings      tokens that may have to stand before → ids that may then not follow, for words of several tokens
    longest      most tokens that have to stand before
    """

    vocab_size: int
    standing_M: np.ndarray | None
    endings: dict[tuple[int, ...], tuple[int, ...]]
    longest: int

    @classmethod
    def of(cls, allowed_ids: Sequence[int] | None, sequences: Iterable[tuple[int, ...]], vocab_size: int) -> "Bans":
        """sequences: the last id of each may not follow the others."""
        endings: dict[tuple[int, ...], tuple[int, ...]] = {}
        for *before, last in sequences:
            endings[tuple(before)] = (*endings.get(tuple(before), ()), last)
        never = endings.pop((), ())
        standing_M = None
        if allowed_ids is not None or never:
            standing_M = np.full(num_words(vocab_size), ALL) if allowed_ids is None else bitmap(allowed_ids, vocab_size)
            standing_M &= ~bitmap(never, vocab_size)
        return cls(vocab_size, standing_M, endings, max(map(len, endings), default=0))

    @property
    def always(self) -> bool:
        """Whether every token of the request needs a mask."""
        return self.standing_M is not None or bool(self.endings)

    @property
    def needs_past(self) -> bool:
        """Whether the mask depends on the tokens before."""
        return bool(self.endings)

    def mask(
        self, tokens: Sequence[int], first: int, held_back_ids: Sequence[int], grammar_M: np.ndarray | None = None
    ) -> np.ndarray | None:
        """The mask of the token after `tokens`, of which the answer's begin at `first`; None: everything is allowed.

        Of what grammar_M allows, if there is one. held_back_ids are forbidden besides, unless it leaves no others.
        """
        banned: list[int] = []
        for length in range(1, min(self.longest, len(tokens) - first) + 1):
            banned += self.endings.get(tuple(tokens[-length:]), ())
        allowed_M = self.standing_M if self.standing_M is not None else grammar_M
        if self.standing_M is not None and grammar_M is not None:
            allowed_M = self.standing_M & grammar_M
        if banned:
            allowed_M = self._without(allowed_M, banned)
        if held_back_ids:
            others_M = self._without(allowed_M, held_back_ids)
            if grammar_M is None or others_M.any():
                return others_M
        return allowed_M

    def _without(self, allowed_M: np.ndarray | None, ids: Iterable[int]) -> np.ndarray:
        gone_M = ~bitmap(ids, self.vocab_size)
        return gone_M if allowed_M is None else allowed_M & gone_M
