"""The body of POST /generative_scoring."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from jaxserve import MAX_LOGPROB_TOKEN_IDS
from server.schemas.common import Int, Int64, Ints
from server.schemas.fields import honoured, same_as
from server.schemas.generation import GenerationRequest
from server.schemas.limits import ServerLimits, token_id

_SHARED = "test_generative_scoring.py::test_what_it_shares_with_other_requests"
_FORMS = "test_generative_scoring.py::test_texts_and_token_ids_are_joined"
_SCORES = "test_generative_scoring.py::test_a_score_is_the_first_label_s_probability"


def _text_or_ids(limits: ServerLimits) -> list[dict[str, Any]]:
    return [{"type": "string"}, {"type": "array", "items": token_id(limits)}]


class GenerativeScoringRequest(BaseModel):
    """The body of POST /generative_scoring: how probable are some tokens behind a query and each of several items."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    model: str | None = same_as(GenerationRequest, "model", test=_SHARED)
    query: str | Ints = honoured(
        "The query, a text or token ids.", is_required=True, note="text or token ids", test=_FORMS, anyOf=_text_or_ids
    )
    items: Annotated[list[str] | list[Ints], Field(min_length=1)] = honoured(
        "The items, each a text or token ids, which are joined to the query.",
        is_required=True,
        note="at most --max-completion-prompts",
        test=_FORMS,
        maxItems=lambda limits: limits.max_completion_prompts,
    )
    label_token_ids: Annotated[Ints, Field(min_length=1)] = honoured(
        "The tokens whose probabilities are computed; the score is the first one's.",
        is_required=True,
        note=f"at most {MAX_LOGPROB_TOKEN_IDS}",
        test=_SCORES,
        maxItems=MAX_LOGPROB_TOKEN_IDS,
        items=token_id,
    )
    apply_softmax: bool | None = honoured(
        "Whether the probabilities of the labels add up to one, or are those among all tokens.",
        default=True,
        test=_SCORES,
    )
    item_first: bool | None = honoured("Puts the item in front of the query.", default=False, test=_FORMS)
    add_special_tokens: bool | None = honoured(
        "Adds the tokenizer's special tokens to a query that is a text.", default=True, test=_FORMS
    )
    priority: Int64 | None = same_as(GenerationRequest, "priority", test=_SHARED)
    request_id: str | None = same_as(GenerationRequest, "request_id", test=_SHARED)
    cache_salt: str | None = same_as(GenerationRequest, "cache_salt", test=_SHARED)

    @property
    def labels(self) -> tuple[Int, ...]:
        """The labels, each once."""
        return tuple(dict.fromkeys(self.label_token_ids))
