"""Every field of a chat request, and every deliberate difference from vLLM, has a test in this folder."""

import re

import pytest

from server.schemas.chat import ChatRequest
from tests.server.test_fields import source_of


def source(row: str) -> str:
    """The source of the test that a row names by file and function, "" if there is none."""
    file, _, name = row.partition("::")
    return source_of(f"tests/end_to_end/contract/test_{file}_over_http.py::{name}")


FIELDS = {
    "choices::test_a_search_is_the_same_whatever_shapes_a_draw": "use_beam_search",
    "choices::test_choice_1_of_a_seed_is_choice_0_of_the_next": "seed",
    "choices::test_length_penalty_ranks_a_search": "length_penalty",
    "choices::test_n_choices_are_numbered_and_their_prompt_counts_once": "n",
    "lengths::test_max_completion_tokens_wins_over_max_tokens": "max_completion_tokens",
    "lengths::test_max_tokens_is_the_number_of_tokens": "max_tokens",
    "lengths::test_truncate_prompt_tokens_keeps_the_end_and_truncation_side_the_beginning": (
        "truncate_prompt_tokens truncation_side"
    ),
    "logprobs::test_prompt_logprobs_are_tables_by_token_id": "prompt_logprobs",
    "logprobs::test_return_tokens_as_token_ids_keeps_the_bytes": "return_tokens_as_token_ids",
    "logprobs::test_top_logprobs_are_k_the_token_first_the_others_in_order": "top_logprobs",
    "logprobs::test_ids_that_are_asked_for_stand_behind_the_best": "logprob_token_ids",
    "logprobs::test_bytes_make_the_text": "logprobs",
    "messages::test_add_generation_prompt_opens_the_turn_and_names_the_speaker": "add_generation_prompt",
    "messages::test_add_special_tokens_adds_those_of_the_tokenizer": "add_special_tokens",
    "messages::test_continue_final_message_ends_where_the_message_does": "continue_final_message",
    "messages::test_echo_puts_the_last_message_in_front_if_its_role_speaks": "echo",
    "messages::test_return_prompt_text_shows_what_the_template_wrote": "return_prompt_text",
    "messages::test_what_a_prompt_or_its_answer_cannot_be": "chat_template",
    "messages::test_what_the_template_does_not_use_changes_nothing": (
        "documents chat_template_kwargs mm_processor_kwargs media_io_kwargs reasoning_effort return_token_offsets "
        "mm_payload return_mm_kwargs"
    ),
    "parsing::test_a_body_of_another_shape": "messages",
    "replies::test_model_may_be_any_name_and_the_first_answers": "model",
    "replies::test_request_id_is_the_id_and_the_header_is_stronger": "request_id",
    "replies::test_usage_adds_up": "return_token_ids",
    "replies::test_user_and_session_id_change_nothing": "user session_id",
    "reasoning::TestWhereItIsNot::test_a_thinking_token_budget_needs_a_parser": "thinking_token_budget",
    "reasoning::TestWhereItIsRead::test_what_is_not_to_be_told_is_not": "include_reasoning",
    "sampling::test_allowed_token_ids_are_all_there_is": "allowed_token_ids",
    "sampling::test_bad_words_are_banned_in_both_spellings": "bad_words",
    "sampling::test_frequency_and_presence_penalty_count_the_answer_and_not_the_prompt": (
        "frequency_penalty presence_penalty"
    ),
    "sampling::test_logit_bias_is_added_and_clamped": "logit_bias",
    "sampling::test_repetition_penalty_divides_what_the_bias_made": "repetition_penalty",
    "sampling::test_temperature_top_k_top_p_and_min_p_at_their_ends_are_greedy": ("temperature top_k top_p min_p"),
    "scheduling::test_cache_salt_divides_what_is_shared": "cache_salt",
    "scheduling::test_transfers_need_a_connector": "kv_transfer_params ec_transfer_params",
    "scheduling::test_what_an_answer_cannot_bring_is_refused": (
        "watermarking return_weight_versions routed_experts_prompt_start"
    ),
    "scheduling::test_vllm_xargs_are_looked_at_and_left": "vllm_xargs",
    "scheduling::test_priority_needs_its_scheduling": "priority",
    "stopping::test_a_stop_string_across_tokens_cuts_the_text_and_not_the_tokens": "stop",
    "stopping::test_ignore_eos_skip_special_tokens_and_include_stop_str_in_output": (
        "ignore_eos skip_special_tokens include_stop_str_in_output spaces_between_special_tokens"
    ),
    "stopping::test_min_tokens_bans_whatever_would_end_the_answer": "min_tokens",
    "stopping::test_repetition_detection_counts_copies": "repetition_detection",
    "stopping::test_stop_token_ids_are_told_as_integers": "stop_token_ids",
    "streaming::test_include_usage_adds_one_chunk": "stream_options",
    "streaming::test_the_bytes_are_plain_events": "stream",
    "streaming::test_stream_interval_gathers_tokens": "stream_interval",
    "structured::TestSources::test_choice_is_one_of_them_byte_for_byte": "structured_outputs",
    "structured::TestSources::test_response_format_of_json_schema_is_always_strict": "response_format",
    "tools::TestChoices::test_a_named_function_is_called_once_and_ends_with_stop": "tools tool_choice",
    "tools::TestChoices::test_parallel_tool_calls_false_is_one_call": "parallel_tool_calls",
}
UNLIKE_VLLM = {
    "a null tool_choice is the same as none given": "tools::TestAuto::test_a_call_is_found_in_the_text",
    "the dialect of calls is found, and what must be called needs none": (
        "tools::TestChoices::test_required_is_at_least_one_valid_call"
    ),
    "each request has its own whitespace and its own rule for other keys": (
        "structured::TestWhitespace::test_a_whitespace_pattern_is_followed_unless_all_is_disabled"
    ),
    "a keyword that cannot be enforced is refused by name": (
        "structured_schemas::test_what_cannot_be_enforced_is_named"
    ),
    "the parser of reasoning is found": (
        "reasoning::TestWhereItIsRead::test_reasoning_stands_beside_the_content_and_the_constraint_behind_it"
    ),
    "what can be checked is checked before a stream's headers": (
        "errors::test_what_can_be_known_is_said_before_a_stream_begins"
    ),
    "a priority that nobody looks at is refused": "scheduling::test_priority_needs_its_scheduling",
    "a search honours what shapes and ends an answer": (
        "choices::test_a_search_honours_what_shapes_and_ends_an_answer"
    ),
    "cached tokens are told by default": (
        "scheduling::test_a_prefix_is_found_in_whole_pages_and_never_to_the_last_token"
    ),
    "an echo without an answer has no completion tokens": (
        "completions::test_an_echo_of_nothing_generated_scores_the_prompt"
    ),
    "no messages are refused, whatever the template says": "errors::test_messages_must_not_be_empty",
    "bytes are those of the text, also of tokens shown as ids": (
        "logprobs::test_return_tokens_as_token_ids_keeps_the_bytes"
    ),
    "a body has a largest size": "errors::test_how_a_body_comes",
    "any number of ids may be biased or allowed": "sampling::test_any_number_of_ids_may_be_named",
    "unknown paths and methods get the error object": "errors::test_what_is_not_here",
    "each model has a path": "errors::test_a_card_of_its_own_for_each_model",
    "with keys every path but those of health needs one": "errors::test_the_key_comes_before_everything_else",
}


def test_every_field_has_its_row():
    rows = [field for fields in FIELDS.values() for field in fields.split()]
    assert sorted(rows) == sorted(ChatRequest.model_fields)


@pytest.mark.parametrize(("test", "fields"), FIELDS.items())
def test_every_row_is_shown_by_a_test_that_speaks_of_it(test, fields):
    assert all(re.search(rf"\b{field}\b", source(test)) for field in fields.split()), test


@pytest.mark.parametrize("rule", UNLIKE_VLLM)
def test_every_difference_is_shown(rule):
    assert source(UNLIKE_VLLM[rule])
