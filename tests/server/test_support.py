"""The table of fields covers the schemas exactly, so nothing can be ignored in silence; and every row names a test that
is there and that speaks of the field."""

import ast
import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from server.schemas import support
from server.schemas.chat import ChatRequest, Message
from server.schemas.common import ResponseFormat, StreamOptions, StructuredOutputsJson
from server.schemas.completions import CompletionRequest
from server.schemas.support import CHAT, SupportStatus
from server.schemas.tokens import DetokenizeRequest, TokenizeRequest

REPO = Path(__file__).parents[2]
TABLES = {
    ChatRequest: support.CHAT,
    CompletionRequest: support.COMPLETIONS,
    TokenizeRequest: support.TOKENIZE,
    DetokenizeRequest: support.DETOKENIZE,
    Message: support.MESSAGE,
    StreamOptions: support.STREAM_OPTIONS,
    StructuredOutputsJson: support.STRUCTURED_OUTPUTS,
    ResponseFormat: support.RESPONSE_FORMAT,
}
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
"""


@pytest.mark.parametrize("schema", TABLES)
def test_every_field_has_its_line_and_every_line_its_field(schema: type[BaseModel]) -> None:
    assert {field.alias or name for name, field in schema.model_fields.items()} == set(TABLES[schema])


@pytest.mark.parametrize(
    ("schema", "field"), [(schema, field) for schema, table in TABLES.items() for field in sorted(table)]
)
def test_every_row_names_a_test_that_speaks_of_its_field(schema: type[BaseModel], field: str) -> None:
    node_id = TABLES[schema][field].node_id
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
    assert source_of("tests/server/test_support.py::test_a_test_that_is_not_there_is_noticed")
    assert not source_of("tests/server/test_support.py::test_of_nothing")
    assert not source_of("tests/server/test_nothing.py::test_of_nothing")


def test_the_chat_schema_has_every_field_of_the_contract():
    assert set(ChatRequest.model_fields) == set(CONTRACT.split())


def test_what_does_nothing_says_why():
    assert all(one.note or name == "user" for name, one in CHAT.items() if one.status is SupportStatus.NO_EFFECT)
