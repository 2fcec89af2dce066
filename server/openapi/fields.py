"""The JSON Schema keywords of each request field: its description, range and default, from its RequestField."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jaxserve import PARAMETER_RANGES, SamplingParams
from server.config import ServerConfig
from server.sampling import get_max_model_len
from server.schemas.fields import RequestField, SupportStatus
from server.schemas.limits import ServerLimits
from server.schemas.tokens import TOKENIZE_LENGTH_FACTOR

if TYPE_CHECKING:
    from jaxserve import AsyncLLM

DEFAULT_PARAMS = SamplingParams()


def collect_limits(llm: AsyncLLM, config: ServerConfig, names: tuple[str, ...]) -> ServerLimits:
    """Collect the limits of a server. names: served names of its model."""
    max_model_len = get_max_model_len(llm)
    return ServerLimits(
        names=names,
        vocab_size=llm.vocab_size,
        max_model_len=max_model_len,
        max_tokenize_chars=TOKENIZE_LENGTH_FACTOR * max_model_len * llm.tokenizer.max_token_chars,
        max_logprobs=llm.config.max_logprobs,
        max_n=config.max_n,
        max_stop_strings=config.max_stop_strings,
        max_tools=config.max_tools,
        max_completion_prompts=config.max_completion_prompts,
        stream_interval=config.stream_interval,
        tokens_as_ids=config.return_tokens_as_token_ids,
        is_priority_used=llm.config.scheduling_policy == "priority",
        sampling_defaults=llm.sampling_defaults,
        has_adapters=llm.config.has_adapters,
        has_routed_experts=llm.config.enable_return_routed_experts,
    )


def make_field_keywords(name: str, row: RequestField, limits: ServerLimits) -> dict[str, Any]:
    """Make the keywords of a field: its description, default and range, and whether it is supported."""
    derived = {} if row.to_parameter is None else _make_parameter_keywords(name, limits)
    keywords = {**derived, **({} if row.default is None else {"default": row.default}), **row.keywords}
    resolved = {key: value(limits) if callable(value) else value for key, value in keywords.items()}
    return {
        "description": f"{row.description} {_format_support(row)}",
        **{key: value for key, value in resolved.items() if value is not None},
        "x-support": row.status.name.lower(),
    }


def _make_parameter_keywords(name: str, limits: ServerLimits) -> Mapping[str, Any]:
    """Make the keywords of a sampling parameter: the model's own default, else the neutral value, and its range."""
    default = limits.sampling_defaults.get(name)
    default = getattr(DEFAULT_PARAMS, name) if default is None else default
    keywords = {"default": default} if isinstance(default, int | float | str) else {}
    if name in PARAMETER_RANGES:
        bounds = PARAMETER_RANGES[name]
        keywords |= {"minimum": bounds.minimum, "exclusiveMinimum": bounds.above, "maximum": bounds.maximum}
    return keywords


def _format_support(row: RequestField) -> str:
    note = f": {row.note}" if row.note else ""
    if row.status is SupportStatus.REFUSED:
        neutral = "".join(f" or {value}" for value in row.neutral)
        return f"(Not supported yet{note}; 400 for anything but null{neutral}.)"
    return f"({'Accepted, without effect' if row.status is SupportStatus.NO_EFFECT else 'Honoured'}{note}.)"
