"""What came home from the device is made real here: tokens, log-probabilities, scores, and the ends they bring."""

from jaxserve.engine.logprobs import make_position_logprobs
from jaxserve.engine.plan import Chunk, DecodeBatch, SampledTokens, StepPlan, StepResult
from jaxserve.engine.request_table import RequestTable
from jaxserve.engine.sequence import Sequence
from jaxserve.errors import InvalidParameter
from jaxserve.outputs import FinishReason, TokenOutput
from jaxserve.sampling.sampler import NO_TOKEN


class OutputProcessor:
    """Applies the result of one plan after the other."""

    def __init__(self, requests: RequestTable) -> None:
        self._requests = requests

    def apply(self, plan: StepPlan, result: StepResult) -> list[TokenOutput]:
        """Makes the promised tokens of a plan real; the outputs are what the callers should hear."""
        now = self._requests.clock()
        outputs: list[TokenOutput] = []
        if plan.decode is not None and result.decode is not None:
            self._apply_decode(plan.decode, result.decode, now, outputs)
        for batch, drawn in zip(plan.beams, result.beams, strict=True):
            sequence = self._requests.by_id.get(batch.request_ids[0])
            if sequence is not None and sequence.epoch == batch.epochs[0]:
                outputs += self._apply_beams(sequence, drawn, now)
        for chunk, drawn, scores in zip(plan.chunks, result.chunks, result.prompt_logprobs, strict=True):
            sequence = self._requests.by_id.get(chunk.request_id)
            if sequence is not None:
                self._apply_chunk(sequence, chunk, drawn[0], scores, now, outputs)
            for fork, its in zip(chunk.forks, drawn[1:], strict=True):
                sibling = self._requests.by_id.get(fork.request_id)
                if sibling is not None:
                    self._apply_first(sibling, its, now, outputs)
        return outputs

    def _apply_decode(self, decode: DecodeBatch, drawn: SampledTokens, now: float, outputs: list[TokenOutput]) -> None:
        tokens: list[int] = drawn.token_B.tolist()
        found = [self._requests.by_id.get(request_id) for request_id in decode.request_ids]
        self._requests.request_outputs.on_decode(
            (one for one, token in zip(found, tokens, strict=True) if one and token >= 0), now
        )
        ends = ((decode.position_B + 1) % self._requests.page_size == 0).tolist()
        for at, (sequence, token, fills_page) in enumerate(zip(found, tokens, ends, strict=True)):
            if sequence is None:
                continue
            if fills_page and token >= 0 and sequence.epoch == decode.epochs[at]:
                self._requests.prefix_reuse.register(sequence, int(decode.position_B[at]) + 1)
            self._apply_token(sequence, token, drawn, at, now, outputs)

    def _apply_chunk(
        self,
        sequence: Sequence,
        chunk: Chunk,
        drawn: SampledTokens,
        scores: SampledTokens | None,
        now: float,
        outputs: list[TokenOutput],
    ) -> None:
        if scores is not None and sequence.prompt_logprobs is not None:
            wanted = sequence.request.params.prompt_logprobs or 0
            for at in range(len(scores.token_B)):
                sequence.prompt_logprobs[chunk.start + 1 + at] = make_position_logprobs(scores, at, wanted)
        if drawn.token_B[0] >= 0 and sequence.epoch == chunk.epoch:
            self._requests.prefix_reuse.register(sequence, chunk.end)
        if sequence.request.is_beam_search and chunk.is_last:
            if sequence.epoch == chunk.epoch:
                outputs += self._apply_beams(sequence, drawn, now)
        elif chunk.is_last:
            self._apply_first(sequence, drawn, now, outputs)
        elif drawn.token_B[0] < 0:
            outputs.append(self._fail(sequence, int(drawn.token_B[0])))
        elif not sequence.needs_more_tokens and chunk.end == len(sequence.tokens):
            outputs.append(self._requests.finish(sequence, FinishReason.LENGTH))

    def _apply_first(self, sequence: Sequence, drawn: SampledTokens, now: float, outputs: list[TokenOutput]) -> None:
        if drawn.token_B[0] >= 0:
            self._requests.request_outputs.on_token(sequence, now)
        self._apply_token(sequence, int(drawn.token_B[0]), drawn, 0, now, outputs)

    def _apply_token(
        self, sequence: Sequence, token: int, drawn: SampledTokens, at: int, now: float, outputs: list[TokenOutput]
    ) -> None:
        sequence.num_pending -= 1
        if token < 0:
            outputs.append(self._fail(sequence, token))
            return
        sequence.tokens.append(token)
        token_ids, params, logprobs = (token,), sequence.request.params, None
        if params.logprobs is not None:
            logprobs = (make_position_logprobs(drawn, at, params.logprobs, params.logprob_token_ids),)
        finish = sequence.check_stop()
        if finish is None and sequence.guide is not None:
            sequence.guide.accept(token)
            last = sequence.forced_stop_token()
            if last is not None:
                sequence.tokens.append(last)
                self._requests.request_outputs.on_token(sequence, now)
                token_ids, finish = (token, last), sequence.check_stop()
        if finish is None:
            outputs.append(self._requests.request_outputs.make_output(sequence, token_ids, logprobs))
        else:
            outputs.append(self._requests.finish(sequence, finish[0], token_ids, logprobs, stop_reason=finish[1]))

    def _apply_beams(self, sequence: Sequence, drawn: SampledTokens, now: float) -> list[TokenOutput]:
        """What may follow a search's prompt, or its live beams; its answers when these were the last."""
        broken = self._requests.beams.find_error(sequence)
        if broken is not None:
            return [
                self._requests.finish(sequence, FinishReason.ERROR, error=self._make_grammar_error(sequence, broken))
            ]
        if (drawn.token_B == NO_TOKEN).any():
            return [self._fail(sequence, NO_TOKEN)]
        if not self._requests.beams.advance(sequence, drawn):
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
        """Ends a request for which no token could be drawn; token says why."""
        broken = sequence.guide.error if sequence.guide else None
        error = (
            self._requests.request_outputs.make_no_token_error(token)
            if broken is None
            else self._make_grammar_error(sequence, broken)
        )
        return self._requests.finish(sequence, FinishReason.ERROR, error=error)
