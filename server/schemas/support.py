"""The table of all request fields: whether each is supported, and the test that shows it.

FIELDS.md, the README's table and the OpenAPI document are made from it (scripts/field_table --write). Tests compare it
with the schemas, and check that the tests that it names exist.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import BaseModel

from jaxserve import Unsupported
from server.errors import preview

BECOMES_PARAMETER = "test_chat_fields.py::test_a_field_becomes_a_sampling_parameter"
HAS_NO_EFFECT = "test_chat_fields.py::test_neutral_values_and_unknown_keys_change_nothing"
IS_REFUSED = "test_chat_fields.py::test_what_is_not_built_yet_is_refused_by_name"
IS_WRONG = "test_chat_fields.py::test_a_wrong_value_is_a_400_naming_the_field"
IS_WRONG_COMPLETION = "test_completions.py::test_a_wrong_value_is_a_400_naming_the_field"
SHAPES_PROMPT = "test_chat_fields.py::TestMessages::test_template_fields_reach_the_template"
MESSAGES = "test_chat_fields.py::TestMessages::test_they_reach_the_template_as_they_came"
READS_ANSWER = "test_tools.py::test_the_fields_reach_the_reader_of_the_answer"
TOKENIZES_ALIKE = "test_routes.py::TestTokenize::test_the_template_is_told_what_chat_would_tell_it"


class SupportStatus(StrEnum):
    """Support of a field.

    HONOURED   it does what the OpenAI or vLLM documentation says
    REFUSED    400 "... is not supported yet", and why, for any value but null and the neutral ones
    NO_EFFECT  it is accepted and its type is checked; it is documented to change nothing here
    """

    HONOURED = "honoured"
    REFUSED = "not supported yet"
    NO_EFFECT = "no effect"


@dataclass(frozen=True, slots=True)
class FieldSupport:
    """The support of one field.

    status    see SupportStatus
    note      what users should know about it
    test      the test that shows it, in whose source the field's name occurs: a pytest node id without parameters,
              relative to tests/server unless it begins with tests/
    neutral   values beside null that a REFUSED field may have
    """

    status: SupportStatus
    note: str
    test: str
    neutral: tuple[Any, ...] = ()

    @property
    def node_id(self) -> str:
        """The pytest node id of `test`."""
        return self.test if self.test.startswith("tests/") else f"tests/server/{self.test}"


def _honoured(note: str = "", test: str = BECOMES_PARAMETER) -> FieldSupport:
    return FieldSupport(SupportStatus.HONOURED, note, test)


def _refused(*neutral: Any, note: str = "", test: str = IS_REFUSED) -> FieldSupport:
    return FieldSupport(SupportStatus.REFUSED, note, test, neutral)


def _no_effect(note: str, test: str = HAS_NO_EFFECT) -> FieldSupport:
    return FieldSupport(SupportStatus.NO_EFFECT, note, test)


SHARED: dict[str, FieldSupport] = {
    "model": _honoured(
        "a served name; null or empty: the default",
        "test_chat_fields.py::test_null_and_empty_models_mean_the_default_and_aliases_are_answered_with_the_first",
    ),
    "max_tokens": _honoured("clamped to the room behind the prompt; more than the context: 400"),
    "n": _honoured("1 when greedy"),
    "seed": _honoured("choice j samples with seed + j"),
    "stop": _honoured("at most 4"),
    "stop_token_ids": _honoured(),
    "ignore_eos": _honoured(),
    "min_tokens": _honoured(),
    "include_stop_str_in_output": _honoured(),
    "skip_special_tokens": _honoured(),
    "stream": _honoured(test="test_chat_stream.py::test_role_then_text_then_end"),
    "stream_options": _honoured(
        "include_usage, continuous_usage_stats",
        "test_chat_stream.py::test_include_usage_adds_one_last_chunk",
    ),
    "stream_interval": _honoured(
        "tokens gathered per chunk",
        "test_chat_stream.py::test_an_interval_gathers_tokens_but_not_the_first",
    ),
    "temperature": _honoured("below 1e-5: greedy"),
    "top_p": _honoured(),
    "top_k": _honoured("0 or -1: off"),
    "min_p": _honoured(),
    "repetition_penalty": _honoured(),
    "frequency_penalty": _honoured(),
    "presence_penalty": _honoured(),
    "logit_bias": _honoured("clamped to [-100, 100]"),
    "allowed_token_ids": _honoured(),
    "bad_words": _honoured(),
    "truncate_prompt_tokens": _honoured("-1: all but one of the context's"),
    "truncation_side": _honoured("left: the last tokens are kept"),
    "priority": _honoured(
        "needs --scheduling-policy priority; the header X-Vllm-Priority wins",
        "test_chat_fields.py::test_priorities_count_where_they_are_scheduled_by",
    ),
    "repetition_detection": _honoured(),
    "use_beam_search": _honoured("n is the width"),
    "length_penalty": _honoured("with use_beam_search"),
    "prompt_logprobs": _honoured(
        "not with stream",
        "test_chat_reply.py::TestPromptLogprobs::test_a_table_for_each_token_but_the_first",
    ),
    "echo": _honoured(test="test_chat_reply.py::TestEcho::test_the_last_message_is_repeated"),
    "add_special_tokens": _honoured(test=SHAPES_PROMPT),
    "request_id": _honoured("the header X-Request-Id wins", "test_chat_reply.py::TestId::test_the_bodys_id_is_taken"),
    "return_token_ids": _honoured(test="test_chat_reply.py::test_token_ids_on_demand"),
    "return_tokens_as_token_ids": _honoured(
        test="test_chat_reply.py::TestLogprobs::test_tokens_as_ids_keep_their_bytes"
    ),
    "cache_salt": _honoured(test="test_chat_fields.py::test_the_salt_reaches_the_engine"),
    "user": _no_effect(""),
    "session_id": _no_effect("no session routing here"),
    "spaces_between_special_tokens": _no_effect("fast tokenizers put none there"),
    "kv_transfer_params": _refused(note="needs a transfer connector, which this server has not"),
    "vllm_xargs": _no_effect("without extensions"),
    "thinking_token_budget": _honoured(
        "needs a reasoning parser", "test_reasoning_fields.py::test_a_thinking_token_budget_needs_a_parser"
    ),
    "logprob_token_ids": _honoured(
        "needs logprobs; at most 128, beside the token itself and the best",
        "test_chat_reply.py::TestLogprobs::test_ids_that_are_asked_for_stand_behind_the_best",
    ),
    "response_format": _honoured(
        "text, json_object, json_schema, structural_tag; nothing to hold where a call is forced",
        "test_constraints.py::TestResponseFormat::test_each_type_becomes_its_constraint",
    ),
    "structured_outputs": _honoured(
        "exactly one of json, regex, choice, grammar, json_object, structural_tag",
        "test_constraints.py::TestStructuredOutputs::test_each_key_becomes_the_constraint",
    ),
}
CHAT: dict[str, FieldSupport] = SHARED | {
    "messages": _honoured("text only", MESSAGES),
    "max_completion_tokens": _honoured("wins over max_tokens"),
    "logprobs": _honoured(test="test_chat_stream.py::test_every_token_appears_once"),
    "top_logprobs": _honoured(
        "up to --max-logprobs",
        "test_chat_reply.py::TestLogprobs::test_exactly_k_alternatives_the_token_itself_first",
    ),
    "add_generation_prompt": _honoured(test=SHAPES_PROMPT),
    "continue_final_message": _honoured(
        "with add_generation_prompt false",
        "test_chat_fields.py::TestMessages::test_continuing_needs_no_prompt_for_an_answer",
    ),
    "documents": _honoured("if the template uses them", SHAPES_PROMPT),
    "chat_template_kwargs": _honoured("if the template uses them", SHAPES_PROMPT),
    "reasoning_effort": _honoured("if the template uses it", SHAPES_PROMPT),
    "parallel_tool_calls": _honoured("false: one call at most", READS_ANSWER),
    "include_reasoning": _honoured(
        "false: reasoning, logprobs and token ids are left out",
        "test_reasoning_reply.py::test_what_is_not_told_does_not_leak",
    ),
    "tools": _honoured("functions", READS_ANSWER),
    "tool_choice": _honoured("auto needs a tool parser", "test_tools.py::TestChoice::test_what_a_tool_choice_comes_to"),
    "chat_template": _honoured(
        "with --trust-request-chat-template", "test_request_templates.py::TestTrust::test_with_the_flag_it_is_used"
    ),
    "mm_processor_kwargs": _no_effect(
        "on models of text; needs --trust-request-mm-kwargs",
        "test_request_templates.py::TestTrust::test_media_arguments_need_a_flag_and_mean_nothing_to_a_model_of_text",
    ),
    "return_prompt_text": _honoured(
        "adds prompt_text", "test_rendering.py::TestPromptText::test_it_is_there_on_demand_alone"
    ),
}
COMPLETIONS: dict[str, FieldSupport] = SHARED | {
    "prompt": _honoured("text, token ids, or a list of either", "test_completions.py::test_the_four_forms_of_a_prompt"),
    "logprobs": _honoured("up to --max-logprobs", "test_completions.py::TestLogprobs::test_four_parallel_arrays"),
    "suffix": _refused(note="needs a fill-in-the-middle model", test=IS_WRONG_COMPLETION),
    "prompt_embeds": _refused(test=IS_WRONG_COMPLETION),
}
TOKENIZE: dict[str, FieldSupport] = {
    "model": _honoured("checked", "test_routes.py::TestTokenize::test_the_model_is_checked"),
    "prompt": _honoured("or messages", "test_routes.py::TestTokenize::test_a_prompt"),
    "messages": _honoured("or a prompt", TOKENIZES_ALIKE),
    "add_special_tokens": _honoured(test="test_routes.py::TestTokenize::test_without_special_tokens_and_pieces"),
    "add_generation_prompt": _honoured(test=TOKENIZES_ALIKE),
    "continue_final_message": _honoured(test=TOKENIZES_ALIKE),
    "chat_template_kwargs": _honoured(test=TOKENIZES_ALIKE),
    "return_token_strs": _honoured(test="test_routes.py::TestTokenize::test_a_prompt"),
    "documents": _honoured(test=TOKENIZES_ALIKE),
    "reasoning_effort": _honoured(test=TOKENIZES_ALIKE),
    "tools": _honoured("may be empty", "test_tokens.py::TestTokenize::test_tools_need_no_choice_and_may_be_empty"),
    "tool_choice": _honoured("none may hide the tools", TOKENIZES_ALIKE),
    "chat_template": CHAT["chat_template"],
    "mm_processor_kwargs": CHAT["mm_processor_kwargs"],
}
DETOKENIZE: dict[str, FieldSupport] = {
    "model": _honoured("checked", "test_routes.py::TestDetokenize::test_the_model_is_checked"),
    "tokens": _honoured(test="test_routes.py::TestDetokenize::test_ids_become_text_special_ones_too"),
}
MESSAGE: dict[str, FieldSupport] = {
    name: _honoured("if the template uses it", MESSAGES)
    for name in ("role", "content", "name", "tool_calls", "tool_call_id", "reasoning", "reasoning_content")
} | {
    "tools": _honoured(
        "of a developer", "test_chat_fields.py::TestMessages::test_tools_of_a_developer_reach_the_template"
    )
}
_CONSTRAINTS = "test_constraints.py::TestStructuredOutputs::test_each_key_becomes_the_constraint"
_HINTS = "test_constraints.py::TestStructuredOutputs::test_hints_about_engines_change_nothing"
STRUCTURED_OUTPUTS: dict[str, FieldSupport] = {
    "json": _honoured("a schema, or its text; a keyword that cannot be enforced is a 400", _CONSTRAINTS),
    "regex": _honoured("matched by the whole answer", _CONSTRAINTS),
    "choice": _honoured("one of these texts", _CONSTRAINTS),
    "grammar": _honoured("GBNF where a line has ::=, else Lark", _CONSTRAINTS),
    "json_object": _honoured("true, if given", _CONSTRAINTS),
    "structural_tag": _honoured("JSON text", _CONSTRAINTS),
    "disable_any_whitespace": _honoured("for JSON", _CONSTRAINTS),
    "disable_additional_properties": _honoured("for JSON", _CONSTRAINTS),
    "whitespace_pattern": _honoured("for JSON, unless disable_any_whitespace", _CONSTRAINTS),
    "disable_fallback": _no_effect("there is one engine", _HINTS),
    "_backend": _no_effect("a known name, or 400", _HINTS),
}
RESPONSE_FORMAT: dict[str, FieldSupport] = {
    name: _honoured(note, "test_constraints.py::TestResponseFormat::test_each_type_becomes_its_constraint")
    for name, note in {
        "type": "text, json_object, json_schema, structural_tag",
        "json_schema": "name and schema; always strict",
    }.items()
}
STREAM_OPTIONS: dict[str, FieldSupport] = {
    "include_usage": _honoured(test="test_chat_stream.py::test_include_usage_adds_one_last_chunk"),
    "continuous_usage_stats": _honoured(
        "with include_usage", "test_chat_stream.py::test_continuous_usage_counts_each_choice"
    ),
}


def refuse_unsupported(request: BaseModel, table: Mapping[str, FieldSupport]) -> None:
    """Check that no field asks for something unsupported. Raises Unsupported about the first one that does."""
    for name in sorted(request.model_fields_set & table.keys()):
        value = getattr(request, name)
        if isinstance(value, BaseModel):
            value = value.model_dump(exclude_none=True)
        support = table[name]
        if support.status is SupportStatus.REFUSED and value is not None and value not in support.neutral:
            reason = f": {support.note}" if support.note else ""
            raise Unsupported(f"{name} is not supported yet{reason} (got {preview(value)}); leave it out.", name)
