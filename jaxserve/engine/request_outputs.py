"""The outputs of requests as clients get them, and the metrics of each output."""

from collections.abc import Iterable
from contextlib import suppress

import numpy as np

from jaxserve.engine.request import Request
from jaxserve.engine.sequence import Sequence
from jaxserve.engine.stats import RequestGroup, Stats, Timeline
from jaxserve.errors import GenerationFailed, InvalidParameter
from jaxserve.outputs import FinishReason, OutputTimes, PositionLogprobs, TokenOutput
from jaxserve.sampling.sampler import NOTHING_ALLOWED


class RequestOutputs:
    """The outputs of requests, and their timelines. `now` is the scheduler's clock, monotonic seconds."""

    def __init__(self, stats: Stats) -> None:
        self._stats = stats
        self._timelines: dict[int, Timeline] = {}

    def add(self, request: Request, group: RequestGroup | None, now: float) -> None:
        """Start the timelines of a request's outputs."""
        for output_id in request.output_ids:
            self._timelines[output_id] = self._stats.on_arrival(
                now,
                prompt_tokens=len(request.prompt_ids),
                max_tokens=None if request.pooling is not None else request.params.max_tokens,
                arrival_s=request.arrival_s or None,
                group=group,
            )

    def remove(self, request: Request) -> None:
        """Drop the timelines of a request's outputs."""
        for output_id in request.output_ids:
            del self._timelines[output_id]

    def output_ids(self) -> set[int]:
        """Return the ids of the outputs that have timelines."""
        return set(self._timelines)

    def on_scheduled(self, request: Request, cached_tokens: int, now: float) -> None:
        """Record that a request begins to run. The prompt of a beam search is computed for its first output only."""
        for output_id in request.output_ids:
            num = cached_tokens if output_id == request.request_id else len(request.prompt_ids)
            self._stats.on_scheduled(self._timelines[output_id], now, cached_tokens=num)

    def on_preempt(self, sequence: Sequence) -> None:
        """Count a preemption."""
        self._stats.on_preempt(self._timelines[sequence.request.request_id])

    def on_tokens(self, sequence: Sequence, count: int, now: float) -> None:
        """Count new tokens of a sequence."""
        if count:
            self._stats.on_tokens(self._timelines[sequence.request.request_id], now, count)

    def on_pooled(self, sequence: Sequence, now: float) -> None:
        """Count a sequence whose text is pooled."""
        self._stats.on_pooled(self._timelines[sequence.request.request_id], now)

    def on_beams_finished(self, outputs: Iterable[TokenOutput], now: float) -> None:
        """Count the outputs with which a beam search has ended."""
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
        experts: np.ndarray | None = None,
    ) -> TokenOutput:
        """Record the end of a request and return its last output.

        reason        Why it ends.
        token_ids     Its last tokens.
        logprobs      Their log-probabilities, if the request asked for them.
        stop_reason   What stopped it, as in TokenOutput.
        error         The error if the reason is ERROR.
        experts       As in TokenOutput.
        """
        for output_id in sequence.request.output_ids:
            self._stats.on_finish(self._timelines[output_id], reason)
        return self.make_output(sequence, token_ids, logprobs, reason, stop_reason, error, experts)

    def fail(self, request: Request) -> None:
        """Record the end of a request by an error and drop its timelines. Never raises.

        Its timelines may be missing, or wrong enough to raise, because its work was interrupted.
        """
        for output_id in request.output_ids:
            timeline = self._timelines.pop(output_id, None)
            with suppress(Exception):
                if timeline is not None:
                    self._stats.on_finish(timeline, FinishReason.ERROR)

    def make_output(
        self,
        sequence: Sequence,
        token_ids: tuple[int, ...],
        logprobs: tuple[PositionLogprobs, ...] | None,
        finish: FinishReason | None = None,
        stop_reason: int | str | None = None,
        error: Exception | None = None,
        experts: np.ndarray | None = None,
    ) -> TokenOutput:
        """Return a new output of a request; the prompt's log-probabilities go with the first one."""
        prompt_logprobs = None
        if error is None and sequence.prompt_logprobs is not None:
            prompt_logprobs = sequence.take_prompt_logprobs()
        num_cached_tokens = sequence.num_cached_tokens or 0
        times = self._measure_times(sequence) if sequence.request.is_timed else None
        return TokenOutput(
            sequence.request.request_id,
            token_ids,
            logprobs,
            prompt_logprobs,
            num_cached_tokens,
            finish,
            stop_reason,
            error,
            times,
            routed_experts=experts,
        )

    def _measure_times(self, sequence: Sequence) -> OutputTimes | None:
        """Return the times of an output so far; None before its first token."""
        timeline = self._timelines[sequence.request.request_id]
        first_s, last_s = timeline.first_token_s, timeline.last_token_s
        if first_s is None or last_s is None:
            return None
        scheduled_s = timeline.queued_s if timeline.scheduled_s is None else timeline.scheduled_s
        return OutputTimes(scheduled_s - timeline.queued_s, first_s - scheduled_s, last_s - first_s)

    def make_no_token_error(self, token: int) -> Exception:
        """Return the error of a row for which no token could be sampled; token is NO_TOKEN or NOTHING_ALLOWED."""
        if token == NOTHING_ALLOWED:
            return InvalidParameter(
                "The request's constraints (grammar, allowed_token_ids, bad_words, min_tokens) leave no token to"
                " choose."
            )
        self._stats.on_nonfinite()
        return GenerationFailed("The model's output was not finite; this request has ended, others are not affected.")

    @staticmethod
    def make_grammar_error(reason: str, param: str) -> Exception:
        """Return the error of a request whose grammar cannot be followed any further.

        reason   Why, as in Guide.error.
        param    The field of the request that the grammar comes from.
        """
        return InvalidParameter(
            f"{param} is too complex a grammar to be followed to the end of this answer: {reason}. This request has"
            " ended, others are not affected.",
            param,
        )
