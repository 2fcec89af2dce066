"""The table of fields covers the schemas exactly, so nothing can be ignored in silence."""

import pytest

from server.schemas.chat import ChatRequest
from server.schemas.completions import CompletionRequest
from server.schemas.support import CHAT, COMPLETIONS, Fate, as_markdown

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


@pytest.mark.parametrize(("schema", "table"), [(ChatRequest, CHAT), (CompletionRequest, COMPLETIONS)])
def test_every_field_has_its_line_and_every_line_its_field(schema, table):
    assert set(schema.model_fields) == set(table)


def test_the_chat_schema_has_every_field_of_the_contract():
    assert set(ChatRequest.model_fields) == set(CONTRACT.split())


def test_people_can_read_it():
    lines = as_markdown(CHAT).splitlines()
    assert len(lines) == len(CHAT) + 2
    assert "| `seed` | honoured | choice j draws with seed + j |" in lines


def test_what_does_nothing_says_why():
    assert all(one.note or name == "user" for name, one in CHAT.items() if one.fate is Fate.NO_EFFECT)
