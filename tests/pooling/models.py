"""Tiny checkpoints of models that pool, as transformers and sentence-transformers write them, and torch's results."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
import transformers
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from jaxserve.attention.inputs import PAGE_SIZE
from jaxserve.attention.reference import ReferenceAttention
from jaxserve.config import EngineConfig
from jaxserve.engine.opened_model import open_model
from jaxserve.engine.pooling_step import NUM_LENGTHS, PoolingContext, pool_sequences
from jaxserve.engine.step import ModelContext
from jaxserve.engine.weight_layout import WeightLayout
from jaxserve.weights.load import load_params
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
MODERNBERT = {
    "vocab_size": 80,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 72,
    "local_attention": 8,
    "initializer_range": 0.4,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "cls_token_id": 2,
    "sep_token_id": 3,
}
GEMMA3 = {
    "vocab_size": 300,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 48,
    "max_position_embeddings": 256,
    "sliding_window": 8,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
    "use_bidirectional_attention": True,
    "initializer_range": 0.3,
}
SIZES = {"DistilBert": {"vocab_size": 80, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48}}
SIZES["DistilBert"] |= {"initializer_range": 0.4, "max_position_embeddings": 72}
SIZES |= {"Qwen3": QWEN3, "ModernBert": MODERNBERT, "Gemma3Text": GEMMA3}


def write_modules(
    directory: Path,
    pooling: str | None,
    *,
    dense: Sequence[tuple[dict[str, Any], dict[str, np.ndarray]] | None] = (),
    normalizes: bool = False,
    **settings: Any,
) -> None:
    """Write the files of sentence-transformers.

    pooling   the switch in 1_Pooling/config.json that is on
    dense     modules behind it: config.json and tensors of a Dense, None: a Normalize
    """
    kinds = [
        "Transformer",
        *(["Pooling"] if pooling else []),
        *("Normalize" if each is None else "Dense" for each in dense),
    ]
    kinds += ["Normalize"] if normalizes else []
    modules = [
        {"idx": index, "name": str(index), "path": f"{index}_{kind}" if index else "", "type": f"sentence.{kind}"}
        for index, kind in enumerate(kinds)
    ]
    (directory / "modules.json").write_text(json.dumps(modules))
    if pooling:
        (directory / "1_Pooling").mkdir()
        (directory / "1_Pooling" / "config.json").write_text(json.dumps({pooling: True, "include_prompt": True}))
    for index, module in enumerate(dense, 2):
        if module is not None:
            folder = directory / f"{index}_Dense"
            folder.mkdir()
            (folder / "config.json").write_text(json.dumps(module[0]))
            save_file(module[1], folder / "model.safetensors")
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
    sizes: dict[str, Any] = next((sizes for name, sizes in SIZES.items() if kind.startswith(name)), BERT)
    network = network_class(network_class.config_class(**{**sizes, **settings})).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.2)
            elif "norm" in name.lower():
                parameter.add_(torch.randn_like(parameter) * 0.2)
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


def pool_whole(path: Path, prompts: Sequence[Sequence[int]], **settings: Any) -> np.ndarray:
    """What a model whose tokens see all others pools of each prompt, in one call and without an engine."""
    model = open_model(EngineConfig(model=str(path), **settings), None, None, None)
    assert model.task is not None and model.task.is_encoder
    layout, length = WeightLayout.from_shapes(model.shapes), max(map(len, prompts)) + 3
    context = PoolingContext(
        ModelContext(model.spec, model.dtype, layout, ReferenceAttention(), PAGE_SIZE, ()), model.task.spec
    )
    buffer_BX = np.zeros((len(prompts), length + NUM_LENGTHS), np.int32)
    for row, ids in enumerate(prompts):
        buffer_BX[row, : len(ids)], buffer_BX[row, -2:] = ids, len(ids)
    weights = layout.pack(load_params(model.checkpoint, model.leaves, model.shapes))
    return np.asarray(jax.jit(partial(pool_sequences, context))(weights, buffer_BX))
