"""The bodies of POST /v1/embeddings, /pooling, /v1/classify, /v1/score and /v1/rerank."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from server.schemas.chat import MAX_MESSAGES, Message
from server.schemas.common import Int
from server.schemas.fields import honoured, no_effect, refused, same_as
from server.schemas.generation import NOT_ZERO, GenerationRequest
from server.schemas.limits import ServerLimits, max_model_len, token_id

MAX_INPUTS = 2048
_TRUNCATION = "test_pooling_fields.py::test_a_text_is_cut_as_the_request_says"
_SHARED = "test_pooling_fields.py::test_shared_fields_are_those_of_chat"
_FORMS = "test_pooling_fields.py::test_the_forms_of_an_input"
_PAIRS = "test_pooling_fields.py::test_pairs_are_one_with_one_or_many_or_each_with_its_own"
_ACTIVATION = "test_pooling_fields.py::test_an_activation_can_be_left_out"
_REFUSED = "test_pooling_fields.py::test_what_is_not_offered_is_refused_by_name"
_NO_VARIABLES = "the template is the model's own; the text itself may say what it is for"
_RERANK = "test_pooling_fields.py::test_documents_are_ranked_best_first"


def _input_forms(limits: ServerLimits) -> list[dict[str, Any]]:
    """Return the JSON schemas of the four forms of an input."""
    text = {"type": "string", "minLength": 1}
    ids = {"type": "array", "minItems": 1, "items": token_id(limits)}
    many = {"type": "array", "minItems": 1, "maxItems": MAX_INPUTS}
    return [text, ids, *({**many, "items": items} for items in (text, ids))]


def _text_forms(limits: ServerLimits) -> list[dict[str, Any]]:
    """Return the JSON schemas of a text and of a list of texts."""
    text = {"type": "string", "minLength": 1}
    return [text, {"type": "array", "minItems": 1, "maxItems": MAX_INPUTS, "items": text}]


class PooledRequest(BaseModel):
    """The fields that all requests of models that pool have in common."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    model: str | None = same_as(
        GenerationRequest, "model", description="Name of the model.", note="checked", test=_SHARED
    )
    truncate_prompt_tokens: Annotated[Int, Field(ge=-1, le=2**63 - 1)] | None = honoured(
        "Tokens that are read of a text at most, with those that the tokenizer adds; -1: as many as the model reads.",
        note="without it a text that is too long is a 400",
        test=_TRUNCATION,
        minimum=-1,
        maximum=max_model_len,
        **NOT_ZERO,
    )
    truncation_side: Literal["left", "right"] | None = honoured(
        "Side on which a text is cut.", default="right", test=_TRUNCATION
    )
    priority: Int | None = same_as(GenerationRequest, "priority", test=_SHARED)
    request_id: str | None = same_as(GenerationRequest, "request_id", test=_SHARED)
    cache_salt: str | None = same_as(GenerationRequest, "cache_salt", test=_SHARED)
    user: str | None = no_effect("Id of the end user.", note="for the client's own books", test=_SHARED)
    use_activation: bool | None = honoured(
        "Whether scores and labels are probabilities, and embeddings get length 1; by default what the model's files"
        " say.",
        note="false: what the model computes, such as logits; a cosine stays one",
        test=_ACTIVATION,
    )
    padding: str | None = refused(
        "Fills a text up to a length.", "do_not_pad", note="a text is computed as long as it is", test=_REFUSED
    )
    chat_template_kwargs: dict[str, Any] | None = refused(
        "Further variables of the chat template.", {}, note=_NO_VARIABLES, test=_REFUSED
    )
    mm_processor_kwargs: dict[str, Any] | None = refused(
        "Arguments of the processor of multimodal models.", {}, note="inputs are texts", test=_REFUSED
    )


