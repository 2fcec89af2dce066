"""The application of a step's results to its sequences: tokens, log-probabilities, and the ends that they bring."""

from collections.abc import Collection

import numpy as np

from jaxserve.engine.logprobs import make_position_logprobs
from jaxserve.engine.plan import Chunk, DecodeBatch, SampledTokens, StepPlan, StepResult
from jaxserve.engine.request_faults import RequestFaults
from jaxserve.engine.request_table import RequestTable
from jaxserve.engine.routed_experts import RoutedExperts
from jaxserve.engine.sequence import Sequence
from jaxserve.errors import InvalidParameter
from jaxserve.outputs import FinishReason, PositionLogprobs, TokenOutput
from jaxserve.sampling.sampler import NO_TOKEN
from jaxserve.sampling_params import SamplingParams


class OutputProcessor:
    """The application of one plan's results after another to the request table.

    requests   The live requests.
    faults     The boundary around each one's results.
    experts    The chosen experts of all tokens; None: outputs do not return them.
    """

    def __init__(self, requests: RequestTable, faults: RequestFaults, experts: RoutedExperts | None = None) -> None:
        self._requests, self._faults, self._experts = requests, faults, experts

    def apply(self, plan: StepPlan, result: StepResult, outputs: list[TokenOutput]) -> None:
        """Apply the results of the oldest plan and append the new outputs."""
        now = self._requests.clock()
        if self._experts is not None:
            self._experts.apply(plan, result.experts)
        if plan.decode is not None and result.decode is not None:
            self._apply_decode(plan.decode, result.decode, now, outputs)
        for batch, sampled in zip(plan.beams, result.beams, strict=True):
            sequence = self._requests.by_id.get(batch.request_ids[0])
            if sequence is not None and sequence.epoch == batch.epochs[0]:
                outputs += self._faults.run(sequence.request, self._apply_beams, sequence, sampled, now) or ()
        if result.pooled:
            self._apply_pooled(plan.chunks, result.pooled, now, outputs)
            return
        for chunk, samples, logprobs in zip(plan.chunks, result.chunks, result.prompt_logprobs, strict=True):
            sequence = self._requests.by_id.get(chunk.request_id)
            if sequence is not None:
                arguments = (sequence, chunk, samples[0], logprobs, now, outputs)
                self._faults.run(sequence.request, self._apply_chunk, *arguments)
            for fork, sampled in zip(chunk.forks, samples[1:], strict=True):
                sibling = self._requests.by_id.get(fork.request_id)
                if sibling is not None:
                    self._faults.run(sibling.request, self._apply_first, sibling, chunk, sampled, now, outputs)

    def _apply_pooled(
        self, chunks: Collection[Chunk], pooled: Collection[np.ndarray], now: float, outputs: list[TokenOutput]
    ) -> None:
        for chunk, part in zip(chunks, pooled, strict=True):
            sequence = self._requests.by_id.get(chunk.request_id)
            if sequence is not None and sequence.epoch == chunk.epoch:
                self._faults.run(sequence.request, self._apply_pooled_chunk, sequence, chunk, part, now, outputs)

    def _apply_pooled_chunk(
        self, sequence: Sequence, chunk: Chunk, part: np.ndarray, now: float, outputs: list[TokenOutput]
    ) -> None:
        if not np.isfinite(part).all():
            outputs.append(self._fail(sequence, NO_TOKEN))
            return
        self._requests.on_written(sequence, chunk.end)
        pooled = sequence.add_pooled(part, len(chunk.token_ids))
        if chunk.end == len(sequence.tokens):
            self._requests.request_outputs.on_pooled(sequence, now)
            output = self._requests.finish(sequence, FinishReason.STOP)
            outputs.append(output._replace(pooled=pooled.finish()))

    def _apply_decode(
        self, decode: DecodeBatch, sampled: SampledTokens, now: float, outputs: list[TokenOutput]
    ) -> None:
        by_id, max_tokens = self._requests.by_id, decode.max_tokens
        tokens_by_row: list[list[int]] = sampled.token_BK.tolist()
        rows = zip(decode.request_ids, decode.epochs, tokens_by_row, sampled.count_B.tolist(), strict=True)
        for index, (request_id, epoch, tokens, count) in enumerate(rows):
            sequence = by_id.get(request_id)
            if sequence is None:
                continue
            try:  # costs a row nothing; RequestFaults.run would cost a call
                if count < max_tokens:
                    self._requests.retract(sequence, max_tokens - count, epoch)
                    del tokens[count:]
                fills_pages, experts = sequence.epoch == epoch, None
                if self._experts is not None:
                    page_tables_W = [page_table_BW[index] for page_table_BW in decode.page_tables_BW]
                    experts = self._experts.take(sequence, page_tables_W, len(sequence.tokens))
                outputs.append(self._apply_tokens(sequence, tokens, sampled, index, now, fills_pages, experts))
            except Exception as error:
                self._faults.end(sequence.request, error)

    def _apply_chunk(
        self,
        sequence: Sequence,
        chunk: Chunk,
        sampled: SampledTokens,
        prompt_logprobs: SampledTokens | None,
        now: float,
        outputs: list[TokenOutput],
    ) -> None:
        if prompt_logprobs is not None:
            num_top, num = sequence.request.params.prompt_logprobs or 0, len(prompt_logprobs.token_BK)
            logprobs = [make_position_logprobs(prompt_logprobs, (index, 0), num_top) for index in range(num)]
            sequence.set_prompt_logprobs(chunk.start + 1, logprobs)
        token = int(sampled.token_BK[0, 0])
        if token >= 0 and sequence.epoch == chunk.epoch:
            self._requests.on_written(sequence, chunk.end)
        if sequence.request.is_beam_search and chunk.is_last:
            if sequence.epoch == chunk.epoch:
                outputs += self._apply_beams(sequence, sampled, now)
        elif chunk.is_last:
            self._apply_first(sequence, chunk, sampled, now, outputs)
        elif token < 0:
            outputs.append(self._fail(sequence, token))
        elif not sequence.needs_more_tokens and chunk.end == len(sequence.tokens):
            experts = self._take_experts(sequence, chunk)
            outputs.append(self._requests.finish(sequence, FinishReason.LENGTH, experts=experts))

    def _apply_first(
        self, sequence: Sequence, chunk: Chunk, sampled: SampledTokens, now: float, outputs: list[TokenOutput]
    ) -> None:
        """Apply the token that was sampled behind a chunk: that of its sequence, or of a fork."""
        tokens, experts = sampled.token_BK[0].tolist(), self._take_experts(sequence, chunk)
        outputs.append(self._apply_tokens(sequence, tokens, sampled, 0, now, experts=experts))

    def _take_experts(self, sequence: Sequence, chunk: Chunk) -> np.ndarray | None:
        return None if self._experts is None else self._experts.take(sequence, chunk.page_tables_W, chunk.end)

    def _apply_tokens(
        self,
        sequence: Sequence,
        tokens: list[int],
        sampled: SampledTokens,
        index: int,
        now: float,
        fills_pages: bool = False,
        experts: np.ndarray | None = None,
    ) -> TokenOutput:
        """Append tokens to a sequence up to the one that ends it, and return its output.

        sampled       The results in which they are, as row `index`.
        fills_pages   The step has written the keys and values of the token before each of them.
        experts       As in TokenOutput.
        """
        requests, start, num, stop = self._requests, len(sequence.tokens), 0, None
        while stop is None and num < len(tokens) and tokens[num] >= 0:
            stop = sequence.append(tokens[num])
            num += 1
        num_written = start + num - 1
        if fills_pages and num_written % requests.page_size < num:  # the last of a page is among them
            requests.on_written(sequence, num_written)
        token_ids = tuple(sequence.tokens[start:])
        logprobs = None
        if sampled.logprob_BK is not None:
            logprobs = _make_logprobs(sequence.request.params, sampled, index, num)
        requests.request_outputs.on_tokens(sequence, len(token_ids), now)
        if stop is not None:
            return requests.finish(sequence, stop[0], token_ids, logprobs, stop_reason=stop[1], experts=experts)
        if num < len(tokens):
            return self._fail(sequence, tokens[num], token_ids, logprobs)
        return requests.request_outputs.make_output(sequence, token_ids, logprobs, experts=experts)

    def _apply_beams(self, sequence: Sequence, sampled: SampledTokens, now: float) -> list[TokenOutput]:
        """Advance a beam search by the candidates of its beams; return its outputs if it has ended."""
        reason = self._requests.beams.find_error(sequence)
        if reason is not None:
            error = self._make_grammar_error(sequence, reason)
            return [self._requests.finish(sequence, FinishReason.ERROR, error=error)]
        if (sampled.token_BK == NO_TOKEN).any():
            return [self._fail(sequence, NO_TOKEN)]
        if not self._requests.advance_beams(sequence, sampled):
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

    def _fail(
        self,
        sequence: Sequence,
        token: int,
        token_ids: tuple[int, ...] = (),
        logprobs: tuple[PositionLogprobs, ...] | None = None,
    ) -> TokenOutput:
        """End a request for which no token could be sampled after these; `token` tells why."""
        reason = sequence.guide.error if sequence.guide else None
        if reason is not None:
            error = self._make_grammar_error(sequence, reason)
        else:
            error = self._requests.request_outputs.make_no_token_error(token)
        return self._requests.finish(sequence, FinishReason.ERROR, token_ids, logprobs or None, error=error)


def _make_logprobs(
    params: SamplingParams, sampled: SampledTokens, index: int, num: int
) -> tuple[PositionLogprobs, ...] | None:
    """Return the log-probabilities of the first num tokens of row `index`; None if the request asks for none."""
    if params.logprobs is None:
        return None
    ids = params.logprob_token_ids
    return tuple([make_position_logprobs(sampled, (index, number), params.logprobs, ids) for number in range(num)])
