"""Every field of a schema has a row, so nothing can be ignored in silence; and every row names a test that is there and
that speaks of the field."""

import ast
import re
from dataclasses import fields
from pathlib import Path

import pytest
from pydantic import BaseModel

from jaxserve import SamplingParams
from server.schemas.batch_chat import BatchChatRequest
from server.schemas.chat import ChatRequest, FunctionJson, Message, Tool
from server.schemas.completions import CompletionRequest
from server.schemas.constraint_fields import ResponseFormat, StructuredOutputsJson
from server.schemas.control import AbortRequest
from server.schemas.fields import SupportStatus, get_rows
from server.schemas.generation import GenerationRequest, StreamOptions
from server.schemas.generative_scoring import GenerativeScoringRequest
from server.schemas.invocations import InvocationRequest
from server.schemas.messages import (
    CountTokensRequest,
    MessageParam,
    MessagesRequest,
    OutputConfig,
    OutputFormat,
    ThinkingOptions,
    ToolChoiceJson,
)
from server.schemas.pooling import ClassifyRequest, EmbeddingRequest, RerankRequest, ScoreRequest
from server.schemas.responses import ReasoningOptions, ResponsesRequest, TextFormat, TextOptions
from server.schemas.tokens import DetokenizeRequest, TokenizeRequest

REPO = Path(__file__).parents[2]
REQUESTS = (
    ChatRequest,
    BatchChatRequest,
    CompletionRequest,
    ResponsesRequest,
    InvocationRequest,
    MessagesRequest,
    CountTokensRequest,
    TokenizeRequest,
    DetokenizeRequest,
    AbortRequest,
)
REQUESTS += (GenerativeScoringRequest, EmbeddingRequest, ClassifyRequest, ScoreRequest, RerankRequest)
NESTED = (Message, StreamOptions, StructuredOutputsJson, ResponseFormat, ReasoningOptions, TextOptions, TextFormat)
NESTED += (Tool, FunctionJson, MessageParam, ThinkingOptions, ToolChoiceJson, OutputConfig, OutputFormat)
ROWS = [(schema, field) for schema in (*REQUESTS, *NESTED) for field in sorted(get_rows(schema))]
CONTRACT = """
    messages model frequency_penalty presence_penalty repetition_penalty logit_bias logprobs top_logprobs
    max_tokens max_completion_tokens n response_format seed stop stream stream_options temperature top_p
    top_k min_p tools tool_choice parallel_tool_calls reasoning_effort include_reasoning user use_beam_search
    length_penalty stop_token_ids include_stop_str_in_output ignore_eos min_tokens skip_special_tokens
    spaces_between_special_tokens truncate_prompt_tokens prompt_logprobs allowed_token_ids bad_words echo
    add_generation_prompt continue_final_message add_special_tokens documents chat_template
    chat_template_kwargs mm_processor_kwargs structured_outputs priority request_id
    return_tokens_as_token_ids return_token_ids cache_salt kv_transfer_params vllm_xargs repetition_detection
    thinking_token_budget truncation_side logprob_token_ids return_prompt_text stream_interval session_id
    ec_transfer_params watermarking media_io_kwargs return_token_offsets
    mm_payload return_mm_kwargs return_weight_versions routed_experts_prompt_start
"""


@pytest.mark.parametrize(("schema", "field"), ROWS)
def test_every_row_names_a_test_that_speaks_of_its_field(schema: type[BaseModel], field: str) -> None:
    node_id = get_rows(schema)[field].node_id
    source = source_of(node_id)
    assert source, f"there is no test {node_id}"
    assert re.search(rf"\b{field}\b", source), f"{node_id} does not speak of {field}"


def source_of(node_id: str) -> str:
    """The test's source with its decorators, "" if there is none."""
    file, *names = node_id.split("::")
    text = (REPO / file).read_text(encoding="utf-8") if (REPO / file).is_file() else ""
    body: list[ast.stmt] = ast.parse(text).body
    found: ast.stmt | None = None
    for name in names:
        found = next((one for one in body if getattr(one, "name", None) == name), None)
        body = getattr(found, "body", [])
    if not isinstance(found, ast.FunctionDef | ast.AsyncFunctionDef):
        return ""
    first = min([found.lineno, *(one.lineno for one in found.decorator_list)])
    return "\n".join(text.splitlines()[first - 1 : found.end_lineno])


def test_a_test_that_is_not_there_is_noticed() -> None:
    assert source_of("tests/server/test_fields.py::test_a_test_that_is_not_there_is_noticed")
    assert not source_of("tests/server/test_fields.py::test_of_nothing")
    assert not source_of("tests/server/test_nothing.py::test_of_nothing")


def test_the_chat_schema_has_every_field_of_the_contract():
    assert set(CONTRACT.split()) <= set(ChatRequest.model_fields)


def test_a_field_without_a_row_is_noticed():
    class Incomplete(BaseModel):
        temperature: float | None = None

    with pytest.raises(StopIteration):
        get_rows(Incomplete)


@pytest.mark.parametrize("schema", REQUESTS)
def test_every_row_has_a_description(schema: type[BaseModel]) -> None:
    assert [name for name, row in get_rows(schema).items() if not row.description] == []


@pytest.mark.parametrize("schema", [ChatRequest, CompletionRequest])
def test_what_is_honoured_and_nothing_else_has_a_purpose(schema: type[BaseModel]) -> None:
    for name, row in get_rows(schema).items():
        assert (row.purpose is not None) == (row.status is SupportStatus.HONOURED), name


def test_parameters_are_those_of_the_library():
    names = {name for name, row in get_rows(GenerationRequest).items() if row.to_parameter is not None}
    decided_elsewhere = {"max_tokens", "logprobs", "prompt_logprobs", "structured_outputs", "echo_only"}
    assert names | decided_elsewhere == {field.name for field in fields(SamplingParams) if field.init}


def test_what_does_nothing_says_why():
    rows = get_rows(ChatRequest).items()
    assert all(row.note or name == "user" for name, row in rows if row.status is SupportStatus.NO_EFFECT)
