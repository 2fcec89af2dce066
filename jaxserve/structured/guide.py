"""One answer's place among what it may say: first thinking, then a grammar, then whatever it likes.

While it thinks, all tokens are allowed but those that would end the answer before its grammar has begun, until a budget
is used up and the end of the thinking is forced. From there on the grammar decides, of which the tokens that end an
answer are no part: they are allowed where the grammar may end, and nowhere else. A guide knows tokens and bitmaps, no
text and no requests.
"""

from collections.abc import Callable, Sequence
from copy import copy
from typing import Protocol

import numpy as np
from llguidance import LLMatcher

# llguidance's words, and ours. A lexer that has met its limits stays so for all matchers that share it.
LEXER_ERROR = "lexer error"
REASONS = (
    ("too many states", "its texts have more states than can be kept"),
    ("too many expressions", "its texts take too long to be told apart"),
    ("items", "more may come next than can be followed at once"),
)


class ReasoningTracker(Protocol):
    """A place in the reasoning section of an answer, or before it. Advancing one leaves it as it was."""

    @property
    def is_inside(self) -> bool:
        """Whether the section has begun: the next token is counted by a budget."""
        ...

    def advance(self, token_id: int) -> "ReasoningTracker | None":
        """The place after this token; None: the reasoning has ended with it."""
        ...


class Grammar(Protocol):
    """Compiled for the tokens of the model that is served. param: the request's field that asked for it."""

    @property
    def param(self) -> str: ...

    def new_matcher(self, *, with_new_lexer: bool = False) -> LLMatcher:
        """A fresh place at the beginning of the grammar, with the lexer of all that came before it or with a new one.

        A lexer keeps every state that some answer has reached, and may have only so many.
        """
        ...


class Guide:
    """Follows one answer, token by token.

    ends_M           bitmap of the tokens that end an answer: uint32 [ceil(V / 32)], bit t % 32 of word t // 32 is
                     token t; those that the grammar's vocabulary ends with are among them
    thinking         where the reasoning begins; None: there is none
    budget           tokens that the reasoning may have; None: any number
    end_of_thinking  tokens that are forced one after another when the budget is used up
    goes_on          what comes after the grammar's end is free; else the answer ends there

    error            why the grammar cannot be followed any further: from then on nothing is allowed
    """

    __slots__ = (
        *("_budget", "_end_of_thinking", "_ends_M", "_goes_on", "_grammar", "_matcher", "_num_forced", "_thinking"),
        "_token_ids",
        *("error", "is_over"),
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
        self._grammar, self._ends_M, self._goes_on = grammar, stop_mask_M, continues_after_grammar
        self._matcher: LLMatcher | None = None
        self._token_ids: list[int] = []  # of the answer, since the grammar began
        self._thinking, self._budget = reasoning_state, thinking_budget
        self._end_of_thinking, self._num_forced = tuple(reasoning_end_ids), 0
        self.error: str | None = None
        self.is_over = reasoning_state is None and grammar is None  # nothing is forbidden any more

    def copy(self) -> "Guide":
        """Another one at the same place."""
        other = copy(self)
        other._token_ids = self._token_ids.copy()
        if self._matcher is not None:
            other._matcher = self._matcher.deep_copy()
        return other

    def mask(self) -> np.ndarray | None:
        """What the next token may be: a bitmap like ends_M, bit set = allowed, new each time; None: everything."""
        if self.is_over:
            return None
        if self._thinking is None:
            return self._allowed()
        if self._is_forcing:
            return self._forced()
        return None if self._grammar is None else ~self._ends_M  # an answer that ended here would not obey the grammar

    @property
    def is_complete(self) -> bool:
        """Whether the grammar has come to its end and only the tokens that end the answer are left."""
        return self._matcher is not None and not self.is_over and self.error is None and self._matcher.is_stopped()

    def accept(self, token_id: int) -> None:
        """Goes on by a token, which the mask allows."""
        if self._thinking is not None:
            self._think(token_id)
        elif not self.is_over and self.error is None:
            self._follow(token_id)

    @property
    def _is_forcing(self) -> bool:
        """Only inside: a model that opens no section has no budget to keep to."""
        is_used_up = self._budget == 0 and self._thinking is not None and self._thinking.is_inside
        return is_used_up and bool(self._end_of_thinking)

    def _forced(self) -> np.ndarray:
        token_id, mask_M = self._end_of_thinking[self._num_forced], np.zeros_like(self._ends_M)
        mask_M[token_id >> 5] = 1 << (token_id & 31)
        return mask_M

    def _think(self, token_id: int) -> None:
        assert self._thinking is not None
        thinking = self._thinking.advance(token_id)
        if self._is_forcing:  # to the last of its tokens, even if the reasoning has ended before that
            self._num_forced += 1
            if self._num_forced == len(self._end_of_thinking):
                self._thinking = None
        else:
            if self._budget and self._thinking.is_inside:
                self._budget -= 1
            self._thinking = thinking
        self.is_over = self._thinking is None and self._grammar is None

    def _allowed(self) -> np.ndarray | None:
        mask_M = np.empty_like(self._ends_M)
        matcher = self._step(lambda place: place.unsafe_compute_mask_ptr(mask_M.ctypes.data, mask_M.nbytes))
        if self.error is not None:
            return np.zeros_like(mask_M)
        mask_M &= ~self._ends_M
        if matcher.is_accepting():
            if self._goes_on and not mask_M.any():
                self.is_over = True
                return None
            mask_M |= self._ends_M
        return mask_M

    def _follow(self, token_id: int) -> None:
        if self._ends_M[token_id >> 5] >> (token_id & 31) & 1:
            self.is_over = True
            return
        self._step(lambda place: place.consume_token(token_id))
        self._token_ids.append(token_id)

    def _step(self, step: Callable[[LLMatcher], object]) -> LLMatcher:
        """The matcher behind this step. Where the lexer is full, another one follows the answer and makes the step."""
        matcher = self._place()
        if self.error is not None:
            return matcher
        step(matcher)
        if matcher.is_error() and LEXER_ERROR in matcher.get_error():
            matcher = self._matcher = self._replayed(step)
        if matcher.is_error():
            self.error = _reason(matcher.get_error() or matcher.stop_reason())
        return matcher

    def _replayed(self, step: Callable[[LLMatcher], object]) -> LLMatcher:
        """Another matcher behind all steps and this one, with the lexer of answers that begin now or a new one."""
        assert self._grammar is not None
        for with_new_lexer in (False, True):
            matcher = self._grammar.new_matcher(with_new_lexer=with_new_lexer)
            matcher.consume_tokens(self._token_ids)
            step(matcher)
            if not matcher.is_error():
                break
        return matcher

    def _place(self) -> LLMatcher:
        """In the grammar. It is made when it is first needed, which for most of the queue is not yet."""
        if self._matcher is None:
            assert self._grammar is not None
            self._matcher = self._grammar.new_matcher()
        return self._matcher


def _reason(error: str) -> str:
    return next((ours for theirs, ours in REASONS if theirs in error), error.partition("\n")[0])
