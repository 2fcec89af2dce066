"""The body of POST /v1/completions."""

from typing import Any

from server.schemas.common import GenerationRequest, NonStringInt


class CompletionRequest(GenerationRequest):
    """The body of POST /v1/completions. GET /openapi.json describes every field."""

    prompt: str | list[Any] | None = None
    prompt_embeds: Any = None
    suffix: str | None = None
    logprobs: NonStringInt | None = None

    @property
    def requested_max_tokens(self) -> int | None:
        """The most tokens to generate, None: not given."""
        return self.max_tokens

    @property
    def max_tokens_field(self) -> str:
        """Name of the field that `requested_max_tokens` was read from."""
        return "max_tokens"
