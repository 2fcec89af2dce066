"""Tiny checkpoints of models that pool, as transformers and sentence-transformers write them, and torch's results."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from tests.models.tiny import write_tokenizer

WORDS = [f"w{number}" for number in range(60)]
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
BERT = {
    "vocab_size": 80,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 72,
    "initializer_range": 0.4,
}
QWEN3 = {
    "vocab_size": 300,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 48,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
}


def write_modules(directory: Path, pooling: str | None, *, normalizes: bool = False, **settings: Any) -> None:
    """Write the files of sentence-transformers. pooling: the switch in 1_Pooling/config.json that is on."""
    kinds = ["Transformer", *(["Pooling"] if pooling else []), *(["Normalize"] if normalizes else [])]
    modules = [
        {"idx": index, "name": str(index), "path": f"{index}_{kind}" if index else "", "type": f"sentence.{kind}"}
        for index, kind in enumerate(kinds)
    ]
    (directory / "modules.json").write_text(json.dumps(modules))
    if pooling:
        (directory / "1_Pooling").mkdir()
        (directory / "1_Pooling" / "config.json").write_text(json.dumps({pooling: True, "include_prompt": True}))
    (directory / "config_sentence_transformers.json").write_text(json.dumps(settings))


def write_word_tokenizer(directory: Path) -> None:
    """A word is a token; [CLS] stands before a text and [SEP] behind it, and the second of two has type 1."""
    vocab = {token: index for index, token in enumerate([*SPECIALS, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(directory / "tokenizer.json"))
    names = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    (directory / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizerFast", **names}))


def write_network(directory: Path, network: torch.nn.Module, *, is_encoder: bool) -> Path:
    """Write a network of transformers with a tokenizer."""
    network.save_pretrained(directory)
    if is_encoder:
        write_word_tokenizer(directory)
    else:
        write_tokenizer(directory)
    return directory


def make(kind: str, seed: int = 0, **settings: Any) -> Any:
    """A tiny network of random weights: the name of a class of transformers."""
    torch.manual_seed(seed)
    network_class = getattr(transformers, kind)
    if kind.startswith("Qwen3"):
        sizes: dict[str, Any] = QWEN3
    elif kind.startswith("DistilBert"):
        sizes = {"vocab_size": 80, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "initializer_range": 0.4}
        sizes["max_position_embeddings"] = 72
    else:
        sizes = BERT
    network = network_class(network_class.config_class(**{**sizes, **settings})).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.2)
    return network


def hidden_vectors(network: Any, token_ids: Sequence[int], second_start: int | None = None) -> np.ndarray:
    """What the body of a network makes of a sequence, [n, D]."""
    inputs: dict[str, Any] = {"input_ids": torch.tensor([list(token_ids)])}
    if second_start is not None:
        inputs["token_type_ids"] = torch.tensor([[int(index >= second_start) for index in range(len(token_ids))]])
    with torch.no_grad():
        return network(**inputs).last_hidden_state[0].numpy()


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector, axis=-1, keepdims=True)
