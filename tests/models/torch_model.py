"""transformers' own network over the same weights, on torch, float32: the reference we are held to."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

LLAMA_NAMES = {  # of InternLM 2's tensors, which transformers has no class for
    "model.tok_embeddings": "model.embed_tokens",
    "output.": "lm_head.",
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w3": "mlp.up_proj",
    "feed_forward.w2": "mlp.down_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}


def as_llama(
    config: Mapping[str, Any], weights: Mapping[str, np.ndarray]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """InternLM 2 as the Llama that it is: its authors publish a script for this."""
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    size, renamed = config["hidden_size"] // heads, {}
    for name, array in weights.items():
        for old, new in LLAMA_NAMES.items():
            name = name.replace(old, new)
        if "attention.wqkv" not in name:
            renamed[name] = array
            continue
        by_head = array.reshape(kv_heads, heads // kv_heads + 2, size, *array.shape[1:])
        for part, rows in {"q": slice(-2), "k": slice(-2, -1), "v": slice(-1, None)}.items():
            own = by_head[:, rows].reshape(-1, *array.shape[1:])
            renamed[name.replace("attention.wqkv", f"self_attn.{part}_proj")] = own
    bias = config["bias"]
    own = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "rope_scaling": None, "attention_bias": bias}
    return {key: value for key, value in config.items() if key != "bias"} | own, renamed


class TorchModel:
    def __init__(self, config: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> None:
        if config["model_type"] == "internlm2":
            config, weights = as_llama(config, weights)
        own = {key: value for key, value in deepcopy(dict(config)).items() if key != "model_type"}  # rope is changed
        hf_config = AutoConfig.for_model(config["model_type"], **own)
        state = {name: torch.from_numpy(np.array(array, np.float32)) for name, array in weights.items()}
        # Not load_state_dict: a checkpoint's names and layouts are not always those of the modules.
        model_class: Any = AutoModelForCausalLM._model_mapping[type(hf_config)]
        self.model, report = model_class.from_pretrained(
            None,
            config=hf_config,
            state_dict=state,
            dtype=torch.float32,
            attn_implementation="eager",
            output_loading_info=True,
        )
        assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
        self.model.eval()

    @torch.inference_mode()
    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        """float32 [S, V]."""
        return self.model(torch.tensor([list(tokens)])).logits[0].numpy()

    @torch.inference_mode()
    def experts(self, tokens: Sequence[int]) -> np.ndarray:
        """[S, L, K]: the experts that its routers choose; zeros in layers that have none."""
        chosen: dict[int, np.ndarray] = {}
        hooks = []
        for index, layer in enumerate(self.model.model.layers):
            for module in layer.modules():
                if type(module).__name__.lower().endswith("router"):

                    def keep(_: Any, __: Any, output: Any, index: int = index) -> None:
                        chosen[index] = output[-1].numpy()

                    hooks.append(module.register_forward_hook(keep))
        self.logits(tokens)
        for hook in hooks:
            hook.remove()
        nothing = np.zeros_like(next(iter(chosen.values())))
        return np.stack([chosen.get(index, nothing) for index in range(len(self.model.model.layers))], axis=1)

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