class InputRequest(PooledRequest):
    """The fields of a request about single texts."""

    input: str | list[Any] | None = honoured(
        "Text or token ids, or a list of either; or messages instead.",
        note="at most 2048",
        test=_FORMS,
        anyOf=_input_forms,
    )
    messages: Annotated[list[Message], Field(fail_fast=True, min_length=1, max_length=MAX_MESSAGES)] | None = honoured(
        "Messages that the chat template renders as one text, without the beginning of an answer.",
        note="instead of input",
        test="test_pooling_fields.py::test_messages_are_rendered_as_one_text",
    )
    add_special_tokens: bool | None = honoured(
        "Adds the tokenizer's special tokens to a text.",
        default=True,
        test="test_pooling_fields.py::test_special_tokens_are_added_unless_the_request_says_so",
    )
    chat_template: str | None = refused(
        "Chat template that replaces the model's own.", note="--chat-template replaces it", test=_REFUSED
    )
    add_generation_prompt: bool | None = refused(
        "Ends the text with the beginning of an assistant message.", False, note="nothing is generated", test=_REFUSED
    )
    continue_final_message: bool | None = refused(
        "Leaves the last message open.", False, note="nothing is generated", test=_REFUSED
    )
    media_io_kwargs: dict[str, Any] | None = refused(
        "Arguments of the readers of images, sounds and videos.", {}, note="inputs are texts", test=_REFUSED
    )


class EmbeddingRequest(InputRequest):
    """The body of POST /v1/embeddings and of POST /pooling."""

    encoding_format: Literal["float", "base64"] | None = honoured(
        "Writes an embedding as a list of numbers, or as base64 of little-endian float32.",
        default="float",
        test="test_pooling_fields.py::test_an_embedding_may_be_base64",
    )
    dimensions: Int | None = honoured(
        "Length to which an embedding is cut; it then gets length 1 again, if it had that.",
        note="of models that allow it: config.json, or --matryoshka-dimensions",
        test="test_pooling_fields.py::test_an_embedding_is_cut_where_the_model_allows_it",
    )
    normalize: bool | None = honoured(
        "Brings an embedding to length 1; by default what the model's files say.",
        test="test_pooling_fields.py::test_an_embedding_gets_length_1_as_the_request_says",
    )
    embed_dtype: str | None = refused(
        "Type of the numbers of an embedding.", "float32", note="they are float32", test=_REFUSED
    )
    endianness: str | None = refused(
        "Order of the bytes in base64.", "native", "little", note="it is little-endian", test=_REFUSED
    )
    input_type: str | None = honoured(
        "Name of the model's prompt that goes before each text, such as query; search_query and search_document, too.",
        note="prompts of config_sentence_transformers.json; by default its default_prompt_name",
        test="test_pooling_fields.py::test_a_prompt_of_the_model_goes_before_a_text",
    )

    @property
    def normalizes(self) -> bool | None:
        """Whether embeddings get length 1; None: as the model's files say."""
        return self.use_activation if self.normalize is None else self.normalize


class ClassifyRequest(InputRequest):
    """The body of POST /v1/classify."""


class PairRequest(PooledRequest):
    """The fields of a request about pairs of texts."""

    instruction: str | None = refused("What the pairs are compared for.", note="put it into the query", test=_REFUSED)
    max_tokens_per_query: Int | None = refused(
        "Tokens that are read of a query at most.", note="truncate_prompt_tokens cuts pairs", test=_REFUSED
    )
    max_tokens_per_doc: Int | None = refused(
        "Tokens that are read of a document at most.", note="truncate_prompt_tokens cuts pairs", test=_REFUSED
    )


class ScoreRequest(PairRequest):
    """The body of POST /v1/score."""

    text_1: str | list[Any] = honoured(
        "One text, or as many as text_2 has.", is_required=True, test=_PAIRS, anyOf=_text_forms
    )
    text_2: str | list[Any] = honoured("One text or many.", is_required=True, test=_PAIRS, anyOf=_text_forms)


class RerankRequest(PairRequest):
    """The body of POST /v1/rerank."""

    query: str = honoured("The text that documents are compared with.", is_required=True, test=_RERANK, minLength=1)
    documents: list[Any] = honoured(
        "The texts that are ranked.",
        is_required=True,
        test=_RERANK,
        minItems=1,
        maxItems=MAX_INPUTS,
        items={"type": "string", "minLength": 1},
    )
    top_n: Int | None = honoured("Number of results; 0: all.", default=0, test=_RERANK, minimum=0)
    return_documents: bool | None = honoured("Results have their documents.", default=True, test=_RERANK)
