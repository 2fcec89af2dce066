"""SamplingParams: how the tokens of a request are sampled and when its output ends. Checked when it is built."""

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import index
from typing import Any, Literal, TypeVar

from jaxserve.errors import InvalidParameter
from jaxserve.parameter_numbers import ParameterRange, list_numeric_parameters, number, require
from jaxserve.structured_outputs import StructuredOutputs

MAX_GREEDY_TEMPERATURE = 1e-5  # temperatures under this mean argmax (vLLM's threshold)
MIN_TEMPERATURE = 0.01  # positive temperatures under this are raised to it
T = TypeVar("T")

# Forms that callers may write for some fields, which then hold tuples.
Texts = str | Sequence[str]
TokenIds = Sequence[int]
LogitBias = Mapping[int, float] | Sequence[tuple[int, float]]
MAX_STOP_TOKEN_IDS = 1024
MAX_LISTED_IDS = 10
MAX_LOGPROB_TOKEN_IDS = 128
_SIGNED_64_BITS = "a signed 64-bit integer"


@dataclass(frozen=True, slots=True, kw_only=True)
class RepetitionDetection:
    """End an output whose last tokens repeat: at least min_count copies of one pattern.

    max_pattern_size   The longest pattern has this many tokens; 0 switches the detection off.
    min_pattern_size   The shortest pattern has this many tokens; 0 counts as 1.
    min_count          So many copies end the output; at least 2.

    Raises InvalidParameter if a value is out of its range.
    """

    max_pattern_size: int = 0
    min_pattern_size: int = 0
    min_count: int = 0

    def __post_init__(self) -> None:
        for name in ("max_pattern_size", "min_pattern_size", "min_count"):
            value = getattr(self, name)
            if value < 0:
                raise _invalid_repetition(f"{name} must be at least 0, got {value}")
        if self.min_pattern_size > self.max_pattern_size:
            raise _invalid_repetition(
                f"min_pattern_size must be at most max_pattern_size={self.max_pattern_size},"
                f" got {self.min_pattern_size}"
            )
        if self.max_pattern_size and self.min_count < 2:
            raise _invalid_repetition(f"min_count must be at least 2, got {self.min_count}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """Sampling parameters of one request, with vLLM's names and ranges.

    Lists may be given where a field holds a tuple, a single text for a tuple of one, a dict for the pairs of logit_bias
    and for the nested dataclasses. Token ids are those of the model's vocabulary. Through LLM, fields that are not set
    take the model's own defaults, as they do over HTTP.

    max_tokens          At most this many tokens are generated, at least 1; None is as many as fit.
    min_tokens          No stop token and no stop string ends the output before this many tokens.
    temperature         Logits are divided by it, in [0, 2]. Below 1e-5 the most likely token is taken (greedy); values
                        from there to 0.01 are raised to 0.01.
    top_p               Only the most likely tokens with this total probability are kept, in (0, 1].
    top_k               Only this many most likely tokens are kept, and those equal to the last; 0 and -1 keep all.
    min_p               Only tokens with at least this share of the highest probability are kept, in [0, 1].
    seed                A token depends on (seed + choice index, position, token id) alone; None and -1 take a new seed.
    n                   The number of choices. Choice j has seed + j. Greedy requests have one.
    repetition_penalty  Positive logits of tokens in the prompt or output are divided by it, negative ones multiplied;
                        above 0, and 1 changes nothing.
    frequency_penalty   It is subtracted from a token's logit once for each occurrence in the output, in [-2, 2].
    presence_penalty    It is subtracted once from the logit of each token that occurs in the output, in [-2, 2].
    logit_bias          Pairs (token id, number added to its logit), kept in the order of ids; clamped to [-100, 100].
    allowed_token_ids   No other token can be sampled; None allows all.
    bad_words           The token sequences of these texts cannot occur in the output.
    stop                The text ends before the first of these strings.
    stop_token_ids      The output ends with the first of these tokens; at most 1,024 ids.
    ignore_eos          The end-of-sequence tokens do not end the output.
    include_stop_str_in_output   The stop string is kept in the text.
    skip_special_tokens   Special tokens are left out of the text.
    logprobs            Each token has its log-probability and those of this many most likely tokens; None is none.
    logprob_token_ids   Log-probabilities of these ids are returned at every position, too; at most 128, needs logprobs.
    prompt_logprobs     As logprobs, for the prompt's tokens; the prefix cache is not read then.
    routed_experts_prompt_start   The experts of this many first tokens of the prompt are not returned; not 0 only with
                        enable_return_routed_experts=True.
    truncate_prompt_tokens   At most this many tokens of the prompt are read; -1 is the model's length minus one.
    truncation_side     Of a truncated prompt the last tokens are kept ("left") or the first ("right").
    repetition_detection   An output that repeats itself ends, once it has min_tokens; None never.
    structured_outputs  The text behind the reasoning is constrained to this form; None is any text.
    thinking_token_budget   Reasoning has at most this many tokens, then its end is forced; None and -1 set no limit.
    priority            Requests with lower numbers are scheduled first; not 0 only with scheduling_policy="priority".
    use_beam_search     The n most likely outputs are searched for, and nothing is sampled: temperature, top_p, top_k,
                        min_p and seed have no effect. Outputs may end before max_tokens if n longer beams would not fit
                        the cache.
    length_penalty      Beams are ranked by log-probability / num_tokens ** length_penalty.
    echo_only           Nothing is generated; only the prompt's log-probabilities are computed (max_tokens may be 0).
    given               The names of the fields that were set.

    Raises InvalidParameter, which names the field, if a value has the wrong type or is out of its range.
    """

    max_tokens: int | None = None
    min_tokens: int = number(0, minimum=0)
    temperature: float = number(1.0, minimum=0, maximum=2)
    top_p: float = number(1.0, above=0, maximum=1)
    top_k: int = number(0, minimum=-1, allowed="0 or -1 (off), or at least 1")
    min_p: float = number(0.0, minimum=0, maximum=1)
    seed: int | None = number(None, minimum=-(2**63), maximum=2**63 - 1, allowed=_SIGNED_64_BITS)
    n: int = number(1, minimum=1)
    repetition_penalty: float = number(1.0, above=0, allowed="finite and above 0")
    frequency_penalty: float = number(0.0, minimum=-2, maximum=2)
    presence_penalty: float = number(0.0, minimum=-2, maximum=2)
    logit_bias: tuple[tuple[int, float], ...] = ()
    allowed_token_ids: tuple[int, ...] | None = None
    bad_words: tuple[str, ...] = ()
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    logprobs: int | None = number(None, minimum=0)
    logprob_token_ids: tuple[int, ...] = ()
    prompt_logprobs: int | None = number(None, minimum=0)
    routed_experts_prompt_start: int = number(0, minimum=0)
    truncate_prompt_tokens: int | None = None
    truncation_side: Literal["left", "right"] = "left"
    repetition_detection: RepetitionDetection | None = None
    structured_outputs: StructuredOutputs | None = None
    thinking_token_budget: int | None = number(None, minimum=-1, allowed="at least 0, or -1 for no limit")
    priority: int = number(0, minimum=-(2**63), maximum=2**63 - 1, allowed=_SIGNED_64_BITS)
    use_beam_search: bool = False
    length_penalty: float = number(1.0, allowed="a finite number")
    echo_only: bool = False
    given: frozenset[str] = field(init=False, repr=False, compare=False)

    def __new__(cls, *args: object, **fields: object) -> "SamplingParams":
        params = object.__new__(cls)
        object.__setattr__(params, "given", frozenset(fields))
        return params

    def __post_init__(self) -> None:
        self._normalize()
        self._check_ranges()
        self._check_stops()
        self._check_vocabulary_fields()
        self._check_beam_search()
        if 0 < self.temperature < MIN_TEMPERATURE and not self.is_greedy:
            object.__setattr__(self, "temperature", MIN_TEMPERATURE)

    @property
    def is_greedy(self) -> bool:
        """Whether the output is deterministic: greedy sampling or a beam search."""
        return self.use_beam_search or self.temperature < MAX_GREEDY_TEMPERATURE

    @property
    def has_thinking_budget(self) -> bool:
        """Whether the number of reasoning tokens is limited."""
        return self.thinking_token_budget not in (None, -1)

    def derive(self, **values: Any) -> "SamplingParams":
        """Return a copy in which some fields have other values, which the caller knows to be valid.

        Nothing is checked or sorted again, and the other values are shared: a bias of every token costs nothing.
        """
        derived = copy.copy(self)
        for name, value in values.items():
            object.__setattr__(derived, name, value)
        return derived

    def truncate(self, prompt_ids: Sequence[T], max_model_len: int) -> Sequence[T]:
        """Return the part of a prompt that is read: of its ids, or of whatever there is of each id.

        Raises InvalidParameter if truncate_prompt_tokens is more than the model's length.
        """
        kept = max_model_len - 1 if self.truncate_prompt_tokens == -1 else self.truncate_prompt_tokens
        if kept is None:
            return prompt_ids
        if kept > max_model_len:
            raise InvalidParameter(
                f"truncate_prompt_tokens={kept} cannot be greater than max_model_len={max_model_len}.",
                "truncate_prompt_tokens",
            )
        if len(prompt_ids) <= kept:
            return prompt_ids
        return prompt_ids[-kept:] if self.truncation_side == "left" else prompt_ids[:kept]

    def check_priority(self, scheduling_policy: str) -> None:
        """Check that a priority has an effect.

        Raises InvalidParameter if it is set and the scheduling policy ignores it.
        """
        if self.priority and scheduling_policy != "priority":
            raise InvalidParameter(f"Got priority {self.priority} but priority scheduling is not enabled.", "priority")

    def check_vocabulary(self, vocab_size: int) -> None:
        """Check every token id against the vocabulary.

        Raises InvalidParameter for ids that the model has no logit for.
        """
        check_token_ids("stop_token_ids", sorted(self.stop_token_ids), vocab_size)
        check_token_ids("allowed_token_ids", self.allowed_token_ids or (), vocab_size)
        check_token_ids("logit_bias", [token_id for token_id, _ in self.logit_bias], vocab_size)
        check_token_ids("logprob_token_ids", sorted(self.logprob_token_ids), vocab_size)

    def _normalize(self) -> None:
        """Convert every field to its declared type, and check the declared ranges."""
        for parameter in _NUMERIC_PARAMETERS:
            value = getattr(self, parameter.name)
            if value is not parameter.default:
                object.__setattr__(self, parameter.name, parameter.read(value))
        for name in ("stop", "bad_words"):
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str) else _as_tuple(name, value))
        for name in ("stop_token_ids", "logprob_token_ids"):
            value = getattr(self, name)
            object.__setattr__(self, name, _as_token_ids(name, value))
        if self.allowed_token_ids is not None:
            object.__setattr__(self, "allowed_token_ids", _as_token_ids("allowed_token_ids", self.allowed_token_ids))
        if not isinstance(self.logit_bias, tuple):
            object.__setattr__(self, "logit_bias", _as_logit_bias(self.logit_bias))
        for name, cls in (("structured_outputs", StructuredOutputs), ("repetition_detection", RepetitionDetection)):
            value = getattr(self, name)
            if isinstance(value, Mapping):
                object.__setattr__(self, name, _as_dataclass(name, cls, value))
            elif value is not None and not isinstance(value, cls):
                raise InvalidParameter(f"{name} must be {cls.__name__}(…), got {value!r}.", name)

    def _check_ranges(self) -> None:
        """Check the ranges that have several parts or depend on other fields."""
        if self.max_tokens is not None:
            require(self.max_tokens >= (0 if self.echo_only else 1), "max_tokens", "at least 1", self.max_tokens)
        if self.max_tokens is not None and self.min_tokens > self.max_tokens and not self.echo_only:
            raise InvalidParameter(
                f"min_tokens must be less than or equal to max_tokens={self.max_tokens}, got {self.min_tokens}.",
                "min_tokens",
            )
        if self.truncate_prompt_tokens is not None:
            allowed = "-1 or at least 1 (0 would leave an empty prompt)"
            is_valid = self.truncate_prompt_tokens == -1 or self.truncate_prompt_tokens >= 1
            require(is_valid, "truncate_prompt_tokens", allowed, self.truncate_prompt_tokens)
        require(self.truncation_side in ("left", "right"), "truncation_side", "left or right", self.truncation_side)

    def _check_stops(self) -> None:
        check_stop_strings(self.stop)
        if len(self.stop_token_ids) > MAX_STOP_TOKEN_IDS:
            raise InvalidParameter(
                f"stop_token_ids has {len(self.stop_token_ids)} ids; at most {MAX_STOP_TOKEN_IDS} are allowed.",
                "stop_token_ids",
            )

    def _check_vocabulary_fields(self) -> None:
        if self.allowed_token_ids is not None:
            if not self.allowed_token_ids:
                raise InvalidParameter(
                    "allowed_token_ids must not be empty; leave it out to allow all.", "allowed_token_ids"
                )
            object.__setattr__(self, "allowed_token_ids", tuple(sorted(set(self.allowed_token_ids))))
        if self.logit_bias:
            if not all(math.isfinite(bias) for _, bias in self.logit_bias):
                raise InvalidParameter("logit_bias must have finite numbers as its values.", "logit_bias")
            object.__setattr__(self, "logit_bias", tuple(sorted(dict(self.logit_bias).items())))
        if "" in self.bad_words:
            raise InvalidParameter("bad_words cannot contain an empty string.", "bad_words")
        if self.logprob_token_ids and self.logprobs is None:
            raise InvalidParameter("logprob_token_ids needs logprobs.", "logprob_token_ids")
        num_requested = len(self.logprob_token_ids)
        if num_requested > MAX_LOGPROB_TOKEN_IDS:
            raise InvalidParameter(
                f"logprob_token_ids has {num_requested} ids; at most {MAX_LOGPROB_TOKEN_IDS} are allowed.",
                "logprob_token_ids",
            )

    def _check_beam_search(self) -> None:
        if not self.use_beam_search:
            if self.n > 1 and self.is_greedy:
                raise InvalidParameter(f"n must be 1 when using greedy sampling, got {self.n}.", "n")
            return
        neutral = {"prompt_logprobs": None, "logprob_token_ids": (), "routed_experts_prompt_start": 0}
        for name, value in neutral.items():
            if getattr(self, name) != value:
                raise InvalidParameter(f"{name} is not available with use_beam_search; leave it out.", name)


_NUMERIC_PARAMETERS = list_numeric_parameters(SamplingParams)
PARAMETER_RANGES: Mapping[str, ParameterRange] = {
    parameter.name: parameter.range for parameter in _NUMERIC_PARAMETERS if parameter.range is not None
}
"""The declared range of each numeric sampling parameter."""


def _as_tuple(name: str, value: Any) -> tuple[Any, ...]:
    if value is None:
        return ()
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise InvalidParameter(f"{name} must be a list, got {value!r}.", name)
    return tuple(value)


def _as_token_ids(name: str, value: Any) -> tuple[int, ...]:
    """Convert to a tuple of ids. A tuple is not checked again: another SamplingParams has done that."""
    if isinstance(value, tuple):
        return value
    try:
        return tuple(index(token_id) for token_id in _as_tuple(name, value))
    except TypeError:
        raise InvalidParameter(f"{name} must be token ids, got {value!r}.", name) from None


def _as_logit_bias(value: Any) -> tuple[tuple[int, float], ...]:
    """Convert pairs, or a mapping whose keys are ids. Keys may be texts: JSON has no others."""
    try:
        pairs = value.items() if isinstance(value, Mapping) else _as_tuple("logit_bias", value)
        return tuple((int(token_id), float(bias)) for token_id, bias in pairs)
    except (TypeError, ValueError):
        raise InvalidParameter(
            f"logit_bias must map token ids to numbers, like {{5: -10.0}}, got {value!r}.", "logit_bias"
        ) from None


def _as_dataclass(name: str, cls: type[T], fields: Mapping[str, Any]) -> T:
    try:
        return cls(**fields)
    except TypeError as error:
        raise InvalidParameter(f"{name}: {str(error).partition('() ')[2]}.", name) from None


def _invalid_repetition(reason: str) -> InvalidParameter:
    return InvalidParameter(f"repetition_detection.{reason}.", "repetition_detection")


def check_stop_strings(stop: Sequence[str]) -> None:
    """Check stop strings. Raises InvalidParameter if one of them is empty."""
    if "" in stop:
        raise InvalidParameter("stop cannot contain an empty string.", "stop")


def check_token_ids(name: str, ids: Sequence[int], vocab_size: int) -> None:
    """Check that the model has a logit for every id.

    Raises InvalidParameter about the field `name` if it has not.
    """
    if ids and not 0 <= min(ids) <= max(ids) < vocab_size:
        unknown = [str(token_id) for token_id in ids if not 0 <= token_id < vocab_size]
        listed = ", ".join(unknown[:MAX_LISTED_IDS]) + (
            f" and {len(unknown) - MAX_LISTED_IDS} more" if len(unknown) > MAX_LISTED_IDS else ""
        )
        raise InvalidParameter(
            f"{name} has token ids that are out of vocabulary: {listed}; the vocabulary has {vocab_size} tokens, so"
            f" ids are 0 to {vocab_size - 1}.",
            name,
        )
