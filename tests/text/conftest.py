"""Fixtures: the tiny tokenizers. Random examples have no deadline, since a busy machine may take any time."""

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
