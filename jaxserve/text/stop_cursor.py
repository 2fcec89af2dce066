"""StopCursor: tell whether a further token completes a stop string in the text of a beam of a beam search.

It uses the same detokenizer and the same matcher as TextStream, so both end at the same token. Several beams continue
one, so a cursor never changes: `advance` returns another one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jaxserve.sampling_params import SamplingParams
from jaxserve.text.detokenizer import Detokenizer, EscapingDetokenizer, create_detokenizer
from jaxserve.text.stop import StopMatcher
from jaxserve.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class StopCursor:
    """The state after some tokens of an output, none of which has completed a stop string.

    text         The detokenizer.
    stops        The matcher of stop strings.
    min_tokens   Stop strings that end within so many tokens do not count.
    num_tokens   The number of tokens so far.
    """

    text: Detokenizer
    stops: StopMatcher
    min_tokens: int
    num_tokens: int = 0

    @classmethod
    def from_params(
        cls,
        tokenizer: Tokenizer,
        params: SamplingParams,
        prompt_ids: Sequence[int],
        control_tokens: Mapping[int, str] | None = None,
    ) -> "StopCursor | None":
        """Return the state before the first token of an output; None if there are no stop strings.

        control_tokens   as for a TextStream with a parser; None: the output is not parsed
        """
        if not params.stop:
            return None
        text = create_detokenizer(tokenizer, prompt_ids, params.skip_special_tokens)
        if control_tokens:
            text = EscapingDetokenizer(text, control_tokens)
        return cls(text, StopMatcher(params.stop, params.include_stop_str_in_output), params.min_tokens)

    def advance(self, token_id: int) -> "tuple[StopCursor, str | None]":
        """Return the state after this token, and the stop string that the token has completed, if any."""
        text, stops, num_tokens = self.text.copy(), self.stops.copy(), self.num_tokens + 1
        _, match = stops.feed(text.push(token_id), matches_count=num_tokens > self.min_tokens)
        return StopCursor(text, stops, self.min_tokens, num_tokens), match.stop if match else None
