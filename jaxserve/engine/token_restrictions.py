"""The token ids that a request may not sample: allowed_token_ids and bad_words, as bitmaps on the host."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from jaxserve.sampling.penalties import num_words, pack_bits

ALL_BITS = np.uint32(0xFFFFFFFF)


@dataclass(frozen=True, slots=True, eq=False)
class TokenRestrictions:
    """The allowed token ids and bad words of one request.

    vocab_size       The number of token ids.
    allowed_M        uint32 [ceil(V / 32)], bit set = allowed at every position; None: every token is allowed.
    banned_after     The tokens of a bad word without the last → the ids that must not follow them.
    max_prefix_len   The length of the longest key of banned_after.
    """

    vocab_size: int
    allowed_M: np.ndarray | None
    banned_after: dict[tuple[int, ...], tuple[int, ...]]
    max_prefix_len: int

    @classmethod
    def from_ids(
        cls, allowed_ids: Sequence[int] | None, bad_sequences: Iterable[tuple[int, ...]], vocab_size: int
    ) -> "TokenRestrictions":
        """Return the restrictions of a request.

        allowed_ids     The only ids that it may sample; None: all.
        bad_sequences   Token sequences of which the last id must not follow the others.
        """
        banned_after: dict[tuple[int, ...], tuple[int, ...]] = {}
        for *prefix, last in bad_sequences:
            banned_after[tuple(prefix)] = (*banned_after.get(tuple(prefix), ()), last)
        never_allowed = banned_after.pop((), ())
        allowed_M = None
        if allowed_ids is not None or never_allowed:
            allowed_M = (
                np.full(num_words(vocab_size), ALL_BITS) if allowed_ids is None else pack_bits(allowed_ids, vocab_size)
            )
            allowed_M &= ~pack_bits(never_allowed, vocab_size)
        return cls(vocab_size, allowed_M, banned_after, max(map(len, banned_after), default=0))

    @property
    def needs_mask(self) -> bool:
        """Whether the tokens of the request need masks."""
        return self.allowed_M is not None or bool(self.banned_after)

    @property
    def needs_previous_tokens(self) -> bool:
        """Whether its masks depend on the tokens before them."""
        return bool(self.banned_after)

    def make_mask(
        self,
        tokens: Sequence[int],
        first_output: int,
        suppressed_ids: Sequence[int],
        grammar_M: np.ndarray | None = None,
    ) -> np.ndarray | None:
        """Return the mask of the token after `tokens`, uint32 [ceil(V / 32)], or None if every token is allowed.

        first_output     The index in `tokens` at which the output begins.
        suppressed_ids   Ids that are forbidden, too, unless a grammar allows no others.
        grammar_M        What a grammar allows; None: no grammar.
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
        others_M = ~pack_bits(ids, self.vocab_size)
        return others_M if allowed_M is None else allowed_M & others_M
