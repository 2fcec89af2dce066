"""Beam search itself: live beams, finished ones, and the step from one set to the next. Host only; knows no pages.

A step takes, for every live beam, its best continuations. Those that end an answer are finished; of all others the
best go on, ties going to the earlier beam, then to the lower token id. Answers are ranked by
log-probability / tokens ** length_penalty, ties going to the one that was finished first.
"""

from bisect import insort
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from jaxserve.engine.logprobs import make_candidate_logprobs
from jaxserve.engine.plan import SampledTokens
from jaxserve.engine.repetition import RepetitionDetector
from jaxserve.engine.request import Request, StopStringCursor, make_repetition_detector
from jaxserve.outputs import REPETITION_STOP_REASON, FinishReason, PositionLogprobs
from jaxserve.structured.guide import Guide


@dataclass(frozen=True, slots=True)
class Beam:
    """The beginning of an answer.

    score    sum of the log-probabilities that its tokens had after bias, penalties and mask
    stop_cursor   where its text stands, when stop strings may end it
    repetition    has seen its tokens, when repetitions are to end it; no other beam pushes into this one
    guide    has seen them, too, when they keep to a grammar or a budget
    """

    score: float = 0.0
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[PositionLogprobs, ...] = ()
    stop_cursor: StopStringCursor | None = None
    repetition: RepetitionDetector | None = None
    guide: Guide | None = None


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A finished answer; normalized_score is what it is ranked by."""

    beam: Beam
    normalized_score: float
    finish_reason: FinishReason
    stop_reason: int | str | None = None


class BeamSearch:
    """One request's search. The caller computes what may follow the live beams, and says so to `advance`.

    guide   at the beginning of every answer; it stays there
    beams    of equal length, best first; none when the search is over
    finished   finished answers, best first, never more than are wanted
    """

    def __init__(self, request: Request, guide: Guide | None = None) -> None:
        params = request.params
        self._params = params
        self._max_tokens = request.max_total_tokens - len(request.prompt_ids)
        self._stop_ids = request.stop_ids if request.eos_id is None else request.stop_ids | {request.eos_id}
        self.width = params.n
        self.live: tuple[Beam, ...] = (
            Beam(stop_cursor=request.stop_cursor, repetition=make_repetition_detector(request), guide=guide),
        )
        self.finished: list[Hypothesis] = []

    @property
    def error(self) -> str | None:
        """Why the grammar of a live beam cannot be followed any further."""
        return next((one.guide.error for one in self.live if one.guide is not None and one.guide.error), None)

    def advance(self, drawn: SampledTokens) -> tuple[int, ...]:
        """Takes the continuations of each live beam, in order; for each new one returns its parent's place."""
        length = len(self.live[0].token_ids) + 1
        beams: list[Beam] = []
        parents: list[int] = []
        for score, at, place in self._candidates(drawn):
            if len(beams) == self.width and not self._would_rank(score, length):
                break
            token, parent = int(drawn.candidate_id_BC[at, place]), self.live[at]  # type: ignore[index]
            cursor, stop = parent.stop_cursor, None
            if token in self._stop_ids:
                stop = token
            elif cursor is not None:
                cursor, stop = cursor.advance(token)
            if stop is None and len(beams) == self.width:
                continue
            child = Beam(score, (*parent.token_ids, token), self._logprobs(parent, drawn, at, place), cursor)
            if stop is None:
                beams.append(child)
                parents.append(at)
            else:
                self._finish(child, FinishReason.STOP, stop)
        return self._extend(beams, parents, length)

    def _candidates(self, drawn: SampledTokens) -> Iterator[tuple[float, int, int]]:
        """(score, beam, place among its continuations), best first; what is forbidden is none."""
        num = 2 * self.width
        assert drawn.candidate_id_BC is not None and drawn.candidate_logprob_BC is not None
        id_BC, logprob_BC = drawn.candidate_id_BC[:, :num], drawn.candidate_logprob_BC[:, :num].astype(np.float64)
        score_BC = np.array([[beam.score] for beam in self.live]) + logprob_BC
        at_N, place_N = np.nonzero(np.isfinite(logprob_BC))
        score_N = score_BC[at_N, place_N]
        order_N = np.lexsort((id_BC[at_N, place_N], at_N, -score_N))
        return zip(score_N[order_N].tolist(), at_N[order_N].tolist(), place_N[order_N].tolist(), strict=True)

    def _logprobs(self, parent: Beam, drawn: SampledTokens, at: int, place: int) -> tuple[PositionLogprobs, ...]:
        wanted = self._params.logprobs
        return () if wanted is None else (*parent.logprobs, make_candidate_logprobs(drawn, at, place, wanted))

    def _extend(self, live: list[Beam], parents: list[int], length: int) -> tuple[int, ...]:
        """Ends beams that have all their tokens or repeat themselves, and all of them when none can matter."""
        stay: list[int] = []
        for at, beam in enumerate(live):
            repetition, guide = self.live[parents[at]].repetition, self.live[parents[at]].guide
            if length == self._max_tokens:
                self._finish(beam, FinishReason.LENGTH)
                continue
            if repetition is not None:
                repetition = repetition.copy()
                if repetition.push(beam.token_ids[-1]) and length >= self._params.min_tokens:
                    self._finish(beam, FinishReason.REPETITION, REPETITION_STOP_REASON)
                    continue
            if guide is not None:
                guide = guide.copy()
                guide.accept(beam.token_ids[-1])
            live[at] = Beam(beam.score, beam.token_ids, beam.logprobs, beam.stop_cursor, repetition, guide)
            stay.append(at)
        if stay and not self._could_rank(live[stay[0]].score, length):
            stay = []
        self.live = tuple(live[at] for at in stay)
        return tuple(parents[at] for at in stay)

    def _finish(self, beam: Beam, reason: FinishReason, stop_reason: int | str | None = None) -> None:
        value = self._normalize_score(beam.score, len(beam.token_ids))
        insort(self.finished, Hypothesis(beam, value, reason, stop_reason), key=lambda one: -one.normalized_score)
        del self.finished[self.width :]

    def _would_rank(self, score: float, length: int) -> bool:
        """Whether an answer of this length and score, finished now, would be among the best."""
        return (
            len(self.finished) < self.width or self._normalize_score(score, length) > self.finished[-1].normalized_score
        )

    def _could_rank(self, score: float, length: int) -> bool:
        """Whether something that continues a beam of this length could be among the best.

        Its score will be this one or less, and scores are not above 0: so its value is greatest either with one token
        more or with all of them.
        """
        return any(self._would_rank(score, num) for num in (length + 1, self._max_tokens))

    def _normalize_score(self, score: float, length: int) -> float:
        try:
            scale = float(length) ** self._params.length_penalty
        except OverflowError:
            return -0.0
        return score / scale if scale else -np.inf if score else 0.0
