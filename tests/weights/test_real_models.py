"""The models people will use, as their authors describe them; and the small ones that other tests stand on."""

import json

import numpy as np
import pytest
from tokenizers import Tokenizer

from jaxserve.models import registry
from jaxserve.weights.checkpoint import open_checkpoint
from jaxserve.weights.load import check_checkpoint
from tests import assets

pytestmark = pytest.mark.assets


def checked(name: str):
    """Opens the model and holds its tensors to what its own config asks for."""
    checkpoint = open_checkpoint(assets.model(name))
    architecture = registry.find_architecture(checkpoint.config)
    spec = architecture.spec(checkpoint.config)
    check_checkpoint(checkpoint, architecture.params(spec), ignored=architecture.ignored_tensors(spec))
    return checkpoint


def test_smollm2_has_the_config_that_its_authors_published():
    config = checked("smollm2-135m-instruct").config
    published = {"hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3}
    published |= {"intermediate_size": 1536, "rope_theta": 100000.0, "rms_norm_eps": 1e-5, "vocab_size": 49152}
    published |= {"tie_word_embeddings": True, "max_position_embeddings": 8192, "bos_token_id": 1, "eos_token_id": 2}
    assert config | published == config


def test_qwen_coder_has_the_config_that_its_authors_published():
    checkpoint = checked("qwen2.5-coder-0.5b")
    published = {"hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2}
    published |= {"intermediate_size": 4864, "rope_theta": 1000000.0, "rms_norm_eps": 1e-6, "vocab_size": 151936}
    published |= {"architectures": ["Qwen2ForCausalLM"], "max_position_embeddings": 32768, "eos_token_id": 151645}
    assert checkpoint.config | published == checkpoint.config


def test_minimind_is_what_its_own_config_says():
    checkpoint = checked("minimind2-small")
    assert sum(np.prod(info.shape) for info in checkpoint.tensors.values()) == 25_829_888
    assert abs(checkpoint.read("model.embed_tokens.weight")).max() < 1


def test_the_storyteller_reads_with_llama_2s_vocabulary():
    checkpoint = checked("stories15m")
    tokenizer = Tokenizer.from_file(str(checkpoint.path / "tokenizer.json"))
    assert tokenizer.encode("Hello world").ids == [1, 15043, 3186]
    assert tokenizer.encode("Once upon a time").ids == [1, 9038, 2501, 263, 931]
    assert tokenizer.decode(tokenizer.encode("  naïve 🦙\n").ids) == "  naïve 🦙\n"
    assert json.loads((checkpoint.path / "tokenizer_config.json").read_text())["bos_token"] == "<s>"


def test_gemma_3_has_the_config_that_its_authors_published():
    config = checked("gemma-3-270m").config
    published = {"hidden_size": 640, "num_hidden_layers": 18, "num_attention_heads": 4, "num_key_value_heads": 1}
    published |= {"intermediate_size": 2048, "head_dim": 256, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-6}
    published |= {"rope_theta": 1000000.0, "rope_local_base_freq": 10000.0, "sliding_window": 512}
    published |= {"vocab_size": 262144, "tie_word_embeddings": True, "max_position_embeddings": 32768}
    published |= {"layer_types": ["full_attention" if layer % 6 == 5 else "sliding_attention" for layer in range(18)]}
    assert config | published == config
