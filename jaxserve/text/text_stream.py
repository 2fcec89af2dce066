"""One choice of one request: the engine's token ids in, text, stop strings and spelled-out logprobs out.

A chat answer's text goes on through a reader, which takes reasoning and tool calls out of it.
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
    """What becomes of one choice's tokens.

    A stop string ends the choice here, before the engine knows: `finished` is then True, and whoever drives this
    stream aborts the request. Tokens after the end are dropped. Cost is linear in the tokens.

    reader     takes the text apart; None: all of it is content
    controls   the special tokens that the reader looks for, as AnswerDialect has them
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
        self.index = index
        self.finished = False
        self.num_tokens = 0  # that belong to the answer, the ending one included
        self._tokenizer = tokenizer
        self._params = params
        self._prompt_ids = prompt_ids
        self._detokenizer = create_detokenizer(tokenizer, prompt_ids, params.skip_special_tokens)
        if parser is not None and control_tokens:
            self._detokenizer = EscapingDetokenizer(self._detokenizer, control_tokens)
        self._parser = parser
        self._num_chars = 0  # of the answer's text, before stop strings
        self._stops = StopMatcher(params.stop, params.include_stop_str_in_output)
        self._logprob_detokenizer = (
            None if params.logprobs is None else create_detokenizer(tokenizer, prompt_ids, False)
        )

    def push(self, output: TokenOutput) -> TextDelta | None:
        """The news for the reader; None when this output brings none, or comes after the end."""
        if self.finished:
            return None
        pieces: list[str] = []
        taken, stop = 0, None
        for token_id in output.token_ids:
            taken += 1
            text, stop = self._push_token(token_id, is_ending=self._ends_at(output, taken))
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
        if not taken and finish_reason is None and prompt_logprobs is None:
            return None
        text, read = "".join(pieces), EMPTY_DELTA
        if self._parser is not None:
            is_cut = finish_reason is not FinishReason.STOP or isinstance(stop_reason, str)
            read, finish_reason = _read(self._parser, text, finish_reason, is_cut)
            text = read.content
        return TextDelta(
            index=self.index,
            text=text,
            token_ids=tuple(output.token_ids[:taken]),
            logprobs=self._logprobs(output, taken),
            prompt_logprobs=prompt_logprobs,
            finish_reason=finish_reason,
            stop_reason=stop_reason,
            num_cached_tokens=output.num_cached_tokens,
            reasoning=read.reasoning,
            tool_calls=read.tool_calls,
            num_reasoning_tokens=read.num_reasoning_tokens,
        )

    def _ends_at(self, output: TokenOutput, place: int) -> bool:
        """Whether the token at this place (from 1) is the EOS or stop token that ended the answer.

        An answer from a beam search may have been ended by a stop string, which is then found here again.
        """
        if output.finish_reason is not FinishReason.STOP or isinstance(output.stop_reason, str):
            return False
        return place == len(output.token_ids)

    def _push_token(self, token_id: int, *, is_ending: bool) -> tuple[str, str | None]:
        """The text to send for one token, and the stop string it completed."""
        self.num_tokens += 1
        if is_ending and not self._params.include_stop_str_in_output:
            return "", None
        piece = self._detokenizer.push(token_id)
        if self._parser is not None:
            self._parser.mark_token_start(self._num_chars)
            self._num_chars += len(piece)
        text, match = self._stops.feed(piece, matches_count=self.num_tokens > self._params.min_tokens)
        return text, None if match is None else match.stop

    def _logprobs(self, output: TokenOutput, taken: int) -> tuple[TokenLogprob, ...] | None:
        if self._logprob_detokenizer is None or output.logprobs is None:
            return None
        num_top = self._params.logprobs or 0
        return tuple(decode_logprobs(self._logprob_detokenizer, entry, num_top) for entry in output.logprobs[:taken])

    def _prompt_logprobs(self, output: TokenOutput) -> tuple[TokenLogprob | None, ...] | None:
        if output.prompt_logprobs is None or self.index != 0:
            return None
        return decode_prompt_logprobs(
            self._tokenizer, self._prompt_ids, output.prompt_logprobs, self._params.prompt_logprobs or 0
        )


def _read(
    reader: OutputParser, text: str, finish_reason: FinishReason | None, is_cut: bool
) -> tuple[ParsedDelta, FinishReason | None]:
    """What the reader makes of new text, and why the choice ended if it has. is_cut: not because the model ended it."""
    read = reader.feed(text)
    if finish_reason is not None:
        read = read + reader.close(is_cut=is_cut)
    return read, reader.finish_reason(finish_reason)


def decode_logprobs(detokenizer: Detokenizer, entry: PositionLogprobs, num_top: int) -> TokenLogprob:
    """One position's logprobs with texts, and `spelled` moved past its token.

    top: the standing token, then the best `num_top` without it: num_top in all, or one more if it is not among them.
    Empty when num_top is 0. Chat replies show the first num_top of these, completions all.
    wanted: what was asked for by id, none of it twice.
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
    """A prompt's logprobs with texts, one per token; the first, which nothing predicted, is None. See `spell`."""
    spelled = create_detokenizer(tokenizer, (), False)
    result: list[TokenLogprob | None] = []
    for token_id, entry in zip(prompt_ids, entries, strict=True):
        if entry is None:
            spelled.push(token_id)
        result.append(None if entry is None else decode_logprobs(spelled, entry, num_top))
    return tuple(result)


def _logprob(token_id: int, text: str, logprob: float, rank: int | None = None) -> Logprob:
    return Logprob(token_id, text, tuple(text.encode()), logprob, rank)
