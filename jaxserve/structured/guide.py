"""The token masks of one sequence: first reasoning, then a grammar, then no constraint.

During the reasoning all tokens are allowed except those that would end the output before its grammar has begun, until
the thinking budget is used up and the tokens that end the reasoning are forced. From there on the grammar decides. The
tokens that end an output are no part of it: they are allowed where the grammar may end, and nowhere else. A guide knows
tokens and bitmaps, no text and no requests. The name is that of outlines' class for guided decoding.
"""

from collections.abc import Callable, Sequence
from copy import copy
from typing import Protocol

import numpy as np
from llguidance import LLMatcher

# A lexer that has exceeded its limits stays in error, for all matchers that share it.
LEXER_ERROR = "lexer error"
# A part of llguidance's message → the reason that clients read.
REASONS = (
    ("too many states", "its texts have more states than can be kept"),
    ("too many expressions", "its texts take too long to be told apart"),
    ("items", "more may come next than can be followed at once"),
)


class ReasoningTracker(Protocol):
    """A state within the reasoning section of an output, or before it. Immutable: `advance` returns another."""

    @property
    def is_inside(self) -> bool:
        """Whether the section has begun, so that the thinking budget counts the next token."""
        ...

    def advance(self, token_id: int) -> "ReasoningTracker | None":
        """Return the state after a token; None: the token ends the reasoning."""
        ...


class Grammar(Protocol):
    """A grammar compiled for the tokens of the served model (compiler.CompiledGrammar)."""

    @property
    def param(self) -> str:
        """The request's field that the grammar comes from."""
        ...

    def new_matcher(self, *, with_new_lexer: bool = False) -> LLMatcher:
        """Return a matcher at the beginning of the grammar, with the lexer of earlier sequences or with a new one.

        A lexer keeps every state that some sequence has reached, up to a limit.
        """
        ...


