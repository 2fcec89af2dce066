"""Adapters in PEFT's form with random factors, and the models that they are merged into: the oracle of a served one."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

ALL_LINEAR = re.compile(r".*\.layers\.\d+\.(?!.*(router|experts|gate\.weight|norm)).*_proj\.weight")
ALPHA = 16


@dataclass(frozen=True)
class WrittenAdapter:
    """An adapter on disk: its directory, and what it adds to each tensor of the model."""

    directory: Path
    changes: Mapping[str, np.ndarray]

    def merge(self, weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the weights of the model that the adapter makes of these."""
        assert self.changes.keys() <= weights.keys()
        return {name: value + self.changes.get(name, np.float32(0)) for name, value in weights.items()}


def write_adapter(
    directory: Path,
    weights: Mapping[str, np.ndarray],
    *,
    rank: int = 4,
    modules: Callable[[str], Any] = ALL_LINEAR.fullmatch,
    seed: int = 0,
    size: float = 0.3,
    dtype: Any = np.float32,
    rank_of: Callable[[str], int] | None = None,
    scale_of: Callable[[str], float] | None = None,
    **config: Any,
) -> WrittenAdapter:
    """Write an adapter of the tensors of a model whose names `modules` accepts.

    rank_of, scale_of   of a module, where config has patterns; else `rank`, and ALPHA / rank
    size                of the numbers of B
    config              further keys of adapter_config.json
    """
    directory.mkdir(parents=True, exist_ok=True)
    rng, tensors, changes = np.random.default_rng(seed), {}, {}
    for name in sorted(filter(modules, weights)):
        module, (width_out, width_in) = name.removesuffix(".weight"), weights[name].shape
        module_rank = rank if rank_of is None else rank_of(module)
        scale = ALPHA / module_rank if scale_of is None else scale_of(module)
        a = (rng.normal(size=(module_rank, width_in)) / np.sqrt(width_in)).astype(dtype)
        b = (rng.normal(size=(width_out, module_rank)) * size / np.sqrt(module_rank)).astype(dtype)
        tensors |= {f"base_model.model.{module}.lora_A.weight": a, f"base_model.model.{module}.lora_B.weight": b}
        changes[name] = (scale * b.astype(np.float64) @ a.astype(np.float64)).astype(np.float32)
    save_file(tensors, directory / "adapter_model.safetensors")
    write_config(directory, r=rank, target_modules=list_targets(changes), **config)
    return WrittenAdapter(directory, changes)


def list_targets(names: Iterable[str]) -> list[str]:
    """Return the last names of modules, as a target_modules of PEFT lists them."""
    return sorted({name.removesuffix(".weight").rpartition(".")[2] for name in names})


def write_config(directory: Path, **config: Any) -> None:
    """Write an adapter_config.json with the keys that PEFT writes."""
    keys = {
        **{"alpha_pattern": {}, "auto_mapping": None, "base_model_name_or_path": "org/base", "bias": "none"},
        **{"fan_in_fan_out": False, "inference_mode": True, "init_lora_weights": True, "layer_replication": None},
        **{"layers_pattern": None, "layers_to_transform": None, "loftq_config": {}, "lora_alpha": ALPHA},
        **{"lora_dropout": 0.05, "megatron_config": None, "megatron_core": "megatron.core", "modules_to_save": None},
        **{"peft_type": "LORA", "r": 4, "rank_pattern": {}, "revision": None, "target_modules": ["q_proj"]},
        **{"task_type": "CAUSAL_LM", "use_dora": False, "use_rslora": False},
    }
    (directory / "adapter_config.json").write_text(json.dumps(keys | config))
