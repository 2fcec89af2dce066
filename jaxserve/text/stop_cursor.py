"""Where the text of one beam of a beam search stands, to be asked whether a further token completes a stop string.

It follows the same decoder and the same matcher as TextStream, so both see the end at the same token. A search goes
on from one beam in several ways, so a cursor never changes: advancing makes another one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxserve.sampling_params import SamplingParams
from jaxserve.text.detokenizer import Detokenizer, create_detokenizer
from jaxserve.text.stop import StopMatcher
from jaxserve.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class StopCursor:
    """After num_tokens tokens of an answer, none of which has completed a stop string."""

    text: Detokenizer
    stops: StopMatcher
    min_tokens: int
    num_tokens: int = 0

    @classmethod
    def from_params(
        cls, tokenizer: Tokenizer, params: SamplingParams, prompt_ids: Sequence[int]
    ) -> "StopCursor | None":
        """At the beginning of every answer to the prompt; None when there are no stop strings."""
        if not params.stop:
            return None
        text = create_detokenizer(tokenizer, prompt_ids, params.skip_special_tokens)
        return cls(text, StopMatcher(params.stop, params.include_stop_str_in_output), params.min_tokens)

    def advance(self, token_id: int) -> "tuple[StopCursor, str | None]":
        """The cursor after this token, and the stop string that it has completed."""
        text, stops, num_tokens = self.text.copy(), self.stops.copy(), self.num_tokens + 1
        _, match = stops.feed(text.push(token_id), matches_count=num_tokens > self.min_tokens)
        return StopCursor(text, stops, self.min_tokens, num_tokens), match.stop if match else None