class Guide:
    """The token masks of one sequence, computed token by token.

    grammar                   constrains what follows the reasoning; None: nothing does
    stop_mask_M               bitmap of the tokens that end an output: uint32 [ceil(V / 32)], bit t % 32 of word t // 32
                              is token t. The end tokens of the grammar's tokenizer are among them.
    reasoning_state           the state in which the output begins; None: there is no reasoning
    thinking_budget           tokens that the reasoning may have; None: any number
    reasoning_end_ids         tokens that are forced one after another when the budget is used up
    continues_after_grammar   anything may follow the complete grammar; else the output ends there

    error                     why the grammar cannot be followed any further: from then on no token is allowed
    is_unconstrained          every token is allowed from now on
    """

    __slots__ = (
        *("_continues_after_grammar", "_grammar", "_matcher", "_num_forced", "_reasoning_end_ids", "_reasoning_state"),
        *("_stop_mask_M", "_thinking_budget", "_token_ids"),
        *("error", "is_unconstrained"),
    )

    def __init__(
        self,
        grammar: Grammar | None,
        stop_mask_M: np.ndarray,
        *,
        reasoning_state: ReasoningTracker | None = None,
        thinking_budget: int | None = None,
        reasoning_end_ids: Sequence[int] = (),
        continues_after_grammar: bool = False,
    ) -> None:
        self._grammar, self._stop_mask_M = grammar, stop_mask_M
        self._continues_after_grammar = continues_after_grammar
        self._matcher: LLMatcher | None = None
        self._token_ids: list[int] = []  # since the grammar began
        self._reasoning_state, self._thinking_budget = reasoning_state, thinking_budget
        self._reasoning_end_ids, self._num_forced = tuple(reasoning_end_ids), 0
        self.error: str | None = None
        self.is_unconstrained = reasoning_state is None and grammar is None

    def copy(self) -> "Guide":
        """Return an independent guide in the same state, for a beam or a fork of the sequence."""
        other = copy(self)
        other._token_ids = self._token_ids.copy()
        if self._matcher is not None:
            other._matcher = self._matcher.deep_copy()
        return other

    def mask(self) -> np.ndarray | None:
        """Compute the mask of the next token.

        Returns a new bitmap in the form of stop_mask_M, bit set = allowed; None: every token is.
        """
        if self.is_unconstrained:
            return None
        if self._reasoning_state is None:
            return self._grammar_mask()
        if self._is_forcing:
            return self._forced_mask()
        # An output that ended here would not match the grammar.
        return None if self._grammar is None else ~self._stop_mask_M

    @property
    def is_complete(self) -> bool:
        """Whether the grammar is complete, so that only the tokens that end the output are allowed."""
        return (
            self._matcher is not None
            and not self.is_unconstrained
            and self.error is None
            and self._matcher.is_stopped()
        )

    def accept(self, token_id: int) -> None:
        """Advance by a token, which the mask must allow."""
        if self._reasoning_state is not None:
            self._accept_in_reasoning(token_id)
        elif not self.is_unconstrained and self.error is None:
            self._accept_in_grammar(token_id)

    @property
    def _is_forcing(self) -> bool:
        """Whether the end of the reasoning is forced. Outside of the section, which need not begin, it never is."""
        state = self._reasoning_state
        is_used_up = self._thinking_budget == 0 and state is not None and state.is_inside
        return is_used_up and bool(self._reasoning_end_ids)

    def _forced_mask(self) -> np.ndarray:
        token_id, mask_M = self._reasoning_end_ids[self._num_forced], np.zeros_like(self._stop_mask_M)
        mask_M[token_id >> 5] = 1 << (token_id & 31)
        return mask_M

    def _accept_in_reasoning(self, token_id: int) -> None:
        assert self._reasoning_state is not None
        next_state = self._reasoning_state.advance(token_id)
        if self._is_forcing:  # all of the forced tokens, even if the reasoning ends before the last of them
            self._num_forced += 1
            if self._num_forced == len(self._reasoning_end_ids):
                self._reasoning_state = None
        else:
            if self._thinking_budget and self._reasoning_state.is_inside:
                self._thinking_budget -= 1
            self._reasoning_state = next_state
        self.is_unconstrained = self._reasoning_state is None and self._grammar is None

    def _grammar_mask(self) -> np.ndarray | None:
        mask_M = np.empty_like(self._stop_mask_M)
        matcher = self._step(lambda matcher: matcher.unsafe_compute_mask_ptr(mask_M.ctypes.data, mask_M.nbytes))
        if self.error is not None:
            return np.zeros_like(mask_M)
        mask_M &= ~self._stop_mask_M
        if matcher.is_accepting():
            if self._continues_after_grammar and not mask_M.any():
                self.is_unconstrained = True
                return None
            mask_M |= self._stop_mask_M
        return mask_M

    def _accept_in_grammar(self, token_id: int) -> None:
        if not 0 <= token_id < 32 * len(self._stop_mask_M):  # a negative one would be counted from the end
            self.error = f"{token_id} is no token"
            return
        if self._stop_mask_M[token_id >> 5] >> (token_id & 31) & 1:
            self.is_unconstrained = True
            return
        self._step(lambda matcher: matcher.consume_token(token_id))
        self._token_ids.append(token_id)

    def _step(self, step: Callable[[LLMatcher], object]) -> LLMatcher:
        """Apply a step to the matcher and return it. If the lexer is full, apply it to another matcher instead."""
        matcher = self._get_matcher()
        if self.error is not None:
            return matcher
        step(matcher)
        if matcher.is_error() and LEXER_ERROR in matcher.get_error():
            matcher = self._matcher = self._replay(step)
        if matcher.is_error():
            self.error = _to_reason(matcher.get_error() or matcher.stop_reason())
        return matcher

    def _replay(self, step: Callable[[LLMatcher], object]) -> LLMatcher:
        """Make a matcher after all tokens and this step, with the lexer that is shared now or else with a new one."""
        assert self._grammar is not None
        for with_new_lexer in (False, True):
            matcher = self._grammar.new_matcher(with_new_lexer=with_new_lexer)
            matcher.consume_tokens(self._token_ids)
            step(matcher)
            if not matcher.is_error():
                break
        return matcher

    def _get_matcher(self) -> LLMatcher:
        """Return the matcher, which is made when it is first needed: queued requests do not need one yet."""
        if self._matcher is None:
            assert self._grammar is not None
            self._matcher = self._grammar.new_matcher()
        return self._matcher


def _to_reason(error: str) -> str:
    """Turn llguidance's message into the reason that clients read."""
    return next((reason for part, reason in REASONS if part in error), error.partition("\n")[0])
