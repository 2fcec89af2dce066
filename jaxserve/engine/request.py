"""What was asked (Request, frozen) and how far along it is (Progress, owned by the scheduler)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from jaxserve.engine.bans import Bans
from jaxserve.engine.plan import Mask
from jaxserve.engine.repetition import RepetitionWatch
from jaxserve.kvcache.prefix import KeyChain
from jaxserve.outputs import REPEATED, FinishReason, TokenLogprobs
from jaxserve.sampling.lines import bitmap
from jaxserve.sampling.rows import pack
from jaxserve.sampling.sampler import SampleMode
from jaxserve.sampling_params import SamplingParams
from jaxserve.structured.guide import Grammar, Guide, Thinking


class Cursor(Protocol):
    """Where an answer's text stands, which the engine cannot read. Advancing one leaves it as it was."""

    def advance(self, token_id: int) -> "tuple[Cursor, str | None]":
        """The place after this token, and the stop_reason if the answer ends with it."""
        ...


@dataclass(frozen=True, slots=True)
class Request:
    """One answer to make: one prompt, one row of the batch. A caller's n choices are n requests; those of a beam
    search are one.

    max_total_tokens   prompt and answer together end here; the door has clamped it to what can be served
    eos_id             the primary end token, None when the caller ignores it
    stop_ids           further ids that end the answer, reported as stop_reason
    held_back_ids      what min_tokens forbids at first, and a grammar until it may end: every end and stop id, also
                       under ignore_eos
    bad_sequences      the last id of each may not follow the others in the answer
    leader_id          the choice of the same prompt whose logits this one may start from
    num_followers      how many choices may start from this one's
    choice_ids         of a beam search: under which ids its answers are told, the best first; the first is its own
    cursor             of a beam search that stop strings may end: where the text of its answers begins
    grammar            what the answer must be, once its reasoning has ended
    thinking           where its reasoning begins, when there is any that a grammar or a budget has to know of
    end_of_thinking    the tokens by which it ends when its budget (params.thinking_token_budget) is used up
    seed               already drawn when the caller gave none
    arrival_s          monotonic
    """

    request_id: int
    prompt_ids: tuple[int, ...]
    params: SamplingParams
    seed: int
    max_total_tokens: int
    eos_id: int | None = None
    stop_ids: frozenset[int] = frozenset()
    held_back_ids: tuple[int, ...] = ()
    bad_sequences: tuple[tuple[int, ...], ...] = ()
    leader_id: int | None = None
    num_followers: int = 0
    choice_ids: tuple[int, ...] = ()
    cursor: Cursor | None = None
    grammar: Grammar | None = None
    thinking: Thinking | None = None
    end_of_thinking: tuple[int, ...] = ()
    cache_salt: str | None = None
    arrival_s: float = 0.0

    @property
    def is_search(self) -> bool:
        return bool(self.choice_ids)

    @property
    def num_rows(self) -> int:
        """Rows of the batch that it takes while it runs."""
        return len(self.choice_ids) or 1

    @property
    def answer_ids(self) -> tuple[int, ...]:
        """The ids under which its outputs come."""
        return self.choice_ids or (self.request_id,)

    @property
    def reads_prefix_cache(self) -> bool:
        """Prompt logprobs need every prompt position computed afresh."""
        return self.params.prompt_logprobs is None

    @property
    def needs_line(self) -> bool:
        """Whether the sampler must know the request's history or biases (sampling/lines.py)."""
        params = self.params
        penalised = params.repetition_penalty != 1 or params.frequency_penalty or params.presence_penalty
        return bool(penalised or params.logit_bias)


