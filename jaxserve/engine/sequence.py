"""The sequence of a live request: its tokens, what it holds, and the methods that alone change it."""

from collections.abc import Iterable
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from jaxserve.cache.sequence_pages import SequencePages
from jaxserve.engine.plan import NUM_STOP_IDS, Mask
from jaxserve.engine.pooled_chunks import PooledChunks
from jaxserve.engine.repetition import RepetitionDetector
from jaxserve.engine.request import (
    Request,
    StopStringCursor,
    TrackerFactory,
    make_guide,
    make_mask,
    make_repetition_detector,
    make_stop_cursor,
)
from jaxserve.engine.token_restrictions import TokenRestrictions
from jaxserve.layers.adapter import NO_ADAPTER
from jaxserve.outputs import REPETITION_STOP_REASON, FinishReason, PositionLogprobs
from jaxserve.sampling.columns import pack_params
from jaxserve.sampling.sampler import NO_TOKEN, SampleMode
from jaxserve.structured.guide import Guide

Stop: TypeAlias = tuple[FinishReason, int | str | None]
"""Why an output ends: the finish reason, and the stop reason as in TokenOutput."""


@dataclass(slots=True, eq=False)
class Sequence:
    """The tokens of a live request and what it holds. What remains to be computed is num_tokens minus num_computed.

    It waits until `start` or `start_behind`. While it runs, steps are planned with `compute_chunk` and `advance`, and
    their results applied with `append` and `retract`. `preempt` lets it wait again, `finish` ends it.

    request                The request.
    pages                  The pages of its first num_computed tokens. Those of a beam search are with its beams.
    sampling_S             int32, its sampling parameters as columns (sampling/columns.py).
    restrictions           The token ids that it may not sample.
    turn                   Its place among waiting sequences of its priority (caller_turns.py).
    tokens                 The prompt and the output as far as it is known on the host.
    num_pending            The tokens enqueued on the device whose ids are not on the host yet.
    num_computed           The tokens whose keys and values an enqueued step has written or will write.
    num_cached_tokens      The prompt tokens found in the prefix cache at its first start; None before that.
    row                    Its row of the batch; None while it waits.
    adapter_slot           The slot of its adapter while it runs; NO_ADAPTER for none.
    borders                The page borders of its prompt at which snapshots of recurrent states are wanted, ascending.
    is_prefilled           Only the newest token is not computed, which is on the device: the rest is decoding.
    epoch                  The number of preemptions. A result with another epoch is from before a preemption.
    num_tokens_at_start    num_tokens when it last began to run.
    guide                  Takes every token of the output if it follows a grammar or a thinking budget. That of a beam
                           search stays at the beginning.
    stop_cursor            Of a beam search with stop strings: the position at which its outputs begin.
    repetition             Takes every token of the output if repetitions end it.
    prompt_logprobs        Filled position by position while they are computed; None once they are sent.
    pooled                 What was pooled of its chunks so far.
    next_experts           The first token whose experts no output has returned; None: none does.
    """

    request: Request
    pages: SequencePages
    sampling_S: np.ndarray
    restrictions: TokenRestrictions
    turn: int
    tokens: list[int]
    num_pending: int = 0
    num_computed: int = 0
    num_cached_tokens: int | None = None
    row: int | None = None
    adapter_slot: int = NO_ADAPTER
    borders: tuple[int, ...] = ()
    is_prefilled: bool = False
    epoch: int = 0
    num_tokens_at_start: int = 0
    guide: Guide | None = None
    stop_cursor: StopStringCursor | None = None
    repetition: RepetitionDetector | None = None
    prompt_logprobs: list[PositionLogprobs | None] | None = None
    pooled: PooledChunks | None = None
    next_experts: int | None = None

    @classmethod
    def from_request(
        cls, request: Request, pages: SequencePages, turn: int, vocab_size: int, trackers: TrackerFactory
    ) -> "Sequence":
        """Return the sequence of a new request, which waits.

        pages        Its pages, still empty.
        turn         Its place among waiting sequences of its priority.
        vocab_size   The number of token ids.
        trackers     Makes the objects that follow its output.
        """
        prompt_logprobs: list[PositionLogprobs | None] | None = None
        if request.params.prompt_logprobs is not None:
            prompt_logprobs = [None for _ in request.prompt_ids]
        return cls(
            request=request,
            pages=pages,
            sampling_S=pack_params(request.params, request.seed),
            restrictions=TokenRestrictions.from_ids(
                request.params.allowed_token_ids, request.bad_sequences, vocab_size
            ),
            turn=turn,
            tokens=list(request.prompt_ids),
            guide=make_guide(request, vocab_size, trackers),
            stop_cursor=make_stop_cursor(request, trackers),
            repetition=make_repetition_detector(request),
            prompt_logprobs=prompt_logprobs,
            pooled=None if request.pooling is None else PooledChunks(request.pooling),
            next_experts=request.experts_start,
        )

    # Life

    def start(self, row: int, adapter_slot: int, num_cached_tokens: int, borders: tuple[int, ...] = ()) -> None:
        """Begin to run in a row, behind tokens whose keys and values are cached."""
        self.row, self.adapter_slot = row, adapter_slot
        self.num_computed, self.borders = num_cached_tokens, borders
        self.num_tokens_at_start = self.num_tokens
        if self.num_cached_tokens is None:
            self.num_cached_tokens = num_cached_tokens

    def start_behind(self, parent: "Sequence", row: int) -> None:
        """Begin to run behind the prompt of another choice, whose last logits give the first token of this one, too."""
        self.row, self.num_computed, self.adapter_slot = row, parent.num_computed, parent.adapter_slot
        self.num_tokens_at_start = self.num_tokens
        self.num_cached_tokens = parent.num_cached_tokens
        self.is_prefilled, self.num_pending = True, 1

    def compute_chunk(self, end: int) -> bool:
        """Count the tokens before `end` as computed; return whether a token is sampled after them, which is pending."""
        self.num_computed = end
        self.is_prefilled = end == len(self.tokens)
        is_last = self.is_prefilled and self.needs_more_tokens
        self.num_pending += is_last
        return is_last

    def advance(self, num_tokens: int) -> None:
        """Count so many further tokens as computed, and as many sampled ones as pending."""
        self.num_computed += num_tokens
        self.num_pending += num_tokens

    def retract(self, num_tokens: int, epoch: int) -> None:
        """Take back tokens that a step planned in this epoch has not brought."""
        self.num_pending -= num_tokens
        if epoch == self.epoch:
            self.num_computed -= num_tokens

    def append(self, token: int) -> Stop | None:
        """Append a pending token, whose id is now known; return why the output ends with it, or None.

        A stop token that must follow it is appended, too.
        """
        self.num_pending -= 1
        self.tokens.append(token)
        stop = self._check_stop(token)
        if stop is None and self.guide is not None:
            self.guide.accept(token)
            stop_token = self._find_forced_stop_token()
            if stop_token is not None:
                self.tokens.append(stop_token)
                stop = self._check_stop(stop_token)
        return stop

    def drop_pending(self) -> None:
        """Forget the pending tokens: they are lost, or, of a beam search, kept with its beams."""
        self.num_pending = 0

    def set_prompt_logprobs(self, start: int, logprobs: Iterable[PositionLogprobs]) -> None:
        """Fill in the log-probabilities of the prompt from a position on, if the request asks for them."""
        if self.prompt_logprobs is not None:
            for position, position_logprobs in enumerate(logprobs, start):
                self.prompt_logprobs[position] = position_logprobs

    def take_prompt_logprobs(self) -> tuple[PositionLogprobs | None, ...] | None:
        """Return the log-probabilities of the prompt to be sent, once; None if there are none."""
        if self.prompt_logprobs is None:
            return None
        prompt_logprobs, self.prompt_logprobs = tuple(self.prompt_logprobs), None
        return prompt_logprobs

    def add_pooled(self, part: np.ndarray, num_tokens: int) -> PooledChunks:
        """Add what was pooled of the next chunk, of so many tokens; return all that was pooled so far."""
        assert self.pooled is not None
        self.pooled.add(part, num_tokens)
        return self.pooled

    def return_experts(self, end: int) -> int | None:
        """Return the first token whose experts are returned now, up to that before `end`; None: none are."""
        start = self.next_experts
        if start is not None:
            self.next_experts = end
        return start

    def promote(self, turn: int) -> None:
        """Wait for this turn instead of a later one."""
        self.turn = turn

    def preempt(self) -> None:
        """Wait again, without row and pages, to be computed from the beginning."""
        self.row, self.num_computed, self.is_prefilled, self.borders = None, 0, False, ()
        self.adapter_slot = NO_ADAPTER
        self.epoch += 1
        if self.pooled is not None:
            self.pooled.clear()

    def restart(self) -> None:
        """Wait again as after `preempt`, with the tokens that are known on the host: the pending ones are lost."""
        if self.row is not None or self.num_pending:
            self.preempt()
        self.drop_pending()
        self.pages.clear()

    def finish(self) -> None:
        """End, without row and pages."""
        self.row = None

    # Questions

    @property
    def num_tokens(self) -> int:
        """The number of tokens of prompt and output, pending ones included."""
        return len(self.tokens) + self.num_pending

    @property
    def num_output_tokens(self) -> int:
        """The number of tokens of the output, pending ones included."""
        return self.num_tokens - len(self.request.prompt_ids)

    @property
    def needs_more_tokens(self) -> bool:
        """Whether another token may be sampled before the length limit."""
        return self.num_tokens < self.request.max_total_tokens

    @property
    def is_below_min_tokens(self) -> bool:
        """Whether the next token may not be a stop token because min_tokens is not reached."""
        return self.num_output_tokens < self.request.params.min_tokens and bool(self.request.stop_ids_until_min_tokens)

    @property
    def is_guided(self) -> bool:
        """Whether a grammar or a thinking budget constrains the next token, depending on the tokens before it."""
        return self.guide is not None and not self.guide.is_unconstrained

    @property
    def needs_mask(self) -> bool:
        """Whether some tokens are not allowed as the next one."""
        return self.restrictions.needs_mask or self.is_below_min_tokens or self.is_guided

    def next_border(self, position: int) -> int:
        """Return the first position behind this one at which a chunk must end: a border, or the end of the tokens."""
        return next((border for border in self.borders if border > position), len(self.tokens))

    def sample_mode(self, max_logprobs: int) -> SampleMode:
        """Return the cheapest sampler mode that serves the next token if it has no mask.

        max_logprobs   The most top log-probabilities that a step computes without those of the whole vocabulary.
        """
        params = self.request.params
        if self.request.is_beam_search:
            return SampleMode.BEAM
        if params.logprobs is not None:
            return SampleMode.LOGPROBS if params.logprobs <= max_logprobs else SampleMode.ALL_LOGPROBS
        if self.request.needs_penalty_state:
            return SampleMode.PROCESSORS
        return SampleMode.GREEDY if params.is_greedy else SampleMode.SAMPLE

    def make_mask(self) -> Mask | None:
        """Return the mask of the newest pending token, or None if every token is allowed.

        If the mask depends on the tokens before it, these must be known on the host.
        """
        request = self.request
        suppressed = request.stop_ids_until_min_tokens if self.num_output_tokens <= request.params.min_tokens else ()
        return make_mask(self.restrictions, self.guide, self.tokens, len(request.prompt_ids), suppressed)

    @property
    def queue_key(self) -> tuple[int, int, int]:
        """The order of sequences: by priority, then by turn, then by arrival."""
        return self.request.params.priority, self.turn, self.request.request_id

    def is_recently_resumed(self, page_size: int) -> bool:
        """Whether it was preempted and has not generated a page of tokens since it runs again."""
        return self.epoch > 0 and self.num_tokens - self.num_tokens_at_start < page_size

    def _find_forced_stop_token(self) -> int | None:
        """Return the stop token that follows a complete grammar, so that it need not be sampled.

        None if other tokens may follow, or if the request asks for what only a step computes: log-probabilities, or the
        experts of the token before it.
        """
        if self.guide is None or not self.guide.is_complete:
            return None
        if self.request.params.logprobs is not None or self.next_experts is not None:
            return None
        mask = self.make_mask()  # min_tokens does not matter: no other tokens are allowed
        bits_V = np.unpackbits(mask.allowed_M.view(np.uint8), bitorder="little") if mask else ()
        allowed_ids = np.flatnonzero(bits_V)
        return int(allowed_ids[0]) if len(allowed_ids) == 1 else None

    def _check_stop(self, token: int) -> Stop | None:
        """Return why the newest token ends the output, or None. To be called once for each token.

        The order is end-of-sequence token, stop ids, length, repetition.
        """
        request = self.request
        if token == request.eos_id:
            return FinishReason.STOP, None
        if token in request.stop_ids:
            return FinishReason.STOP, token
        if len(self.tokens) >= request.max_total_tokens:
            return FinishReason.LENGTH, None
        if self.repetition is None or not self.repetition.push(token):
            return None
        if len(self.tokens) - len(request.prompt_ids) < request.params.min_tokens:
            return None
        return FinishReason.REPETITION, REPETITION_STOP_REASON


def gather_adapter_slots(sequences: Iterable[Sequence]) -> np.ndarray | None:
    """Return the slots of the adapters of running sequences, int32; None if none of them has an adapter."""
    slots = [sequence.adapter_slot for sequence in sequences]
    return np.array(slots, np.int32) if any(slots) else None


def gather_stops(sequences: SequenceOf[Sequence]) -> np.ndarray:
    """Return where sequences end, int32 [n, 1 + NUM_STOP_IDS], as DecodeBatch has it."""
    stops_BX = np.full((len(sequences), 1 + NUM_STOP_IDS), NO_TOKEN, np.int32)
    for stops_X, sequence in zip(stops_BX, sequences, strict=True):
        request = sequence.request
        ids = [*(() if request.eos_id is None else (request.eos_id,)), *sorted(request.stop_ids)][:NUM_STOP_IDS]
        stops_X[: 1 + len(ids)] = request.max_total_tokens, *ids
    return stops_BX
