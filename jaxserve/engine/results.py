"""What came home from the device is made real here: tokens, log-probabilities, scores, and the ends they bring."""

from jaxserve.engine.live import Live
from jaxserve.engine.logprobs import logprobs_of
from jaxserve.engine.plan import Chunk, DecodeBatch, DrawnRows, StepPlan, StepResult
from jaxserve.engine.progress import Progress
from jaxserve.errors import InvalidParameter
from jaxserve.outputs import FinishReason, TokenOutput
from jaxserve.sampling.sampler import NO_TOKEN


class Results:
    """Applies the result of one plan after the other."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def apply(self, plan: StepPlan, result: StepResult) -> list[TokenOutput]:
        """Makes the promised tokens of a plan real; the outputs are what the callers should hear."""
        now = self._live.clock()
        outputs: list[TokenOutput] = []
        if plan.decode is not None and result.decode is not None:
            self._apply_decode(plan.decode, result.decode, now, outputs)
        for batch, drawn in zip(plan.beams, result.beams, strict=True):
            progress = self._live.by_id.get(batch.request_ids[0])
            if progress is not None and progress.epoch == batch.epochs[0]:
                outputs += self._apply_beams(progress, drawn, now)
        for chunk, drawn, scores in zip(plan.chunks, result.chunks, result.scores, strict=True):
            progress = self._live.by_id.get(chunk.request_id)
            if progress is not None:
                self._apply_chunk(progress, chunk, drawn[0], scores, now, outputs)
            for fork, its in zip(chunk.forks, drawn[1:], strict=True):
                follower = self._live.by_id.get(fork.request_id)
                if follower is not None:
                    self._apply_first(follower, its, now, outputs)
        return outputs

    def _apply_decode(self, decode: DecodeBatch, drawn: DrawnRows, now: float, outputs: list[TokenOutput]) -> None:
        tokens: list[int] = drawn.token_B.tolist()
        found = [self._live.by_id.get(request_id) for request_id in decode.request_ids]
        self._live.answers.on_decode((one for one, token in zip(found, tokens, strict=True) if one and token >= 0), now)
        ends = ((decode.position_B + 1) % self._live.page_size == 0).tolist()
        for at, (progress, token, fills_page) in enumerate(zip(found, tokens, ends, strict=True)):
            if progress is None:
                continue
            if fills_page and token >= 0 and progress.epoch == decode.epochs[at]:
                self._live.sharing.register(progress, int(decode.position_B[at]) + 1)
            self._apply_token(progress, token, drawn, at, now, outputs)

    def _apply_chunk(
        self,
        progress: Progress,
        chunk: Chunk,
        drawn: DrawnRows,
        scores: DrawnRows | None,
        now: float,
        outputs: list[TokenOutput],
    ) -> None:
        if scores is not None and progress.prompt_scores is not None:
            wanted = progress.request.params.prompt_logprobs or 0
            for at in range(len(scores.token_B)):
                progress.prompt_scores[chunk.start + 1 + at] = logprobs_of(scores, at, wanted)
        if drawn.token_B[0] >= 0 and progress.epoch == chunk.epoch:
            self._live.sharing.register(progress, chunk.end)
        if progress.request.is_search and chunk.is_last:
            if progress.epoch == chunk.epoch:
                outputs += self._apply_beams(progress, drawn, now)
        elif chunk.is_last:
            self._apply_first(progress, drawn, now, outputs)
        elif drawn.token_B[0] < 0:
            outputs.append(self._fail(progress, int(drawn.token_B[0])))
        elif not progress.wants_more and chunk.end == len(progress.tokens):
            outputs.append(self._live.end(progress, FinishReason.LENGTH))

    def _apply_first(self, progress: Progress, drawn: DrawnRows, now: float, outputs: list[TokenOutput]) -> None:
        if drawn.token_B[0] >= 0:
            self._live.answers.on_token(progress, now)
        self._apply_token(progress, int(drawn.token_B[0]), drawn, 0, now, outputs)

    def _apply_token(
        self, progress: Progress, token: int, drawn: DrawnRows, at: int, now: float, outputs: list[TokenOutput]
    ) -> None:
        progress.num_promised -= 1
        if token < 0:
            outputs.append(self._fail(progress, token))
            return
        progress.tokens.append(token)
        token_ids, params, logprobs = (token,), progress.request.params, None
        if params.logprobs is not None:
            logprobs = (logprobs_of(drawn, at, params.logprobs, params.logprob_token_ids),)
        finish = progress.finish_reason()
        if finish is None and progress.guide is not None:
            progress.guide.accept(token)
            last = progress.foregone_end()
            if last is not None:
                progress.tokens.append(last)
                self._live.answers.on_token(progress, now)
                token_ids, finish = (token, last), progress.finish_reason()
        if finish is None:
            outputs.append(self._live.answers.news(progress, token_ids, logprobs))
        else:
            outputs.append(self._live.end(progress, finish[0], token_ids, logprobs, stop_reason=finish[1]))

    def _apply_beams(self, progress: Progress, drawn: DrawnRows, now: float) -> list[TokenOutput]:
        """What may follow a search's prompt, or its live beams; its answers when these were the last."""
        broken = self._live.searches.error(progress)
        if broken is not None:
            return [self._live.end(progress, FinishReason.ERROR, error=self._broken_grammar(progress, broken))]
        if (drawn.token_B == NO_TOKEN).any():
            return [self._fail(progress, NO_TOKEN)]
        if not self._live.searches.advance(progress, drawn):
            return []
        try:
            outputs = self._live.searches.outputs(progress)
        except InvalidParameter as error:
            return [self._live.end(progress, FinishReason.ERROR, error=error)]
        self._live.answers.on_found(outputs, now)
        self._live.remove(progress)
        return outputs

    def _broken_grammar(self, progress: Progress, reason: str) -> Exception:
        assert progress.request.grammar is not None
        return self._live.answers.broken_grammar(reason, progress.request.grammar.param)

    def _fail(self, progress: Progress, token: int) -> TokenOutput:
        """Ends a request for which no token could be drawn; token says why."""
        broken = progress.guide.error if progress.guide else None
        error = self._live.answers.no_token(token) if broken is None else self._broken_grammar(progress, broken)
        return self._live.end(progress, FinishReason.ERROR, error=error)
