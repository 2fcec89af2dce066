"""The body of POST /v1/completions."""

from typing import Any

from server.schemas.common import Int, NonStringInt
from server.schemas.fields import Purpose, honoured, refused, same_as
from server.schemas.generation import GenerationRequest
from server.schemas.limits import ServerLimits, max_alternatives, min_alternatives, token_id

DEFAULT_MAX_TOKENS = 16
_IS_WRONG = "test_completions.py::test_a_wrong_value_is_a_400_naming_the_field"


def _prompt_forms(limits: ServerLimits) -> list[dict[str, Any]]:
    """Return the JSON schemas of the four forms of a prompt."""
    text = {"type": "string", "minLength": 1}
    ids = {"type": "array", "minItems": 1, "items": token_id(limits)}
    return [text, ids, *({"type": "array", "minItems": 1, "items": items} for items in (text, ids))]


class CompletionRequest(GenerationRequest):
    """The body of POST /v1/completions. GET /openapi.json describes every field."""

    prompt: str | list[Any] | None = honoured(
        "Text or token ids to complete, or a list of either.",
        Purpose.PROMPT,
        is_required=True,
        is_nullable=True,
        note="text, token ids, or a list of either",
        test="test_completions.py::test_the_four_forms_of_a_prompt",
        anyOf=_prompt_forms,
    )
    prompt_embeds: Any = refused("Embeddings in place of a prompt.", test=_IS_WRONG)
    suffix: str | None = refused("Text behind the completion.", note="needs a fill-in-the-middle model", test=_IS_WRONG)
    logprobs: NonStringInt | None = honoured(
        "Returns logprobs of every token, with so many alternatives each; -1: all.",
        Purpose.LOGPROBS,
        note="up to --max-logprobs",
        test="test_completions.py::TestLogprobs::test_four_parallel_arrays",
        minimum=min_alternatives,
        maximum=max_alternatives,
    )
    max_tokens: Int | None = same_as(
        GenerationRequest,
        "max_tokens",
        description="Most tokens to generate; 0 only with echo.",
        default=DEFAULT_MAX_TOKENS,
        minimum=0,
    )
    add_special_tokens: bool | None = same_as(
        GenerationRequest,
        "add_special_tokens",
        description="Adds the tokenizer's special tokens to a text.",
        default=True,
    )

    @property
    def requested_max_tokens(self) -> int | None:
        """The most tokens to generate, None: not given."""
        return self.max_tokens

    @property
    def max_tokens_field(self) -> str:
        """Name of the field that `requested_max_tokens` was read from."""
        return "max_tokens"
