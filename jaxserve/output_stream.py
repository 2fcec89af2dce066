"""OutputStream: turns the token ids of one request into text while they are generated."""

from collections.abc import Sequence

from jaxserve.engine.request import Request
from jaxserve.errors import GenerationFailed
from jaxserve.faults import Faults, InjectedFault
from jaxserve.output_plan import OutputPlan
from jaxserve.outputs import FinishReason, TextDelta, TokenOutput
from jaxserve.sampling_params import SamplingParams
from jaxserve.text.text_stream import TextStream
from jaxserve.text.tokenizer import Tokenizer


class OutputStream:
    """The text of one request while it is generated: engine outputs in, text deltas out.

    requests          The engine requests: one for each choice, or one for a beam search.
    choice_ids        The ids under which the engine returns the choices, in order.
    unfinished_ids    The choices that still run.
    """

    def __init__(
        self,
        requests: Sequence[Request],
        tokenizer: Tokenizer,
        params: SamplingParams,
        output_plan: OutputPlan,
        faults: Faults | None = None,
    ) -> None:
        self._faults = faults
        self.requests = tuple(requests)
        self.choice_ids = tuple(choice_id for request in requests for choice_id in request.output_ids)
        self.unfinished_ids = set(self.choice_ids)
        if faults is not None:
            faults.name(self.choice_ids, requests[0].label)
        prompt_ids = requests[0].prompt_ids
        self._grammar = output_plan.grammar  # kept, so that the engine finds it compiled
        self._streams = {
            choice_id: TextStream(
                tokenizer,
                params,
                prompt_ids,
                index,
                output_plan.make_parser and output_plan.make_parser(),
                output_plan.control_tokens,
            )
            for index, choice_id in enumerate(self.choice_ids)
        }

    @property
    def num_prompt_tokens(self) -> int:
        """The number of tokens of the prompt."""
        return len(self.requests[0].prompt_ids)

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
        ends_early = stream.finished and output.finish_reason is None
        if stream.finished or output.finish_reason is not None:
            self.unfinished_ids.discard(output.request_id)
        return delta, ends_early
