"""A request as the engine gets it, in plain values, and what follows its output. Its state is in sequence.py."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from jaxserve.engine.plan import Mask
from jaxserve.engine.repetition import RepetitionDetector
from jaxserve.engine.token_restrictions import TokenRestrictions
from jaxserve.layers.adapter import Adapter
from jaxserve.models.pooling_spec import PoolingSpec
from jaxserve.output_constraints import GrammarSpec, ReasoningSpec
from jaxserve.sampling.penalties import pack_bits
from jaxserve.sampling_params import SamplingParams
from jaxserve.structured.guide import Grammar, Guide, ReasoningTracker


class StopStringCursor(Protocol):
    """A position in an output's text, at which stop strings are looked for (text.stop_cursor). Immutable."""

    def advance(self, token_id: int) -> "tuple[StopStringCursor, str | None]":
        """Return the position after a token, and the stop string that it completes, which ends the output."""
        ...


class TrackerFactory(Protocol):
    """A factory of the objects that follow an output token by token, from the plain values of its request."""

    def get_grammar(self, spec: GrammarSpec) -> Grammar:
        """Return a compiled grammar. It has been compiled already, unless the request comes from elsewhere."""
        ...

    def start_reasoning(self, spec: ReasoningSpec) -> ReasoningTracker:
        """Return the state before the first token of an output with reasoning."""
        ...

    def start_stop_cursor(self, request: "Request") -> StopStringCursor | None:
        """Return the position at which the outputs of a beam search begin; None if it has no stop strings."""
        ...


class NoTrackers:
    """The factory of an engine whose requests have no grammars, reasoning or beams with stop strings."""

    def get_grammar(self, spec: GrammarSpec) -> Grammar:
        """Raise NotImplementedError."""
        raise NotImplementedError("this engine was built without a tokenizer")

    def start_reasoning(self, spec: ReasoningSpec) -> ReasoningTracker:
        """Raise NotImplementedError."""
        raise NotImplementedError("this engine was built without a tokenizer")

    def start_stop_cursor(self, request: "Request") -> StopStringCursor | None:
        """Return None."""
        return None


NO_TRACKERS = NoTrackers()


