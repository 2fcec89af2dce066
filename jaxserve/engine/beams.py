"""Beam search itself: live beams, finished ones, and the step from one set to the next. Host only; knows no pages.

A step takes, for every live beam, its best continuations. Those that end an answer are finished; of all others the
best go on, ties going to the earlier beam, then to the lower token id. Answers are ranked by
log-probability / tokens ** length_penalty, ties going to the one that was finished first.
"""

from bisect import insort
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from jaxserve.engine.logprobs import logprobs_of_next
from jaxserve.engine.plan import DrawnRows
from jaxserve.engine.repetition import RepetitionWatch
from jaxserve.engine.request import Cursor, Request, watch_of
from jaxserve.outputs import REPETITION_STOP_REASON, FinishReason, PositionLogprobs
from jaxserve.structured.guide import Guide


@dataclass(frozen=True, slots=True)
class Beam:
    """The beginning of an answer.

    score    sum of the log-probabilities that its tokens had after bias, penalties and mask
    cursor   where its text stands, when stop strings may end it
    watch    has seen its tokens, when repetitions are to end it; no other beam pushes into this one
    guide    has seen them, too, when they keep to a grammar or a budget
    """

    score: float = 0.0
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[PositionLogprobs, ...] = ()
    cursor: Cursor | None = None
    watch: RepetitionWatch | None = None
    guide: Guide | None = None


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A finished answer; value is what it is ranked by."""

    beam: Beam
    value: float
    reason: FinishReason
    stop_reason: int | str | None = None


class BeamSearch:
    """One request's search. The caller computes what may follow the live beams, and says so to `advance`.

    guide   at the beginning of every answer; it stays there
    live    of equal length, best first; none when the search is over
    found   finished answers, best first, never more than are wanted
    """

    def __init__(self, request: Request, guide: Guide | None = None) -> None:
        params = request.params
        self._params = params
        self._max_tokens = request.max_total_tokens - len(request.prompt_ids)
        self._end_ids = request.stop_ids if request.eos_id is None else request.stop_ids | {request.eos_id}
        self.width = params.n
        self.live: tuple[Beam, ...] = (Beam(cursor=request.cursor, watch=watch_of(request), guide=guide),)
        self.found: list[Hypothesis] = []

    @property
    def error(self) -> str | None:
        """Why the grammar of a live beam cannot be followed any further."""
        return next((one.guide.error for one in self.live if one.guide is not None and one.guide.error), None)

    def advance(self, drawn: DrawnRows) -> tuple[int, ...]:
        """Takes the continuations of each live beam, in order; for each new one returns its parent's place."""
        length = len(self.live[0].token_ids) + 1
        live: list[Beam] = []
        parents: list[int] = []
        for score, at, place in self._candidates(drawn):
            if len(live) == self.width and not self._would_count(score, length):
                break
            token, parent = int(drawn.next_id_BC[at, place]), self.live[at]  # type: ignore[index]
            cursor, stop = parent.cursor, None
            if token in self._end_ids:
                stop = token
            elif cursor is not None:
                cursor, stop = cursor.advance(token)
            if stop is None and len(live) == self.width:
                continue
            child = Beam(score, (*parent.token_ids, token), self._logprobs(parent, drawn, at, place), cursor)
            if stop is None:
                live.append(child)
                parents.append(at)
            else:
                self._finish(child, FinishReason.STOP, stop)
        return self._go_on(live, parents, length)

    def _candidates(self, drawn: DrawnRows) -> Iterator[tuple[float, int, int]]:
        """(score, beam, place among its continuations), best first; what is forbidden is none."""
        num = 2 * self.width
        assert drawn.next_id_BC is not None and drawn.next_logprob_BC is not None
        id_BC, logprob_BC = drawn.next_id_BC[:, :num], drawn.next_logprob_BC[:, :num].astype(np.float64)
        score_BC = np.array([[beam.score] for beam in self.live]) + logprob_BC
        at_N, place_N = np.nonzero(np.isfinite(logprob_BC))
        score_N = score_BC[at_N, place_N]
        order_N = np.lexsort((id_BC[at_N, place_N], at_N, -score_N))
        return zip(score_N[order_N].tolist(), at_N[order_N].tolist(), place_N[order_N].tolist(), strict=True)

    def _logprobs(self, parent: Beam, drawn: DrawnRows, at: int, place: int) -> tuple[PositionLogprobs, ...]:
        wanted = self._params.logprobs
        return () if wanted is None else (*parent.logprobs, logprobs_of_next(drawn, at, place, wanted))

    def _go_on(self, live: list[Beam], parents: list[int], length: int) -> tuple[int, ...]:
        """Ends beams that have all their tokens or repeat themselves, and all of them when none can matter."""
        stay: list[int] = []
        for at, beam in enumerate(live):
            watch, guide = self.live[parents[at]].watch, self.live[parents[at]].guide
            if length == self._max_tokens:
                self._finish(beam, FinishReason.LENGTH)
                continue
            if watch is not None:
                watch = watch.copy()
                if watch.push(beam.token_ids[-1]) and length >= self._params.min_tokens:
                    self._finish(beam, FinishReason.REPETITION, REPETITION_STOP_REASON)
                    continue
            if guide is not None:
                guide = guide.copy()
                guide.accept(beam.token_ids[-1])
            live[at] = Beam(beam.score, beam.token_ids, beam.logprobs, beam.cursor, watch, guide)
            stay.append(at)
        if stay and not self._could_count(live[stay[0]].score, length):
            stay = []
        self.live = tuple(live[at] for at in stay)
        return tuple(parents[at] for at in stay)

    def _finish(self, beam: Beam, reason: FinishReason, stop_reason: int | str | None = None) -> None:
        value = self._value(beam.score, len(beam.token_ids))
        insort(self.found, Hypothesis(beam, value, reason, stop_reason), key=lambda one: -one.value)
        del self.found[self.width :]

    def _would_count(self, score: float, length: int) -> bool:
        """Whether an answer of this length and score, finished now, would be among the best."""
        return len(self.found) < self.width or self._value(score, length) > self.found[-1].value

    def _could_count(self, score: float, length: int) -> bool:
        """Whether something that continues a beam of this length could be among the best.

        Its score will be this one or less, and scores are not above 0: so its value is greatest either with one token
        more or with all of them.
        """
        return any(self._would_count(score, num) for num in (length + 1, self._max_tokens))

    def _value(self, score: float, length: int) -> float:
        try:
            scale = float(length) ** self._params.length_penalty
        except OverflowError:
            return -0.0
        return score / scale if scale else -np.inf if score else 0.0
