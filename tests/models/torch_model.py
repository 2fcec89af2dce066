"""transformers' own network over the same weights, on torch, float32: the reference we are held to."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

CLASSES: dict[str, tuple[type[PreTrainedConfig], type]] = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "mistral": (MistralConfig, MistralForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}


class TorchModel:
    def __init__(self, config: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> None:
        config_class, model_class = CLASSES[config["model_type"]]
        with torch.device("meta"):
            self.model = model_class(config_class(**config))
        state = {name: torch.from_numpy(np.array(array, np.float32)) for name, array in weights.items()}
        if config.get("tie_word_embeddings"):
            state["lm_head.weight"] = state["model.embed_tokens.weight"]
        self.model.load_state_dict(state, strict=True, assign=True)
        rotary = self.model.model.rotary_emb  # not in any checkpoint, so the meta device left it empty
        self.model.model.rotary_emb = type(rotary)(config=self.model.config)
        self.model.eval()

    @torch.inference_mode()
    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        """float32 [S, V]."""
        return self.model(torch.tensor([list(tokens)])).logits[0].numpy()

    @torch.inference_mode()
    def greedy(self, tokens: Sequence[int], count: int) -> list[int]:
        """The next `count` best tokens, through transformers' own generate, never stopping early."""
        out = self.model.generate(
            torch.tensor([list(tokens)]),
            attention_mask=torch.ones(1, len(tokens), dtype=torch.long),
            max_new_tokens=count,
            min_new_tokens=count,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        return out[0, len(tokens) :].tolist()