@dataclass(frozen=True, slots=True)
class Request:
    """One output to generate from one prompt. The n choices of a client are n requests, a beam search is one.

    request_id                  Unique; later requests have larger ids.
    prompt_ids                  The tokens of the prompt.
    params                      The sampling parameters, checked.
    seed                        The seed of its random numbers; a random one if the client gave none.
    max_total_tokens            The number of tokens of prompt and output at which it ends, at most max_model_len.
    eos_id                      The primary end-of-sequence token; None under ignore_eos.
    stop_ids                    Further tokens that end the output and are its stop_reason.
    stop_ids_until_min_tokens   All end-of-sequence and stop tokens, also under ignore_eos: masked until min_tokens is
                                reached, and under a grammar until it may end. Empty if there is neither.
    bad_sequences               Token sequences that the output must not contain.
    parent_id                   The choice of the same prompt from whose prefill this one may be forked.
    num_siblings                The number of choices that may be forked from this one.
    choice_ids                  Of a beam search: the ids of its outputs, best first; the first is its request_id.
    grammar                     The grammar of the output after its reasoning.
    reasoning                   The reasoning before it, if a grammar or a thinking budget must know where it ends.
    reasoning_end_ids           The tokens that end the reasoning when its budget (thinking_token_budget) is used up.
    is_parsed                   Its output is parsed: tokens that are markers are characters of the text in which stop
                                strings are looked for.
    snapshot_borders            Positions up to which later prompts may share this one, ascending: those of the ends of
                                system text and messages. Of a model with recurrent layers states are kept there.
    cache_salt                  Pages are shared only with requests of the same salt.
    adapter                     What changes the weights for it; None: nothing. Pages are shared only with requests of
                                the same.
    arrival_s                   When the client's request arrived, monotonic seconds; 0: when it is added.
    caller                      Who has sent it: callers are served in turn.
    label                       What its client calls it; "" for no name. Others may have the same.
    is_timed                    Its outputs tell its times.
    pooling                     Nothing is generated: the hidden vectors of its prompt are pooled in this way.
    second_start                The position at which the second of two texts begins, for an encoder.
    experts_start               The first token whose experts its outputs return; None: they return none.
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
    grammar: GrammarSpec | None = None
    reasoning: ReasoningSpec | None = None
    reasoning_end_ids: tuple[int, ...] = ()
    is_parsed: bool = False
    snapshot_borders: tuple[int, ...] = ()
    cache_salt: str | None = None
    adapter: Adapter | None = None
    arrival_s: float = 0.0
    caller: str = ""
    label: str = ""
    is_timed: bool = False
    pooling: PoolingSpec | None = None
    second_start: int | None = None
    experts_start: int | None = None

    @property
    def is_beam_search(self) -> bool:
        """Whether it is a beam search."""
        return bool(self.choice_ids)

    @property
    def num_rows(self) -> int:
        """The number of rows of the batch that it takes while it runs."""
        return len(self.choice_ids) or 1

    @property
    def output_ids(self) -> tuple[int, ...]:
        """The ids of its outputs."""
        return self.choice_ids or (self.request_id,)

    @property
    def reads_prefix_cache(self) -> bool:
        """Whether it may start from cached pages: log-probabilities and some poolings need all positions computed."""
        if self.pooling is not None and not self.pooling.may_read_prefix_cache:
            return False
        return self.params.prompt_logprobs is None

    @property
    def needs_penalty_state(self) -> bool:
        """Whether it has penalties or biases, for which the sampler keeps its tokens (sampling/penalties.py)."""
        params = self.params
        has_penalty = params.repetition_penalty != 1 or params.frequency_penalty or params.presence_penalty
        return bool(has_penalty or params.logit_bias)


def make_repetition_detector(request: Request) -> RepetitionDetector | None:
    """Return a detector for the request's repetition_detection, or None if repetitions do not end its output."""
    params = request.params.repetition_detection
    if params is None or not params.max_pattern_size:
        return None
    return RepetitionDetector(params, request.max_total_tokens - len(request.prompt_ids))


def make_guide(request: Request, vocab_size: int, trackers: TrackerFactory) -> Guide | None:
    """Return a guide for the request's grammar and thinking budget, or None if it has neither."""
    params = request.params
    budget = params.thinking_token_budget if params.has_thinking_budget and request.reasoning is not None else None
    if request.grammar is None and budget is None:
        return None
    return Guide(
        None if request.grammar is None else trackers.get_grammar(request.grammar),
        pack_bits(request.stop_ids_until_min_tokens, vocab_size),
        reasoning_state=None if request.reasoning is None else trackers.start_reasoning(request.reasoning),
        thinking_budget=budget,
        reasoning_end_ids=request.reasoning_end_ids,
        continues_after_grammar=params.ignore_eos,
    )


def make_stop_cursor(request: Request, trackers: TrackerFactory) -> StopStringCursor | None:
    """Return the stop cursor of a beam search; None if no stop strings end its outputs, or it is no beam search."""
    return trackers.start_stop_cursor(request) if request.is_beam_search and request.params.stop else None


def make_mask(
    restrictions: TokenRestrictions,
    guide: Guide | None,
    tokens: Sequence[int],
    first_output: int,
    suppressed_ids: Sequence[int],
) -> Mask | None:
    """Return the mask of the token after `tokens`, or None if every token is allowed.

    restrictions     The request's TokenRestrictions.
    guide            The guide, which has taken the output's tokens.
    first_output     The index in `tokens` at which the output begins.
    suppressed_ids   The ids that min_tokens forbids now.
    """
    grammar_M = guide.mask() if guide else None
    allowed_M = restrictions.make_mask(tokens, first_output, suppressed_ids, grammar_M)
    return None if allowed_M is None else Mask(allowed_M, grammar_M)
