"""The application of a step's results to its sequences: tokens, log-probabilities, and the ends that they bring."""

from jaxserve.engine.logprobs import make_position_logprobs
from jaxserve.engine.plan import Chunk, DecodeBatch, SampledTokens, StepPlan, StepResult
from jaxserve.engine.request_table import RequestTable
from jaxserve.engine.sequence import Sequence
from jaxserve.errors import InvalidParameter
from jaxserve.outputs import FinishReason, TokenOutput
from jaxserve.sampling.sampler import NO_TOKEN


class OutputProcessor:
    """The application of one plan's results after another to the request table."""

    def __init__(self, requests: RequestTable) -> None:
        self._requests = requests

    def apply(self, plan: StepPlan, result: StepResult) -> list[TokenOutput]:
        """Apply the results of the oldest plan and return the new outputs."""
        now = self._requests.clock()
        outputs: list[TokenOutput] = []
        if plan.decode is not None and result.decode is not None:
            self._apply_decode(plan.decode, result.decode, now, outputs)
        for batch, sampled in zip(plan.beams, result.beams, strict=True):
            sequence = self._requests.by_id.get(batch.request_ids[0])
            if sequence is not None and sequence.epoch == batch.epochs[0]:
                outputs += self._apply_beams(sequence, sampled, now)
        for chunk, samples, logprobs in zip(plan.chunks, result.chunks, result.prompt_logprobs, strict=True):
            sequence = self._requests.by_id.get(chunk.request_id)
            if sequence is not None:
                self._apply_chunk(sequence, chunk, samples[0], logprobs, now, outputs)
            for fork, sampled in zip(chunk.forks, samples[1:], strict=True):
                sibling = self._requests.by_id.get(fork.request_id)
                if sibling is not None:
                    self._apply_first(sibling, sampled, now, outputs)
        return outputs

    def _apply_decode(
        self, decode: DecodeBatch, sampled: SampledTokens, now: float, outputs: list[TokenOutput]
    ) -> None:
        tokens: list[int] = sampled.token_B.tolist()
        sequences = [self._requests.by_id.get(request_id) for request_id in decode.request_ids]
        self._requests.request_outputs.on_decode(
            (sequence for sequence, token in zip(sequences, tokens, strict=True) if sequence and token >= 0), now
        )
        page_ends = ((decode.position_B + 1) % self._requests.page_size == 0).tolist()
        for index, (sequence, token, fills_page) in enumerate(zip(sequences, tokens, page_ends, strict=True)):
            if sequence is None:
                continue
            if fills_page and token >= 0 and sequence.epoch == decode.epochs[index]:
                self._requests.prefix_reuse.register(sequence, int(decode.position_B[index]) + 1)
            self._apply_token(sequence, token, sampled, index, now, outputs)

    def _apply_chunk(
        self,
        sequence: Sequence,
        chunk: Chunk,
        sampled: SampledTokens,
        prompt_logprobs: SampledTokens | None,
        now: float,
        outputs: list[TokenOutput],
    ) -> None:
        if prompt_logprobs is not None and sequence.prompt_logprobs is not None:
            num_top = sequence.request.params.prompt_logprobs or 0
            for index in range(len(prompt_logprobs.token_B)):
                position_logprobs = make_position_logprobs(prompt_logprobs, index, num_top)
                sequence.prompt_logprobs[chunk.start + 1 + index] = position_logprobs
        if sampled.token_B[0] >= 0 and sequence.epoch == chunk.epoch:
            self._requests.prefix_reuse.register(sequence, chunk.end)
        if sequence.request.is_beam_search and chunk.is_last:
            if sequence.epoch == chunk.epoch:
                outputs += self._apply_beams(sequence, sampled, now)
        elif chunk.is_last:
            self._apply_first(sequence, sampled, now, outputs)
        elif sampled.token_B[0] < 0:
            outputs.append(self._fail(sequence, int(sampled.token_B[0])))
        elif not sequence.needs_more_tokens and chunk.end == len(sequence.tokens):
            outputs.append(self._requests.finish(sequence, FinishReason.LENGTH))

    def _apply_first(self, sequence: Sequence, sampled: SampledTokens, now: float, outputs: list[TokenOutput]) -> None:
        if sampled.token_B[0] >= 0:
            self._requests.request_outputs.on_token(sequence, now)
        self._apply_token(sequence, int(sampled.token_B[0]), sampled, 0, now, outputs)

    def _apply_token(
        self, sequence: Sequence, token: int, sampled: SampledTokens, index: int, now: float, outputs: list[TokenOutput]
    ) -> None:
        sequence.num_pending -= 1
        if token < 0:
            outputs.append(self._fail(sequence, token))
            return
        sequence.tokens.append(token)
        token_ids, params, logprobs = (token,), sequence.request.params, None
        if params.logprobs is not None:
            logprobs = (make_position_logprobs(sampled, index, params.logprobs, params.logprob_token_ids),)
        stop = sequence.check_stop()
        if stop is None and sequence.guide is not None:
            sequence.guide.accept(token)
            stop_token = sequence.forced_stop_token()
            if stop_token is not None:
                sequence.tokens.append(stop_token)
                self._requests.request_outputs.on_token(sequence, now)
                token_ids, stop = (token, stop_token), sequence.check_stop()
        if stop is None:
            outputs.append(self._requests.request_outputs.make_output(sequence, token_ids, logprobs))
        else:
            outputs.append(self._requests.finish(sequence, stop[0], token_ids, logprobs, stop_reason=stop[1]))

    def _apply_beams(self, sequence: Sequence, sampled: SampledTokens, now: float) -> list[TokenOutput]:
        """Advance a beam search by the candidates of its beams; return its outputs if it has ended."""
        reason = self._requests.beams.find_error(sequence)
        if reason is not None:
            error = self._make_grammar_error(sequence, reason)
            return [self._requests.finish(sequence, FinishReason.ERROR, error=error)]
        if (sampled.token_B == NO_TOKEN).any():
            return [self._fail(sequence, NO_TOKEN)]
        if not self._requests.beams.advance(sequence, sampled):
            return []
        try:
            outputs = self._requests.beams.make_outputs(sequence)
        except InvalidParameter as error:
            return [self._requests.finish(sequence, FinishReason.ERROR, error=error)]
        self._requests.request_outputs.on_beams_finished(outputs, now)
        self._requests.remove(sequence)
        return outputs

    def _make_grammar_error(self, sequence: Sequence, reason: str) -> Exception:
        assert sequence.request.grammar is not None
        return self._requests.request_outputs.make_grammar_error(reason, sequence.request.grammar.param)

    def _fail(self, sequence: Sequence, token: int) -> TokenOutput:
        """End a request for which no token could be sampled; `token` tells why."""
        reason = sequence.guide.error if sequence.guide else None
        if reason is not None:
            error = self._make_grammar_error(sequence, reason)
        else:
            error = self._requests.request_outputs.make_no_token_error(token)
        return self._requests.finish(sequence, FinishReason.ERROR, error=error)
