"""How far along a request is: its tokens, and what it holds. Owned by the scheduler."""

from dataclasses import dataclass, field

import numpy as np

from jaxserve.engine.plan import Mask
from jaxserve.engine.repetition import RepetitionDetector
from jaxserve.engine.request import Request, make_guide, make_mask, make_repetition_detector
from jaxserve.engine.token_restrictions import TokenRestrictions
from jaxserve.kvcache.prefix import KeyChain
from jaxserve.outputs import REPETITION_STOP_REASON, FinishReason, PositionLogprobs
from jaxserve.sampling.rows import pack
from jaxserve.sampling.sampler import SampleMode
from jaxserve.structured.guide import Guide


@dataclass(slots=True, eq=False)
class Sequence:
    """A live request's place in its life. One idea schedules everything: num_tokens minus num_computed.

    tokens         prompt and answer as far as they are known on the host
    num_pending   tokens enqueued on the device whose ids have not come home yet
    num_computed   tokens whose keys and values are written by a step that is enqueued
    pages          covers num_computed tokens, in order; the first num_registered_pages are in the prefix index
    is_prefilled   the rest is decoding: only the newest token is not computed, and it lies on the device
    epoch          counts preemptions, so that results of an earlier life are told from this one's
    num_tokens_at_start     num_tokens when it last began to run
    guide          sees every token of the answer, when it must keep to a grammar or a budget; a search's stays at the
                   beginning
    repetition     sees every token of the answer, when repetitions are to end it
    prompt_logprobs  filled by position while prompt logprobs are computed; None once they are sent
    """

    request: Request
    page_hashes: KeyChain
    sampling_S: np.ndarray
    restrictions: TokenRestrictions
    tokens: list[int]
    num_pending: int = 0
    num_computed: int = 0
    num_registered_pages: int = 0
    num_cached_tokens: int | None = None
    pages: list[int] = field(default_factory=list)
    row: int | None = None
    is_prefilled: bool = False
    epoch: int = 0
    num_tokens_at_start: int = 0
    guide: Guide | None = None
    repetition: RepetitionDetector | None = None
    prompt_logprobs: list[PositionLogprobs | None] | None = None

    @classmethod
    def from_request(cls, request: Request, page_hashes: KeyChain, vocab_size: int) -> "Sequence":
        prompt_logprobs: list[PositionLogprobs | None] | None = None
        if request.params.prompt_logprobs is not None:
            prompt_logprobs = [None for _ in request.prompt_ids]
        return cls(
            request=request,
            page_hashes=page_hashes,
            sampling_S=pack(request.params, request.seed),
            restrictions=TokenRestrictions.from_ids(
                request.params.allowed_token_ids, request.bad_sequences, vocab_size
            ),
            tokens=list(request.prompt_ids),
            guide=make_guide(request, vocab_size),
            repetition=make_repetition_detector(request),
            prompt_logprobs=prompt_logprobs,
        )

    @property
    def num_tokens(self) -> int:
        return len(self.tokens) + self.num_pending

    @property
    def num_output_tokens(self) -> int:
        """Answer tokens, promised ones included."""
        return self.num_tokens - len(self.request.prompt_ids)

    @property
    def needs_more_tokens(self) -> bool:
        return self.num_tokens < self.request.max_total_tokens

    @property
    def is_below_min_tokens(self) -> bool:
        """Whether the next token may not be an end token, because min_tokens is not reached."""
        return self.num_output_tokens < self.request.params.min_tokens and bool(self.request.stop_ids_until_min_tokens)

    @property
    def is_guided(self) -> bool:
        """Whether what the next token may be depends on those before, by a grammar or a budget."""
        return self.guide is not None and not self.guide.is_unconstrained

    def sample_mode(self, max_logprobs: int) -> SampleMode:
        """The cheapest sampler that can serve this request's next token if that has no mask.

        FULL has the max_logprobs best.
        """
        params = self.request.params
        if self.request.is_beam_search:
            return SampleMode.BEAM
        if params.logprobs is not None:
            return SampleMode.FULL if params.logprobs <= max_logprobs else SampleMode.WHOLE
        if self.request.needs_penalty_state:
            return SampleMode.SHAPED
        return SampleMode.GREEDY if params.is_greedy else SampleMode.DRAW

    def make_mask(self) -> Mask | None:
        """What the newest promised token may be. Those before it are known, if it depends on them."""
        request = self.request
        held_back = request.stop_ids_until_min_tokens if self.num_output_tokens <= request.params.min_tokens else ()
        return make_mask(self.restrictions, self.guide, self.tokens, len(request.prompt_ids), held_back)

    @property
    def queue_key(self) -> tuple[int, int]:
        """Where it stands among others: by priority, then in order of arrival."""
        return self.request.params.priority, self.request.request_id

    def is_recently_resumed(self, page_size: int) -> bool:
        """Whether it came back from a preemption and has not yet made a page of tokens since."""
        return self.epoch > 0 and self.num_tokens - self.num_tokens_at_start < page_size

    def forced_stop_token(self) -> int | None:
        """The token that ends the answer, if no other may follow and nobody wants to know how likely it was."""
        if self.guide is None or not self.guide.is_complete or self.request.params.logprobs is not None:
            return None
        mask = self.make_mask()  # min_tokens plays no part: these tokens are the only ones
        bits_V = np.unpackbits(mask.allowed_M.view(np.uint8), bitorder="little") if mask else ()
        found = np.flatnonzero(bits_V)
        return int(found[0]) if len(found) == 1 else None

    def check_stop(self) -> tuple[FinishReason, int | str | None] | None:
        """Looks at the newest token, in the contract's order: EOS, stop ids, length, repetition.

        To be asked once for each token.
        """
        request, token = self.request, self.tokens[-1]
        if token == request.eos_id:
            return FinishReason.STOP, None
        if token in request.stop_ids:
            return FinishReason.STOP, token
        if len(self.tokens) >= request.max_total_tokens:
            return FinishReason.LENGTH, None
        repeats = self.repetition is not None and self.repetition.push(token)
        if repeats and len(self.tokens) - len(request.prompt_ids) >= request.params.min_tokens:
            return FinishReason.REPETITION, REPETITION_STOP_REASON
        return None
