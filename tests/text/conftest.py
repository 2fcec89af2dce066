"""Fixtures: the tiny tokenizers. Random examples have no deadline, since a busy machine may take any time.

module → what proves it:

    chat_template, sandbox, bounded_filters, deadline, content_format → test_chat_template.py, test_sandbox.py,
        test_template_corpus.py
    template_text → test_template_text.py
    messages, tool_schemas → test_messages.py, test_tool_schemas.py
    prompts, request_template, size_limits → test_prompts.py
    prompt_borders → test_prompt_borders.py
    tokenizer, tokenizer_files, tokenizer_parts, tokenizer_conversion → test_tokenizer.py, test_tokenizer_forms.py
    added_tokens → test_added_tokens.py
    turn_ends → test_turn_ends.py
    tokenizer_writer → test_tokenizer_writer.py
    gguf_tokenizer, gguf_wordpiece, pretokenizers → test_gguf_tokenizer.py
    sentencepiece_model → test_sentencepiece_model.py
    tiktoken_files → test_tiktoken_files.py
    detokenizer, token_bytes → test_detokenizer.py
    bad_words → test_bad_words.py
    stop → test_stop.py
    stop_cursor → test_stop_cursor.py
    text_stream → test_text_stream.py
    detection, detection_patterns → test_detection.py, test_families.py
    dialects, dialect, dialect_parser, output_dialect → test_dialects.py, test_family_outputs.py, test_real_calls.py
    call_formats, call_deltas, escapes → test_call_grammars.py, test_valid_arguments.py, test_missing_markers.py,
        test_function_names.py
    output_parser → test_output_parser.py
    unmarked_calls, argument_check → test_unmarked_calls.py
    reasoning → test_reasoning.py, test_reasoning_dialects.py
    prompt_reasoning → test_prompt_reasoning.py
    response_template, response_regions → test_response_template.py
    text_buffer, incremental_json → test_text_buffer.py
"""

from pathlib import Path

import pytest
from hypothesis import settings

from jaxserve.text.tokenizer import Tokenizer
from tests.text.tiny_tokenizers import (
    TEMPLATE,
    byte_fallback_backend,
    byte_level_backend,
    make,
    words_backend,
    write_json,
)

settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return make(byte_level_backend(), "<|im_end|>")


@pytest.fixture(scope="session")
def fallback_tokenizer() -> Tokenizer:
    return make(byte_fallback_backend(), "</s>")


@pytest.fixture(scope="session")
def words_tokenizer() -> Tokenizer:
    return make(words_backend())


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory in Hugging Face layout with the byte-level tokenizer."""
    byte_level_backend().save(str(tmp_path / "tokenizer.json"))
    config = {"eos_token": {"content": "<|im_end|>"}, "pad_token": "<|endoftext|>", "chat_template": TEMPLATE}
    write_json(tmp_path, "tokenizer_config.json", config)
    return tmp_path
