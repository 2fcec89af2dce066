"""TextStream: the token ids of one choice to text, stop strings and logprobs with texts.

The text of a chat output goes through an output parser, which separates reasoning and tool calls.
"""

from collections.abc import Mapping, Sequence

from jaxserve.outputs import FinishReason, Logprob, PositionLogprobs, TextDelta, TokenLogprob, TokenOutput
from jaxserve.sampling_params import SamplingParams
from jaxserve.text.detokenizer import Detokenizer, EscapingDetokenizer, create_detokenizer
from jaxserve.text.output_parser import OutputParser, ParsedDelta
from jaxserve.text.stop import StopMatcher
from jaxserve.text.tokenizer import Tokenizer

EMPTY_DELTA = ParsedDelta()


class TextStream:
    """The text of one choice, made from its tokens at a cost that is linear in their number.

    A stop string ends the choice here, before the engine knows: `finished` is True then, and the caller aborts the
    request. Tokens after the end are dropped.

    index        The index of the choice.
    finished     Whether the choice has ended.
    num_tokens   The number of tokens of the output, the one that ended it included.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        params: SamplingParams,
        prompt_ids: Sequence[int],
        index: int = 0,
        parser: OutputParser | None = None,
        control_tokens: Mapping[int, str] | None = None,
    ) -> None:
        """Start before the first token.

        parser           Separates reasoning and tool calls; None: all text is content.
        control_tokens   The special tokens that the parser needs to see, as OutputDialect has them.
        """
        self.index = index
        self.finished = False
        self.num_tokens = 0
        self._tokenizer = tokenizer
        self._params = params
        self._prompt_ids = prompt_ids
        self._detokenizer = create_detokenizer(tokenizer, prompt_ids, params.skip_special_tokens)
        if parser is not None and control_tokens:
            self._detokenizer = EscapingDetokenizer(self._detokenizer, control_tokens)
        self._parser = parser
        self._num_chars = 0  # of the output's text, before stop strings
        self._stops = StopMatcher(params.stop, params.include_stop_str_in_output)
        self._logprob_detokenizer = (
            None if params.logprobs is None else create_detokenizer(tokenizer, prompt_ids, False)
        )

    def push(self, output: TokenOutput) -> TextDelta | None:
        """Return what an output of the engine adds; None if it adds nothing, or comes after the end."""
        if self.finished:
            return None
        pieces: list[str] = []
        num_used, stop = 0, None
        for token_id in output.token_ids:
            num_used += 1
            text, stop = self._push_token(token_id, is_ending=self._ends_at(output, num_used))
            pieces.append(text)
            if stop is not None:
                break
        finish_reason, stop_reason = output.finish_reason, output.stop_reason
        if stop is not None:
            finish_reason, stop_reason = FinishReason.STOP, stop
        elif finish_reason is not None:
            pieces.append(self._stops.flush())
        self.finished = finish_reason is not None
        prompt_logprobs = self._prompt_logprobs(output)
        if not num_used and finish_reason is None and prompt_logprobs is None:
            return None
        text, delta = "".join(pieces), EMPTY_DELTA
        if self._parser is not None:
            is_cut = finish_reason is not FinishReason.STOP or isinstance(stop_reason, str)
            delta, finish_reason = _parse(self._parser, text, finish_reason, is_cut)
            text = delta.content
        return TextDelta(
            index=self.index,
            text=text,
            token_ids=tuple(output.token_ids[:num_used]),
            logprobs=self._logprobs(output, num_used),
            prompt_logprobs=prompt_logprobs,
            finish_reason=finish_reason,
            stop_reason=stop_reason,
            num_cached_tokens=output.num_cached_tokens,
            reasoning=delta.reasoning,
            tool_calls=delta.tool_calls,
            num_reasoning_tokens=delta.num_reasoning_tokens,
            content_tokens=None if self._parser is None else delta.content_tokens,
        )

    def _ends_at(self, output: TokenOutput, number: int) -> bool:
        """Return whether the token with this number, from 1, is the EOS or stop token that ended the output.

        An output of a beam search may have been ended by a stop string, which is found here again.
        """
        if output.finish_reason is not FinishReason.STOP or isinstance(output.stop_reason, str):
            return False
        return number == len(output.token_ids)

    def _push_token(self, token_id: int, *, is_ending: bool) -> tuple[str, str | None]:
        """Return the text to send for one token, and the stop string that it has completed."""
        self.num_tokens += 1
        if is_ending and not self._params.include_stop_str_in_output:
            return "", None
        piece = self._detokenizer.push(token_id)
        if self._parser is not None:
            self._parser.mark_token_start(self._num_chars)
            self._num_chars += len(piece)
        text, match = self._stops.feed(piece, matches_count=self.num_tokens > self._params.min_tokens)
        return text, None if match is None else match.stop

    def _logprobs(self, output: TokenOutput, num_used: int) -> tuple[TokenLogprob, ...] | None:
        if self._logprob_detokenizer is None or output.logprobs is None:
            return None
        num_top = self._params.logprobs or 0
        return tuple(decode_logprobs(self._logprob_detokenizer, entry, num_top) for entry in output.logprobs[:num_used])

    def _prompt_logprobs(self, output: TokenOutput) -> tuple[TokenLogprob | None, ...] | None:
        if output.prompt_logprobs is None or self.index != 0:
            return None
        return decode_prompt_logprobs(
            self._tokenizer, self._prompt_ids, output.prompt_logprobs, self._params.prompt_logprobs or 0
        )


def _parse(
    parser: OutputParser, text: str, finish_reason: FinishReason | None, is_cut: bool
) -> tuple[ParsedDelta, FinishReason | None]:
    """Return the parts of new text, and the finish reason; is_cut: the choice has ended, but not by the model."""
    delta = parser.feed(text)
    if finish_reason is not None:
        delta = delta + parser.close(is_cut=is_cut)
    return delta, parser.finish_reason(finish_reason)


def decode_logprobs(detokenizer: Detokenizer, entry: PositionLogprobs, num_top: int) -> TokenLogprob:
    """Return the logprobs of one position with texts, and advance the detokenizer past its token.

    `top` of the result holds the token itself, then the best `num_top` without it: num_top in all, or one more if it is
    not among them, and nothing if num_top is 0. Chat replies show the first num_top of these, completions all. `wanted`
    holds the tokens that were requested by id, each once.
    """
    others = [
        _logprob(id, detokenizer.peek(id), logprob) for id, logprob in entry.top[:num_top] if id != entry.token_id
    ]
    wanted = tuple(_logprob(id, detokenizer.peek(id), logprob) for id, logprob in dict(entry.requested).items())
    own = _logprob(entry.token_id, detokenizer.push(entry.token_id), entry.logprob, entry.rank)
    top = (own, *others) if num_top else ()
    return TokenLogprob(own.token_id, own.token, own.bytes, own.logprob, own.rank, top, wanted)


def decode_prompt_logprobs(
    tokenizer: Tokenizer, prompt_ids: Sequence[int], entries: Sequence[PositionLogprobs | None], num_top: int
) -> tuple[TokenLogprob | None, ...]:
    """Return a prompt's logprobs with texts, one entry a token; that of the first, which nothing predicts, is None.

    See `decode_logprobs`.
    """
    detokenizer = create_detokenizer(tokenizer, (), False)
    result: list[TokenLogprob | None] = []
    for token_id, entry in zip(prompt_ids, entries, strict=True):
        if entry is None:
            detokenizer.push(token_id)
        result.append(None if entry is None else decode_logprobs(detokenizer, entry, num_top))
    return tuple(result)


def _logprob(token_id: int, text: str, logprob: float, rank: int | None = None) -> Logprob:
    return Logprob(token_id, text, tuple(text.encode()), logprob, rank)
