"""Opening of a model: its files, its architecture and its devices, before anything large is read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxserve.config import EngineConfig
from jaxserve.engine.compile import ProgressCallback
from jaxserve.engine.gguf_pooling import read_gguf_pooling
from jaxserve.engine.pooling_files import count_labels, find_task
from jaxserve.engine.sentence_transformers import read_files
from jaxserve.engine.weight_form import WeightForm, choose_requested, choose_weight_form
from jaxserve.errors import BadConfig
from jaxserve.layers.param_spec import ParamPath, ParamSpec
from jaxserve.model_files import blame_model_files
from jaxserve.models.architecture import Architecture
from jaxserve.models.encoder_spec import EncoderSpec
from jaxserve.models.encoders import find_pooled
from jaxserve.models.partition import check_partition, place_params
from jaxserve.models.pooling_spec import PoolingTask
from jaxserve.models.registry import abstract_params, find_architecture
from jaxserve.models.spec import DecoderSpec
from jaxserve.parallel.placement import Placement, choose_placements
from jaxserve.parallel.sharding import shard_bytes
from jaxserve.weights.checkpoint import open_checkpoint
from jaxserve.weights.fetch import resolve_model
from jaxserve.weights.load import check_checkpoint
from jaxserve.weights.protocol import Checkpoint, holds_blocks


@dataclass(frozen=True, slots=True)
class OpenedModel:
    """A model whose checkpoint, architecture and devices fit together.

    path           The directory or file of the model.
    checkpoint     Its tensors.
    config         config.json with the overrides of hf_overrides.
    architecture   Its network, weights and caches.
    spec           The sizes of the architecture.
    placement      The devices.
    dtype          The dtype of the activations.
    leaves         The weights and their origins in checkpoints.
    shapes         The shapes of the weights on the devices.
    weight_form    How the weights are packed.
    task           What it pools for; None: it generates.
    """

    path: Path
    checkpoint: Checkpoint
    config: dict[str, Any]
    architecture: Architecture
    spec: DecoderSpec
    placement: Placement
    dtype: np.dtype
    leaves: dict[ParamPath, ParamSpec]
    shapes: dict[ParamPath, Any]
    weight_form: WeightForm
    task: PoolingTask | None = None

    @property
    def weight_bytes(self) -> int:
        """The bytes of the weights on one device."""
        return sum(shard_bytes(leaf) for leaf in jax.tree.leaves(self.shapes))


def open_model(
    config: EngineConfig,
    placement: Placement | None,
    progress: ProgressCallback | None,
    on_path: Callable[[Path], None] | None,
) -> OpenedModel:
    """Fetch a model, and check that it, its files and its devices fit together.

    placement   The devices; None: those of the first replica.
    on_path     Called with the model's path as soon as it is known.

    Raises StartupError if it cannot be fetched or its parts do not fit.
    """
    placement = placement or choose_placements(config)[0]
    dtype = _dtype(config, placement.platform)
    if config.quantization != "auto":
        choose_requested(config.quantization, placement, dtype)  # so that a fault is known before anything is fetched
    path = resolve_model(
        config.model,
        revision=config.revision,
        download_dir=_to_path(config.download_dir),
        token=config.hf_token,
        progress=progress,
    )
    if on_path:
        on_path(path)
    with blame_model_files("modules.json"):
        files = read_files(path)
    checkpoint = open_checkpoint(path, folders=[module.folder for module in files.modules])
    if holds_blocks(checkpoint) and not files.is_there:
        files = read_gguf_pooling(checkpoint.path)
    model_config = merge_overrides(checkpoint.config, config.hf_overrides or {})
    config_name = f"config.json, made from {checkpoint.path.name}" if holds_blocks(checkpoint) else "config.json"
    with blame_model_files(config_name):
        task = find_task(config, model_config, files, path)
        architecture = _find_architecture(model_config, task)
        spec = architecture.spec(model_config, config_name)
    _check_size(spec, placement)
    leaves = architecture.params(spec)
    form = choose_weight_form(config, checkpoint, leaves, spec, placement, dtype)
    _check_division(spec, placement, form)
    abstract = abstract_params(leaves, dtype, form.quantization, form.kinds, form.scaled)
    shapes = place_params(abstract, leaves, spec, placement)
    unread = {f"{module.folder}/*" for module in files.modules}
    check_checkpoint(checkpoint, leaves, ignored=architecture.ignored_tensors(spec) | unread)
    return OpenedModel(path, checkpoint, model_config, architecture, spec, placement, dtype, leaves, shapes, form, task)


def _find_architecture(model_config: Mapping[str, Any], task: PoolingTask | None) -> Any:
    """Return the Architecture of a model: one of its specs is that of a decoder or of an encoder."""
    if task is None:
        return find_architecture(model_config)
    needs_head = task.spec.answer_ids is not None
    return find_pooled(model_config, count_labels(task), task.modules, needs_head=needs_head)


def _check_size(spec: Any, placement: Placement) -> None:
    """Raise BadConfig for a model whose tokens see all others on several devices, which nothing divides."""
    if placement.size > 1 and (isinstance(spec, EncoderSpec) or spec.is_bidirectional):
        raise BadConfig(f"tensor_parallel_size={placement.size} is for decoders; {spec.architecture_name} takes 1.")


def _check_division(spec: Any, placement: Placement, form: WeightForm) -> None:
    """Raise BadConfig if the devices cannot hold a decoder together."""
    if not isinstance(spec, EncoderSpec):
        check_partition(spec, placement.ranks, form.quantization if form.scaled is None else "none")


def merge_overrides(model_config: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return config.json with the overrides merged into it, level by level; None removes a key."""
    merged = dict(model_config)
    for key, value in overrides.items():
        current = merged.get(key)
        if value is None:
            merged.pop(key, None)
        elif isinstance(current, dict) and isinstance(value, dict):
            merged[key] = merge_overrides(current, value)
        else:
            merged[key] = value
    return merged


def _dtype(config: EngineConfig, platform: str) -> np.dtype:
    """Return the dtype: by default float32 on CPUs, else bfloat16.

    AVX2 has no bfloat16 products, so bfloat16 is up to ten times slower on CPUs.
    """
    name = config.dtype if config.dtype != "auto" else ("float32" if platform == "cpu" else "bfloat16")
    return np.dtype(jnp.dtype(name))


def _to_path(text: str | None) -> Path | None:
    return Path(text) if text else None