@dataclass(slots=True, eq=False)
class Progress:
    """A live request's place in its life. One idea schedules everything: num_tokens minus num_computed.

    tokens         prompt and answer as far as they are known on the host
    num_promised   tokens enqueued on the device whose ids have not come home yet
    num_computed   tokens whose keys and values are written by a step that is enqueued
    pages          covers num_computed tokens, in order; the first num_registered are in the prefix index
    is_prefilled   the rest is decoding: only the newest token is not computed, and it lies on the device
    epoch          counts preemptions, so that results of an earlier life are told from this one's
    started_at     num_tokens when it last began to run
    guide          sees every token of the answer, when it must keep to a grammar or a budget; a search's stays at the
                   beginning
    repetition     sees every token of the answer, when repetitions are to end it
    prompt_scores  filled by position while prompt logprobs are computed; None once they are sent
    """

    request: Request
    keys: KeyChain
    sampling_S: np.ndarray
    bans: Bans
    tokens: list[int]
    num_promised: int = 0
    num_computed: int = 0
    num_registered: int = 0
    num_cached: int | None = None
    pages: list[int] = field(default_factory=list)
    row: int | None = None
    is_prefilled: bool = False
    epoch: int = 0
    started_at: int = 0
    guide: Guide | None = None
    repetition: RepetitionWatch | None = None
    prompt_scores: list[TokenLogprobs | None] | None = None

    @classmethod
    def start(cls, request: Request, keys: KeyChain, vocab_size: int) -> "Progress":
        scores: list[TokenLogprobs | None] | None = None
        if request.params.prompt_logprobs is not None:
            scores = [None for _ in request.prompt_ids]
        return cls(
            request=request,
            keys=keys,
            sampling_S=pack(request.params, request.seed),
            bans=Bans.of(request.params.allowed_token_ids, request.bad_sequences, vocab_size),
            tokens=list(request.prompt_ids),
            guide=guide_of(request, vocab_size),
            repetition=watch_of(request),
            prompt_scores=scores,
        )

    @property
    def num_tokens(self) -> int:
        return len(self.tokens) + self.num_promised

    @property
    def num_outputs(self) -> int:
        """Answer tokens, promised ones included."""
        return self.num_tokens - len(self.request.prompt_ids)

    @property
    def wants_more(self) -> bool:
        return self.num_tokens < self.request.max_total_tokens

    @property
    def holds_back_stops(self) -> bool:
        """Whether the next token may not be an end token, because min_tokens is not reached."""
        return self.num_outputs < self.request.params.min_tokens and bool(self.request.held_back_ids)

    @property
    def is_guided(self) -> bool:
        """Whether what the next token may be depends on those before, by a grammar or a budget."""
        return self.guide is not None and not self.guide.is_over

    def mode(self, max_logprobs: int) -> SampleMode:
        """The cheapest sampler that can serve this request's next token if that has no mask.

        FULL has the max_logprobs best.
        """
        params = self.request.params
        if self.request.is_search:
            return SampleMode.BEAM
        if params.logprobs is not None:
            return SampleMode.FULL if params.logprobs <= max_logprobs else SampleMode.WHOLE
        if self.request.needs_line:
            return SampleMode.SHAPED
        return SampleMode.GREEDY if params.is_greedy else SampleMode.DRAW

    def mask(self) -> Mask | None:
        """What the newest promised token may be. Those before it are known, if it depends on them."""
        request = self.request
        held_back = request.held_back_ids if self.num_outputs <= request.params.min_tokens else ()
        return mask_of(self.bans, self.guide, self.tokens, len(request.prompt_ids), held_back)

    @property
    def place(self) -> tuple[int, int]:
        """Where it stands among others: by priority, then in order of arrival."""
        return self.request.params.priority, self.request.request_id

    def is_settling(self, page_size: int) -> bool:
        """Whether it came back from a preemption and has not yet made a page of tokens since."""
        return self.epoch > 0 and self.num_tokens - self.started_at < page_size

    def foregone_end(self) -> int | None:
        """The token that ends the answer, if no other may follow and nobody wants to know how likely it was."""
        if self.guide is None or not self.guide.is_complete or self.request.params.logprobs is not None:
            return None
        mask = self.mask()  # min_tokens plays no part: these tokens are the only ones
        bits_V = np.unpackbits(mask.allowed_M.view(np.uint8), bitorder="little") if mask else ()
        found = np.flatnonzero(bits_V)
        return int(found[0]) if len(found) == 1 else None

    def finish_reason(self) -> tuple[FinishReason, int | str | None] | None:
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
            return FinishReason.REPETITION, REPEATED
        return None


def watch_of(request: Request) -> RepetitionWatch | None:
    """What looks for repetitions in its answer, if they are to end it."""
    wanted = request.params.repetition_detection
    if wanted is None or not wanted.max_pattern_size:
        return None
    return RepetitionWatch(wanted, request.max_total_tokens - len(request.prompt_ids))


def guide_of(request: Request, vocab_size: int) -> Guide | None:
    """What keeps its answer to a grammar or its reasoning to a budget, if there is such."""
    budget = request.params.thinking_token_budget
    budget = None if budget == -1 or request.thinking is None else budget
    if request.grammar is None and budget is None:
        return None
    return Guide(
        request.grammar,
        bitmap(request.held_back_ids, vocab_size),
        thinking=request.thinking,
        budget=budget,
        end_of_thinking=request.end_of_thinking,
        goes_on=request.params.ignore_eos,
    )


def mask_of(
    bans: Bans, guide: Guide | None, tokens: Sequence[int], first: int, held_back_ids: Sequence[int]
) -> Mask | None:
    """What the token after `tokens`, of which the answer's begin at `first`, may be; None: everything."""
    grammar_M = guide.mask() if guide else None
    allowed_M = bans.mask(tokens, first, held_back_ids, grammar_M)
    return None if allowed_M is None else Mask(allowed_M, grammar_M)
