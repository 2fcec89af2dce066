"""OutputStream: turns the token ids of one request into text while they are generated."""

from collections.abc import Iterator
from dataclasses import replace

from jaxserve.engine.request import Request
from jaxserve.errors import GenerationFailed
from jaxserve.faults import Faults, InjectedFault
from jaxserve.output_plan import OutputPlan
from jaxserve.outputs import FinishReason, TextDelta, TokenOutput
from jaxserve.preparation import Ready
from jaxserve.text.text_stream import TextStream
from jaxserve.text.tokenizer import Tokenizer


class OutputStream:
    """The text of one request while it is generated: engine outputs in, text deltas out.

    A choice exists while it runs: of many choices only some are made, and the next one when one of them has ended.

    ready            The prepared request.
    unfinished_ids   The ids under which the engine returns the choices that run.
    """

    def __init__(
        self,
        ready: Ready,
        requests: Iterator[Request],
        tokenizer: Tokenizer,
        *,
        max_unfinished: int,
        faults: Faults | None = None,
    ) -> None:
        """Make an empty stream.

        requests         The engine requests, made one after another: one for each choice, or one for a beam search.
        max_unfinished   The most choices that run at a time.
        """
        self.ready = ready
        self.unfinished_ids: set[int] = set()
        self._requests, self._max_unfinished = requests, max_unfinished
        self._tokenizer, self._faults = tokenizer, faults
        self._num_made = 0
        self._group_id: int | None = None
        self._streams: dict[int, TextStream] = {}

    @property
    def num_choices(self) -> int:
        """The number of its choices, those included that are not made yet."""
        return self.ready.params.n

    @property
    def is_finished(self) -> bool:
        """Whether all choices have ended."""
        return not self.unfinished_ids and self._num_made == self.num_choices

    @property
    def aborted_ids(self) -> list[int]:
        """The ids to end so that nothing of the request is left: the first one stands for the choices to come."""
        group_ids = {self._group_id} if self._num_made < self.num_choices else set()
        return [output_id for output_id in self.unfinished_ids | group_ids if output_id is not None]

    def make_requests(self) -> list[Request]:
        """Make the engine requests of the choices that may run now; none if as many as allowed run already."""
        requests = []
        while self._num_made < self.num_choices and len(self.unfinished_ids) < self._max_unfinished:
            request = next(self._requests)
            if self._faults is not None:
                self._faults.name(request.output_ids, request.label)
            for choice_id in request.output_ids:
                self._streams[choice_id] = self._make_stream(self._num_made, self.ready.output_plan)
                self._num_made += 1
            self._group_id = request.request_id if self._group_id is None else self._group_id
            self.unfinished_ids.update(request.output_ids)
            requests.append(request)
        return requests

    def push(self, output: TokenOutput) -> tuple[TextDelta | None, bool]:
        """Decode an output into the next delta, None if no text is certain yet.

        The second value is True if the text has ended and the engine does not know: it must be told to stop.

        Raises GenerationFailed, or whatever error ended the request, and InjectedFault for detok_raise.
        """
        if output.request_id not in self.unfinished_ids:
            return None, False
        if output.finish_reason is FinishReason.ERROR:  # it stays in unfinished_ids: the engine may still run it
            raise output.error or GenerationFailed("The engine gave no reason.")
        if self._faults is not None and self._faults.hit("detok_raise", (output.request_id,)) is not None:
            raise InjectedFault("detok_raise")
        stream = self._streams[output.request_id]
        delta = stream.push(output)
        if output.pooled is not None and delta is not None:
            delta = replace(delta, pooled=output.pooled)
        if output.times is not None and delta is not None:
            delta = replace(delta, times=output.times)
        if output.routed_experts is not None and delta is not None:
            delta = replace(delta, routed_experts=output.routed_experts)
        ends_early = stream.finished and output.finish_reason is None
        if stream.finished or output.finish_reason is not None:
            self.unfinished_ids.discard(output.request_id)
            del self._streams[output.request_id]
        return delta, ends_early

    def _make_stream(self, index: int, plan: OutputPlan) -> TextStream:
        parser = plan.make_parser and plan.make_parser()
        ready = self.ready
        return TextStream(self._tokenizer, ready.params, ready.prompt_ids, index, parser, plan.control_tokens)
