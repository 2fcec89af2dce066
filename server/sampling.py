"""The SamplingParams that a client's words come to.

Precedence of a field: the request's value, unless null; the server's default for this model; neutral.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from jaxserve import InvalidParameter, RepetitionDetection, SamplingParams
from server.errors import shown
from server.schemas.common import GenerationRequest

if TYPE_CHECKING:
    from jaxserve import AsyncLLM

AS_THEY_COME = (
    *("temperature", "top_p", "top_k", "min_p", "seed", "n", "min_tokens", "ignore_eos", "stop_token_ids"),
    *("include_stop_str_in_output", "skip_special_tokens", "repetition_penalty", "frequency_penalty"),
    *("presence_penalty", "allowed_token_ids", "bad_words", "priority", "truncate_prompt_tokens", "truncation_side"),
    *("use_beam_search", "length_penalty"),
)


class HasLength(Protocol):
    @property
    def wanted_tokens(self) -> int | None: ...
    @property
    def length_param(self) -> str: ...


def sampling_params(request: GenerationRequest, llm: AsyncLLM, **known: Any) -> SamplingParams:
    """Fields that the request, or the model's own defaults, say nothing about keep SamplingParams' neutral values."""
    asked: dict[str, Any] = {name: value for name, value in llm.sampling_defaults.items() if name != "max_new_tokens"}
    for name in AS_THEY_COME:
        value = getattr(request, name)
        if value is not None:
            asked[name] = tuple(value) if isinstance(value, list) else value
    if asked.get("seed") == -1:
        del asked["seed"]
    if asked.get("top_k", 0) > llm.vocab_size:
        asked["top_k"] = llm.vocab_size  # the same as off, and it fits into the device's integers
    for name in ("allowed_token_ids", "logit_bias"):
        num = len(getattr(request, name) or ())
        if num > llm.vocab_size:
            raise InvalidParameter(f"{name} has {num} ids; the vocabulary has only {llm.vocab_size} tokens.", name)
    if request.repetition_detection is not None:
        known["repetition_detection"] = RepetitionDetection(
            **request.repetition_detection.model_dump(exclude_none=True)
        )
    params = SamplingParams(
        **asked,
        **known,
        stop=request.stops,
        logit_bias=_bias(request.logit_bias or {}),
    )
    params.check_vocabulary(llm.vocab_size)
    params.check_priority(llm.config.scheduling_policy)
    return params


def _bias(by_key: Mapping[str, float]) -> tuple[tuple[int, float], ...]:
    """Keys as token ids; those that are none are all told at once, as far as a message may be long."""
    bias: dict[int, float] = {}
    wrong: list[str] = []
    for key, value in by_key.items():
        try:
            bias[int(key)] = value
        except ValueError:
            wrong.append(shown(key))
    if wrong:
        raise InvalidParameter(f"logit_bias keys must be token ids, got {', '.join(wrong)}.", "logit_bias")
    return tuple(bias.items())


def context_tokens(llm: AsyncLLM) -> int:
    """Longest prompt plus answer; settled before there is anything to serve."""
    limit = llm.config.max_model_len
    if limit is None:
        raise RuntimeError("the engine's configuration was not resolved")
    return limit


def length(request: HasLength, llm: AsyncLLM, least: int) -> int | None:
    """How many tokens the client asked for, at least `least` and no more than the model can hold."""
    wanted, param, limit = request.wanted_tokens, request.length_param, context_tokens(llm)
    if wanted is None:
        return None
    if wanted < least:
        raise InvalidParameter(f"{param} must be at least {least}, got {wanted}.", param)
    if wanted > limit:
        raise InvalidParameter(
            f"{param} is {wanted} and cannot be greater than max_model_len, which is {limit}.", param
        )
    return wanted


def alternatives(name: str, asked: int | None, llm: AsyncLLM) -> int | None:
    """How many alternatives: -1 stands for the whole vocabulary, and --max-logprobs is the limit for both. Where that
    is -1, more than there are is as many as there are."""
    if asked is None:
        return None
    cap = llm.config.max_logprobs
    count = llm.vocab_size if asked == -1 else asked
    if count > cap >= 0:
        raise InvalidParameter(f"{name} asks for {count} alternatives; at most {cap} are allowed.", name)
    return min(count, llm.vocab_size)
