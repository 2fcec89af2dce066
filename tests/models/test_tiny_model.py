"""scripts/make_tiny_model writes what others can read: transformers the whole directory, we our part of it."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from jaxserve.models import registry
from jaxserve.weights.checkpoint import open_checkpoint
from jaxserve.weights.load import load_params
from tests.models.paged import Paged
from tests.models.tiny import random_weights, tiny_config, write


@pytest.mark.parametrize("architecture", ["llama", "mistral", "qwen2", "qwen3"])
def test_transformers_and_we_read_the_same_model_from_the_directory(architecture, tmp_path):
    directory = write(tmp_path / architecture, architecture)
    theirs = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    checkpoint = open_checkpoint(directory)
    translator = registry.find_architecture(checkpoint.config)
    spec = translator.spec(checkpoint.config)
    leaves = load_params(checkpoint, translator.params(spec), registry.abstract_decoder(spec, jnp.float32)[1])
    tokens = list(range(0, 260, 9))
    with torch.inference_mode():
        expected = theirs(torch.tensor([tokens])).logits[0].numpy()
    assert np.abs(Paged(spec, leaves).feed(tokens)[0] - expected).max() < 1e-4


def test_the_tokenizer_turns_bytes_into_themselves_and_back(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(write(tmp_path))
    text = "Naïve – 漢字 🙂\tand\n\x00more"
    assert tokenizer.encode(text) == list(text.encode())
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_chat_template_frames_turns_with_special_tokens(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(write(tmp_path))
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], add_generation_prompt=True, return_dict=False
    )
    assert ids == [256, *b"user\nHi", 257, 10, 256, *b"assistant\n"]
    assert tokenizer.eos_token_id == json.loads((tmp_path / "config.json").read_text())["eos_token_id"] == 257


def test_a_seed_always_gives_the_same_weights():
    one, same, other = (random_weights(tiny_config("llama"), seed) for seed in (0, 0, 1))
    assert all((one[name] == same[name]).all() for name in one)
    assert not any((one[name] == other[name]).all() for name in one)
