"""The body of POST /v1/completions."""

from typing import Any

from server.schemas.common import GenerationRequest, NonStringInt


class CompletionRequest(GenerationRequest):
    prompt: str | list[Any] | None = None
    prompt_embeds: Any = None
    suffix: str | None = None
    logprobs: NonStringInt | None = None

    @property
    def requested_max_tokens(self) -> int | None:
        return self.max_tokens

    @property
    def max_tokens_field(self) -> str:
        return "max_tokens"
