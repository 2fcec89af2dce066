"""The body of POST /v1/completions."""

from typing import Any

from server.schemas.common import GenerationRequest, TextlessInt


class CompletionRequest(GenerationRequest):
    prompt: str | list[Any] | None = None
    prompt_embeds: Any = None
    suffix: str | None = None
    logprobs: TextlessInt | None = None

    @property
    def wanted_tokens(self) -> int | None:
        return self.max_tokens

    @property
    def length_param(self) -> str:
        return "max_tokens"
