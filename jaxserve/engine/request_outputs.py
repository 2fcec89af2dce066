"""What callers hear of their requests, and what is counted and timed meanwhile: one timeline for each answer."""

from collections.abc import Iterable

from jaxserve.engine.request import Request
from jaxserve.engine.sequence import Sequence
from jaxserve.engine.stats import RequestGroup, Stats, Timeline
from jaxserve.errors import GenerationFailed, InvalidParameter
from jaxserve.outputs import FinishReason, PositionLogprobs, TokenOutput
from jaxserve.sampling.sampler import NOTHING_ALLOWED


class RequestOutputs:
    """Owns the timelines. `now` is the scheduler's clock, monotonic seconds."""

    def __init__(self, stats: Stats) -> None:
        self._stats = stats
        self._timelines: dict[int, Timeline] = {}

    def add(self, request: Request, group: RequestGroup | None, now: float) -> None:
        for answer_id in request.output_ids:
            self._timelines[answer_id] = self._stats.on_arrival(
                now,
                prompt_tokens=len(request.prompt_ids),
                max_tokens=request.params.max_tokens,
                arrival_s=request.arrival_s or None,
                group=group,
            )

    def remove(self, request: Request) -> None:
        for answer_id in request.output_ids:
            del self._timelines[answer_id]

    def on_scheduled(self, request: Request, cached_tokens: int, now: float) -> None:
        """It begins to run. The prompt of several answers is computed for the first of them alone."""
        for answer_id in request.output_ids:
            num = cached_tokens if answer_id == request.request_id else len(request.prompt_ids)
            self._stats.on_scheduled(self._timelines[answer_id], now, cached_tokens=num)

    def on_preempt(self, sequence: Sequence) -> None:
        self._stats.on_preempt(self._timelines[sequence.request.request_id])

    def on_token(self, sequence: Sequence, now: float) -> None:
        self._stats.on_tokens(self._timelines[sequence.request.request_id], now)

    def on_decode(self, members: Iterable[Sequence], now: float) -> None:
        """A token for each of them is home."""
        timelines = self._timelines
        self._stats.on_decode([timelines[one.request.request_id] for one in members], now)

    def on_beams_finished(self, outputs: Iterable[TokenOutput], now: float) -> None:
        """A search has ended with these answers."""
        for output in outputs:
            timeline = self._timelines[output.request_id]
            self._stats.on_tokens(timeline, now, len(output.token_ids))
            self._stats.on_finish(timeline, output.finish_reason or FinishReason.STOP)

    def finish(
        self,
        sequence: Sequence,
        reason: FinishReason,
        token_ids: tuple[int, ...] = (),
        logprobs: tuple[PositionLogprobs, ...] | None = None,
        stop_reason: int | str | None = None,
        error: Exception | None = None,
    ) -> TokenOutput:
        """The last news of a request, with all its answers."""
        for answer_id in sequence.request.output_ids:
            self._stats.on_finish(self._timelines[answer_id], reason)
        return self.make_output(sequence, token_ids, logprobs, reason, stop_reason, error)

    def make_output(
        self,
        sequence: Sequence,
        token_ids: tuple[int, ...],
        logprobs: tuple[PositionLogprobs, ...] | None,
        finish: FinishReason | None = None,
        stop_reason: int | str | None = None,
        error: Exception | None = None,
    ) -> TokenOutput:
        """What to tell of a request now; the prompt's scores go with the first news."""
        scores = sequence.prompt_logprobs if error is None else None
        if scores is not None:
            sequence.prompt_logprobs = None
        return TokenOutput(
            request_id=sequence.request.request_id,
            token_ids=token_ids,
            logprobs=logprobs,
            prompt_logprobs=None if scores is None else tuple(scores),
            num_cached_tokens=sequence.num_cached_tokens or 0,
            finish_reason=finish,
            stop_reason=stop_reason,
            error=error,
        )

    def make_no_token_error(self, token: int) -> Exception:
        """Why no token could be drawn, by what stands in its place."""
        if token == NOTHING_ALLOWED:
            return InvalidParameter(
                "The request's constraints (grammar, allowed_token_ids, bad_words, min_tokens) leave no token to"
                " choose."
            )
        self._stats.on_nonfinite()
        return GenerationFailed("The model's output was not finite; this request has ended, others are not affected.")

    @staticmethod
    def make_grammar_error(reason: str, param: str) -> Exception:
        """What to tell a request whose grammar cannot be followed any further. param: the field that asked for it."""
        return InvalidParameter(
            f"{param} is too complex a grammar to be followed to the end of this answer: {reason}. This request has"
            " ended, others are not affected.",
            param,
        )
