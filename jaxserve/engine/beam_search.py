"""The algorithm of beam search: live beams, finished hypotheses, and the step from one set of beams to the next.

A step takes the most likely candidates of every live beam. Those that end the output become hypotheses; the best of the
others are the new beams, ties going to the earlier beam, then to the lower token id. Hypotheses are ranked by
log-probability / tokens ** length_penalty, ties going to the one that was finished first. Host only, without pages.
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
    """The beginning of an output.

    score         The sum of the log-probabilities of its tokens after biases, penalties and mask.
    token_ids     Its tokens.
    logprobs      Their log-probabilities, if the request asks for them.
    stop_cursor   The position in its text, if stop strings may end it.
    repetition    Has taken its tokens, if repetitions end it. Other beams have copies.
    guide         Has taken its tokens, if it follows a grammar or a thinking budget. Other beams have copies.
    """

    score: float = 0.0
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[PositionLogprobs, ...] = ()
    stop_cursor: StopStringCursor | None = None
    repetition: RepetitionDetector | None = None
    guide: Guide | None = None


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A finished output.

    beam               Its tokens.
    normalized_score   The score by which it is ranked: of the beam, with the length penalty.
    finish_reason      Why it ended.
    stop_reason        What stopped it, as in TokenOutput.
    """

    beam: Beam
    normalized_score: float
    finish_reason: FinishReason
    stop_reason: int | str | None = None


class BeamSearch:
    """The beam search of one request. The caller computes the candidates of the live beams.

    request       The request.
    guide         A guide at the beginning of the output, which stays there; None: the output is unconstrained.
    stop_cursor   The position at the beginning of the output's text; None: there are no stop strings.

    width         The number of beams and of hypotheses (n).
    beams         The live beams, all of the same length, best first; none when the search is over.
    finished      The hypotheses, best first, at most `width`.
    """

    def __init__(
        self, request: Request, guide: Guide | None = None, stop_cursor: StopStringCursor | None = None
    ) -> None:
        params = request.params
        self._params = params
        self._max_tokens = request.max_total_tokens - len(request.prompt_ids)
        self._stop_ids = request.stop_ids if request.eos_id is None else request.stop_ids | {request.eos_id}
        self.width = params.n
        self.beams: tuple[Beam, ...] = (
            Beam(stop_cursor=stop_cursor, repetition=make_repetition_detector(request), guide=guide),
        )
        self.finished: list[Hypothesis] = []

    @property
    def error(self) -> str | None:
        """The reason why the grammar of a live beam cannot be followed any further, or None."""
        return next((beam.guide.error for beam in self.beams if beam.guide is not None and beam.guide.error), None)

    def advance(self, sampled: SampledTokens) -> tuple[int, ...]:
        """Take the candidates of each live beam, in order; return the index of each new beam's parent."""
        length = len(self.beams[0].token_ids) + 1
        beams: list[Beam] = []
        parents: list[int] = []
        for score, parent_index, candidate in self._candidates(sampled):
            if len(beams) == self.width and not self._would_rank(score, length):
                break
            token, parent = int(sampled.candidate_id_BC[parent_index, candidate]), self.beams[parent_index]  # type: ignore[index]
            cursor, stop = parent.stop_cursor, None
            if token in self._stop_ids:
                stop = token
            elif cursor is not None:
                cursor, stop = cursor.advance(token)
            if stop is None and len(beams) == self.width:
                continue
            logprobs = self._logprobs(parent, sampled, parent_index, candidate)
            child = Beam(score, (*parent.token_ids, token), logprobs, cursor)
            if stop is None:
                beams.append(child)
                parents.append(parent_index)
            else:
                self._finish(child, FinishReason.STOP, stop)
        return self._extend(beams, parents, length)

    def _candidates(self, sampled: SampledTokens) -> Iterator[tuple[float, int, int]]:
        """Yield (score, index of the beam, index of its candidate), best first, without forbidden tokens."""
        num = 2 * self.width
        assert sampled.candidate_id_BC is not None and sampled.candidate_logprob_BC is not None
        id_BC, logprob_BC = sampled.candidate_id_BC[:, :num], sampled.candidate_logprob_BC[:, :num].astype(np.float64)
        score_BC = np.array([[beam.score] for beam in self.beams]) + logprob_BC
        beam_N, candidate_N = np.nonzero(np.isfinite(logprob_BC))
        score_N = score_BC[beam_N, candidate_N]
        order_N = np.lexsort((id_BC[beam_N, candidate_N], beam_N, -score_N))
        return zip(score_N[order_N].tolist(), beam_N[order_N].tolist(), candidate_N[order_N].tolist(), strict=True)

    def _logprobs(
        self, parent: Beam, sampled: SampledTokens, parent_index: int, candidate: int
    ) -> tuple[PositionLogprobs, ...]:
        num_top = self._params.logprobs
        if num_top is None:
            return ()
        return (*parent.logprobs, make_candidate_logprobs(sampled, parent_index, candidate, num_top))

    def _extend(self, beams: list[Beam], parents: list[int], length: int) -> tuple[int, ...]:
        """Make these the live beams, without those that have ended; return the parents of those that remain.

        A beam ends when it has all its tokens or repeats itself. All end when none can rank among the finished ones.
        """
        remaining: list[int] = []
        for index, beam in enumerate(beams):
            parent = self.beams[parents[index]]
            repetition, guide = parent.repetition, parent.guide
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
            beams[index] = Beam(beam.score, beam.token_ids, beam.logprobs, beam.stop_cursor, repetition, guide)
            remaining.append(index)
        if remaining and not self._could_rank(beams[remaining[0]].score, length):
            remaining = []
        self.beams = tuple(beams[index] for index in remaining)
        return tuple(parents[index] for index in remaining)

    def _finish(self, beam: Beam, reason: FinishReason, stop_reason: int | str | None = None) -> None:
        value = self._normalize_score(beam.score, len(beam.token_ids))
        insort(
            self.finished,
            Hypothesis(beam, value, reason, stop_reason),
            key=lambda hypothesis: -hypothesis.normalized_score,
        )
        del self.finished[self.width :]

    def _would_rank(self, score: float, length: int) -> bool:
        """Whether an output of this score and length, finished now, would be among the best."""
        return (
            len(self.finished) < self.width or self._normalize_score(score, length) > self.finished[-1].normalized_score
        )

    def _could_rank(self, score: float, length: int) -> bool:
        """Whether an extension of a beam of this score and length could be among the best.

        Scores are at most 0 and never grow with more tokens, so the normalized score is greatest either with one more
        token or with all of them, depending on the length penalty.
        """
        return any(self._would_rank(score, num) for num in (length + 1, self._max_tokens))

    def _normalize_score(self, score: float, length: int) -> float:
        try:
            scale = float(length) ** self._params.length_penalty
        except OverflowError:
            return -0.0
        return score / scale if scale else -np.inf if score else 0.0
