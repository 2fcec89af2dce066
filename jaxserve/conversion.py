"""convert_model: a checkpoint written anew, as leaves that any number of devices read at once, or as safetensors."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxserve.config import DEFAULT_MODEL, DEFAULT_MODEL_GENERATION, QuantizationChoice
from jaxserve.engine.weight_form import find_block_kinds, find_kinds
from jaxserve.errors import BadConfig
from jaxserve.layers.block_forms import PackedKind
from jaxserve.layers.param_spec import ParamPath, ParamSpec
from jaxserve.layers.quant import PackedWeight
from jaxserve.model_files import blame_model_files
from jaxserve.models.registry import abstract_params, find_architecture
from jaxserve.new_directory import check_destination, make_directory
from jaxserve.text.tokenizer_writer import write_tokenizer
from jaxserve.weights import orbax_writer, safetensors_writer
from jaxserve.weights.checkpoint import open_checkpoint
from jaxserve.weights.fetch import ProgressCallback, resolve_model
from jaxserve.weights.load import check_checkpoint, find_origin, param_name, read_param, release_param
from jaxserve.weights.orbax import OrbaxCheckpoint, PackedLeaf
from jaxserve.weights.pending import PendingTensor
from jaxserve.weights.protocol import Checkpoint
from jaxserve.weights.quantization_methods import without_config
from jaxserve.weights.quantized import QuantizedCheckpoint
from jaxserve.weights.source_tensors import list_source_tensors, stored_dtype

Format: TypeAlias = Literal["orbax", "safetensors"]
DTypeChoice: TypeAlias = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True, slots=True)
class Conversion:
    """The result of a conversion.

    path          The directory, which can be served.
    format        Its format.
    num_bytes     The bytes of its weights.
    num_packed    The number of packed matrices among them.
    """

    path: Path
    format: Format
    num_bytes: int
    num_packed: int


def convert_model(
    model: str,
    destination: str | Path,
    *,
    format: Format | None = None,
    quantization: QuantizationChoice = "auto",
    dtype: DTypeChoice = "auto",
    revision: str | None = None,
    download_dir: str | None = None,
    token: str | None = None,
    progress: ProgressCallback | None = None,
) -> Conversion:
    """Write a model into a directory from which it can be served: weights, configuration, tokenizer and templates.

    The directory appears when all of it is written. No device is used, and memory holds a few weights at a time.

    model          a directory, a .gguf file, a hub id, or the default model's name
    destination    a directory that does not exist yet or is empty
    format         orbax: leaves as the network uses them, packed or not; safetensors: tensors as Hugging Face has
                   them, never packed. By default orbax, or safetensors if the destination's name ends so.
    quantization   int8 and int4 pack; auto keeps the codes of a quantised checkpoint and, unless dtype is bfloat16,
                   the blocks of a .gguf file; none unpacks; blocks is refused where there are none
    dtype          the type of what is not packed; auto keeps the types of the values
    revision       branch, tag or commit of a hub model
    download_dir   directory for fetched models; None is the user's cache directory
    token          token for the hub
    progress       called with (phase, done, total)

    Raises BadConfig for a destination that is not empty and for settings that contradict each other, other
    StartupErrors for a model that cannot be fetched, read or written.
    """
    path = Path(destination).expanduser()
    format = format or ("safetensors" if path.name.endswith("safetensors") else "orbax")
    if format == "safetensors" and quantization not in ("auto", "none"):
        raise BadConfig(f"quantization={quantization!r} packs, and safetensors are not packed; leave it out, or --to.")
    if quantization == "fp8":
        raise BadConfig("quantization='fp8' rounds weights while they are loaded; convert without it, serve with it.")
    check_destination(path)
    source = resolve_model(model, revision=revision, download_dir=download_dir, token=token, progress=progress)
    checkpoint = open_checkpoint(source)
    params = _read_params(checkpoint)
    stored_type = None if dtype == "auto" else np.dtype(jnp.dtype(dtype))
    packed: dict[str, PackedLeaf] = {}
    if format == "orbax":
        targets = _choose_targets(checkpoint, params, quantization, stored_type)
        tensors = [_make_pending(checkpoint, leaf, params[leaf], target) for leaf, target in targets.items()]
        packed = {param_name(p): _describe(p, t) for p, t in targets.items() if isinstance(t, PackedWeight)}
    else:
        tensors = list_source_tensors(checkpoint, params, stored_type)
    num_bytes = sum(tensor.nbytes for tensor in tensors)
    with make_directory(path, num_bytes) as directory:
        if format == "orbax":
            orbax_writer.write_weights(directory, tensors, packed, progress)
        else:
            safetensors_writer.write_tensors(directory, tensors, progress)
        defaults = DEFAULT_MODEL_GENERATION if model == DEFAULT_MODEL else {}
        _write_json(directory / "config.json", without_config(checkpoint.config))
        _write_json(directory / "generation_config.json", defaults | checkpoint.generation_config)
        write_tokenizer(source, directory)
    return Conversion(path, format, num_bytes, len(packed))


def _read_params(checkpoint: Checkpoint) -> dict[ParamPath, ParamSpec]:
    """Return the weights of the network, after it was checked that the checkpoint has them."""
    with blame_model_files("config.json"):
        architecture = find_architecture(checkpoint.config)
        spec = architecture.spec(checkpoint.config, "config.json")
    params = architecture.params(spec)
    check_checkpoint(checkpoint, params, ignored=architecture.ignored_tensors(spec))
    return params


def _choose_targets(
    checkpoint: Checkpoint,
    params: Mapping[ParamPath, ParamSpec],
    quantization: QuantizationChoice,
    dtype: np.dtype | None,
) -> dict[ParamPath, Any]:
    """Return shape and type of every leaf as it is stored, or how it is packed."""
    kinds = None
    if quantization == "auto":
        kinds = _find_kept_kinds(checkpoint, params, dtype)
        quantization = "int8" if kinds else "none"  # each has its own kind
    elif quantization == "blocks":
        kinds = find_block_kinds(checkpoint, params)
        if not kinds:
            raise BadConfig(f"quantization='blocks' keeps those of a .gguf file, and {checkpoint.path.name} has none.")
    shapes = abstract_params(params, dtype or np.float32, quantization, kinds)
    if dtype is not None:
        return dict(shapes)

    def keep_type(path: ParamPath, target: Any) -> Any:
        if isinstance(target, PackedWeight):
            return target
        sources = find_origin(checkpoint, path, params[path]).sources
        stored = stored_dtype([checkpoint.tensors[source.name].dtype for source in sources])
        return jax.ShapeDtypeStruct(target.shape, stored)

    return {path: keep_type(path, target) for path, target in shapes.items()}


def _find_kept_kinds(
    checkpoint: Checkpoint, params: Mapping[ParamPath, ParamSpec], dtype: np.dtype | None
) -> dict[ParamPath, PackedKind]:
    """Return the weights that keep their codes, as `auto` keeps them when the model is served on a CPU."""
    if isinstance(checkpoint, QuantizedCheckpoint | OrbaxCheckpoint):
        return find_kinds(checkpoint, params)
    is_multiplied = dtype is None or dtype == np.float32  # with other activations blocks would be unpacked
    return find_block_kinds(checkpoint, params) if is_multiplied else {}


def _make_pending(checkpoint: Checkpoint, path: ParamPath, param: ParamSpec, target: Any) -> PendingTensor:
    def make() -> np.ndarray:
        values = read_param(checkpoint, path, param, target)
        release_param(checkpoint, path, param)
        return values

    data = target.data if isinstance(target, PackedWeight) else target
    return PendingTensor(param_name(path), tuple(data.shape), np.dtype(data.dtype), make)


def _describe(path: ParamPath, weight: PackedWeight) -> PackedLeaf:
    experts = weight.data.shape[:-3]
    return PackedLeaf(
        weight.kind, weight.width_in, weight.width_out, experts[0] if experts else None, path[-1] == "table"
    )


def _write_json(file: Path, value: dict[str, Any]) -> None:
    file.write_text(json.dumps(value, indent=2), encoding="utf-8")
