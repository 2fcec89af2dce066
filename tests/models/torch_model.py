"""transformers' own network over the same weights, on torch, float32: the reference we are held to."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM


class TorchModel:
    def __init__(self, config: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> None:
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
