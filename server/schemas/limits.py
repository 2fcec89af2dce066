"""ServerLimits: the settings of a server on which ranges and defaults of its fields depend."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """The settings of a server on which ranges and defaults of its fields depend.

    names               served names of its model
    vocab_size          number of logits
    max_model_len       tokens of a prompt and its answer together
    max_tokenize_chars  characters that /tokenize takes
    max_logprobs        alternatives that may be asked for; -1: any number
    max_n, max_stop_strings, max_tools, max_completion_prompts, stream_interval, tokens_as_ids   as in ServerConfig
    is_priority_used    whether requests are scheduled by priority
    sampling_defaults   the model's own sampling parameters
    has_adapters        requests may name adapters, which come and go
    has_routed_experts  answers bring the experts of their tokens
    """

    names: tuple[str, ...]
    vocab_size: int
    max_model_len: int
    max_tokenize_chars: int
    max_logprobs: int
    max_n: int
    max_stop_strings: int
    max_tools: int
    max_completion_prompts: int
    stream_interval: int
    tokens_as_ids: bool
    is_priority_used: bool
    sampling_defaults: Mapping[str, Any]
    has_adapters: bool
    has_routed_experts: bool


def token_id(limits: ServerLimits) -> dict[str, Any]:
    """Return the JSON schema of a token id."""
    return {"type": "integer", "minimum": 0, "maximum": limits.vocab_size - 1}


def max_model_len(limits: ServerLimits) -> int:
    """Return the most tokens of a prompt and its answer together."""
    return limits.max_model_len


def min_alternatives(limits: ServerLimits) -> int:
    """Return the least number of alternatives: -1, all, if the whole vocabulary is within the limit."""
    return -1 if limits.max_logprobs == -1 or limits.max_logprobs >= limits.vocab_size else 0


def max_alternatives(limits: ServerLimits) -> int | None:
    """Return the greatest number of alternatives; None: there is no limit."""
    return None if limits.max_logprobs == -1 else limits.max_logprobs
