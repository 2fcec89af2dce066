"""What was asked: one answer to make, frozen. How far along it is, sequence.py knows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from jaxserve.engine.plan import Mask
from jaxserve.engine.repetition import RepetitionDetector
from jaxserve.engine.token_restrictions import TokenRestrictions
from jaxserve.sampling.lines import bitmap
from jaxserve.sampling_params import SamplingParams
from jaxserve.structured.guide import Grammar, Guide, ReasoningTracker


class StopStringCursor(Protocol):
    """Where an answer's text stands, which the engine cannot read. Advancing one leaves it as it was."""

    def advance(self, token_id: int) -> "tuple[StopStringCursor, str | None]":
        """The place after this token, and the stop_reason if the answer ends with it."""
        ...


@dataclass(frozen=True, slots=True)
class Request:
    """One answer to make: one prompt, one row of the batch. A caller's n choices are n requests; those of a beam
    search are one.

    max_total_tokens   prompt and answer together end here; the door has clamped it to what can be served
    eos_id             the primary end token, None when the caller ignores it
    stop_ids           further ids that end the answer, reported as stop_reason
    stop_ids_until_min_tokens  what min_tokens forbids at first, and a grammar until it may end: every end and stop id,
                       also under ignore_eos
    bad_sequences      the last id of each may not follow the others in the answer
    parent_id          the choice of the same prompt whose logits this one may start from
    num_siblings       how many choices may start from this one's
    choice_ids         of a beam search: under which ids its answers are told, the best first; the first is its own
    stop_cursor        of a beam search that stop strings may end: where the text of its answers begins
    grammar            what the answer must be, once its reasoning has ended
    reasoning_state    where its reasoning begins, when there is any that a grammar or a budget has to know of
    reasoning_end_ids  the tokens by which it ends when its budget (params.thinking_token_budget) is used up
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
    stop_ids_until_min_tokens: tuple[int, ...] = ()
    bad_sequences: tuple[tuple[int, ...], ...] = ()
    parent_id: int | None = None
    num_siblings: int = 0
    choice_ids: tuple[int, ...] = ()
    stop_cursor: StopStringCursor | None = None
    grammar: Grammar | None = None
    reasoning_state: ReasoningTracker | None = None
    reasoning_end_ids: tuple[int, ...] = ()
    cache_salt: str | None = None
    arrival_s: float = 0.0

    @property
    def is_beam_search(self) -> bool:
        return bool(self.choice_ids)

    @property
    def num_rows(self) -> int:
        """Rows of the batch that it takes while it runs."""
        return len(self.choice_ids) or 1

    @property
    def output_ids(self) -> tuple[int, ...]:
        """The ids under which its outputs come."""
        return self.choice_ids or (self.request_id,)

    @property
    def reads_prefix_cache(self) -> bool:
        """Prompt logprobs need every prompt position computed afresh."""
        return self.params.prompt_logprobs is None

    @property
    def needs_penalty_state(self) -> bool:
        """Whether the sampler must know the request's history or biases (sampling/lines.py)."""
        params = self.params
        penalised = params.repetition_penalty != 1 or params.frequency_penalty or params.presence_penalty
        return bool(penalised or params.logit_bias)


def make_repetition_detector(request: Request) -> RepetitionDetector | None:
    """What looks for repetitions in its answer, if they are to end it."""
    wanted = request.params.repetition_detection
    if wanted is None or not wanted.max_pattern_size:
        return None
    return RepetitionDetector(wanted, request.max_total_tokens - len(request.prompt_ids))


def make_guide(request: Request, vocab_size: int) -> Guide | None:
    """What keeps its answer to a grammar or its reasoning to a budget, if there is such."""
    params = request.params
    budget = (
        params.thinking_token_budget if params.has_thinking_budget and request.reasoning_state is not None else None
    )
    if request.grammar is None and budget is None:
        return None
    return Guide(
        request.grammar,
        bitmap(request.stop_ids_until_min_tokens, vocab_size),
        reasoning_state=request.reasoning_state,
        thinking_budget=budget,
        reasoning_end_ids=request.reasoning_end_ids,
        continues_after_grammar=params.ignore_eos,
    )


def make_mask(
    restrictions: TokenRestrictions,
    guide: Guide | None,
    tokens: Sequence[int],
    first_output: int,
    suppressed_ids: Sequence[int],
) -> Mask | None:
    """What the token after `tokens`, of which the answer's begin at `first_output`, may be; None: everything."""
    grammar_M = guide.mask() if guide else None
    allowed_M = restrictions.make_mask(tokens, first_output, suppressed_ids, grammar_M)
    return None if allowed_M is None else Mask(allowed_M, grammar_M)
