"""Makes the SamplingParams of a request.

Precedence of a field: the request's value, unless null; the model's own default (generation_config.json); the neutral
value of SamplingParams.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from jaxserve import InvalidParameter, SamplingParams
from server.schemas.fields import get_rows
from server.schemas.generation import GenerationRequest

if TYPE_CHECKING:
    from jaxserve import AsyncLLM

CONVERTERS: Mapping[str, Callable[[Any], Any]] = {
    name: row.to_parameter for name, row in get_rows(GenerationRequest).items() if row.to_parameter is not None
}


class HasMaxTokens(Protocol):
    """A request that may limit the length of its answers."""

    @property
    def requested_max_tokens(self) -> int | None:
        """The limit in tokens, None: not given."""
        ...

    @property
    def max_tokens_field(self) -> str:
        """Name of the field that the limit was read from."""
        ...


def make_sampling_params(request: GenerationRequest, llm: AsyncLLM, **overrides: Any) -> SamplingParams:
    """Make the sampling parameters of a request; `overrides` are the fields that need more than a look at the request.

    Raises InvalidParameter if a value is out of range, or allowed_token_ids or logit_bias do not fit the vocabulary.
    """
    values: dict[str, Any] = {name: value for name, value in llm.sampling_defaults.items() if name != "max_new_tokens"}
    for name in ("allowed_token_ids", "logit_bias"):
        num = len(getattr(request, name) or ())
        if num > llm.vocab_size:
            raise InvalidParameter(f"{name} has {num} ids; the vocabulary has only {llm.vocab_size} tokens.", name)
    for name, convert in CONVERTERS.items():
        value = getattr(request, name)
        if value is not None:
            values[name] = convert(value)
    if values.get("seed") == -1:
        del values["seed"]
    if values.get("top_k", 0) > llm.vocab_size:
        values["top_k"] = llm.vocab_size  # the same as off, and it fits into the device's integers
    return SamplingParams(**values, **overrides)


def get_max_model_len(llm: AsyncLLM) -> int:
    """Return the most tokens of a prompt and its answer together.

    Raises RuntimeError if the engine's configuration was not resolved, which happens before a server starts.
    """
    limit = llm.config.max_model_len
    if limit is None:
        raise RuntimeError("the engine's configuration was not resolved")
    return limit


def resolve_max_tokens(request: HasMaxTokens, minimum: int) -> int | None:
    """Return the most tokens that the client wants generated; None: it gives no limit.

    Raises InvalidParameter if there are fewer than `minimum`.
    """
    max_tokens, param = request.requested_max_tokens, request.max_tokens_field
    if max_tokens is not None and max_tokens < minimum:
        raise InvalidParameter(f"{param} must be at least {minimum}, got {max_tokens}.", param)
    return max_tokens


def resolve_num_logprobs(requested: int | None, llm: AsyncLLM) -> int | None:
    """Return how many alternatives a field asks for; -1 stands for the whole vocabulary."""
    return llm.vocab_size if requested == -1 else requested
