"""Reader of PEFT's LoRA adapters: a directory with adapter_config.json and adapter_model.safetensors.

Tensors are named after the modules of the model that was trained, so they are found by the names that the weights have
in checkpoints (ParamSpec.origins): a module that is fused, such as Phi's qkv_proj, changes each of the matrices that
are its rows. Everything is checked before an adapter is returned: a tensor that nothing reads is refused by its name.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import numpy as np

from jaxserve.errors import BadCheckpoint
from jaxserve.layers.adapter import Adapter, LowRankFactors, is_adaptable
from jaxserve.layers.param_spec import ParamPath, ParamSpec, Part, Source
from jaxserve.weights.mapped_file import MappedFile
from jaxserve.weights.peft_config import CONFIG_FILE, PeftConfig, read_peft_config
from jaxserve.weights.safetensors import StoredTensor, read_file

TENSOR_FILE = "adapter_model.safetensors"
_FACTOR_NAME = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")
# Beginnings of the names of layers in the model classes of transformers: the text model alone, and in wrappers.
_LAYER_NAME = re.compile(
    r"(?:model\.|language_model\.model\.|model\.language_model\.|model\.model\.|transformer\.|gpt_neox\.)?(layers\..+)"
)
_REASONS = (  # what a tensor's name holds → why it is refused
    ("lora_magnitude_vector", "DoRA is not served"),
    ("lora_embedding", "changed token embeddings are not served"),
    ("embed_tokens", "changed token embeddings are not served"),
    ("lm_head", "a changed output table is not served"),
    ("modules_to_save", "modules that are replaced as a whole are not served"),
    (".experts", "changed experts are not served"),
    (".bias", "biases of an adapter are not served"),
)
_ADVICE = "merge the adapter into the model and serve that"


@dataclass(frozen=True, slots=True)
class _Module:
    """A module of an adapter, with its two tensors, [rank, in] and [out, rank]."""

    name: str
    a: StoredTensor
    b: StoredTensor


def read_adapter(directory: Path, name: str, params: Mapping[ParamPath, ParamSpec], max_rank: int) -> Adapter:
    """Read an adapter.

    directory   Where its two files are.
    name        Its name.
    params      The weights of the model.
    max_rank    The largest rank that is served.

    Raises BadCheckpoint if a file is missing or damaged, or changes something that is not served or not there.
    """
    if not directory.is_dir():
        raise BadCheckpoint(f"{directory} is no directory; name that of an adapter's files.")
    config = read_peft_config(directory)
    if config.max_rank > max_rank:
        raise BadCheckpoint(
            f"{config.path} has rank {config.max_rank}, more than max_lora_rank={max_rank};"
            f" start with --max-lora-rank {config.max_rank}."
        )
    file = directory / TENSOR_FILE
    if not file.exists() and (directory / "adapter_model.bin").exists():
        raise BadCheckpoint(f"{directory} has adapter_model.bin, which could run code; save it as {TENSOR_FILE}.")
    modules = _find_modules(file, read_file(file))
    places = _find_places(params)
    factors: dict[ParamPath, LowRankFactors] = {}
    for module in modules:
        for path, change in _read_module(file, module, config, places):
            if path in factors:
                raise BadCheckpoint(
                    f"{file} changes {'.'.join(map(str, path))} twice, the second time by {module.name}."
                )
            factors[path] = change
    _check_targets(config, modules)
    return Adapter(name, _hash_files(directory), config.max_rank, factors)


def _find_modules(file: Path, tensors: Mapping[str, StoredTensor]) -> list[_Module]:
    """Return the modules of a file, each of which has two tensors. Raises BadCheckpoint for any other tensor."""
    pairs: dict[str, dict[str, StoredTensor]] = {}
    for name, tensor in tensors.items():
        match = _FACTOR_NAME.fullmatch(name)
        if match is None:
            raise _refuse_tensor(file, name)
        pairs.setdefault(match[1], {})[match[2]] = tensor
    if not pairs:
        raise BadCheckpoint(f"{file} has no tensors.")
    for name, pair in pairs.items():
        if len(pair) < 2:
            lacking = "B" if "A" in pair else "A"
            raise BadCheckpoint(f"{file} lacks tensor 'base_model.model.{name[:200]}.lora_{lacking}.weight'.")
    return [_Module(name, pair["A"], pair["B"]) for name, pair in pairs.items()]


def _check_targets(config: PeftConfig, modules: list[_Module]) -> None:
    """Check that a file that was cut short or put together wrongly is noticed: each listed target has a tensor."""
    for target in config.targets:
        if not any(module.name == target or module.name.endswith(f".{target}") for module in modules):
            raise BadCheckpoint(
                f"{config.path} has {target[:200]!r} among its target_modules, and {TENSOR_FILE} no tensor of it."
            )


def _find_places(params: Mapping[ParamPath, ParamSpec]) -> dict[str, list[tuple[ParamPath, Source]]]:
    """Return by the name of a module, from `layers.` on, the matrices that it holds, with their rows of its outputs."""
    places: dict[str, list[tuple[ParamPath, Source]]] = {}
    for path, param in params.items():
        if not is_adaptable(path):
            continue
        known: set[str] = set()
        for origin in param.origins:
            [source] = origin.sources
            name = _LAYER_NAME.fullmatch(source.name.removesuffix(".weight"))
            if name is not None and name[1] not in known:
                known.add(name[1])
                places.setdefault(name[1], []).append((path, source))
    return places


def _read_module(
    file: Path, module: _Module, config: PeftConfig, places: Mapping[str, list[tuple[ParamPath, Source]]]
) -> Iterator[tuple[ParamPath, LowRankFactors]]:
    """Yield the changes of each matrix that a module holds."""
    name = _LAYER_NAME.fullmatch(module.name)
    found = places.get(name[1], []) if name is not None else []
    if not found:
        raise _refuse_tensor(file, module.name)
    rank = config.get_rank(module.name)
    down_IR, up = _read_values(file, module, "A", module.a).T, _read_values(file, module, "B", module.b)
    up = up * np.float32(config.get_scale(module.name))

    def read_part(_: str, part: Part) -> np.ndarray:
        return up[part]

    for path, source in found:
        width_out, width_in = source.shape
        expected = (rank, width_in), (width_out, rank)
        if (module.a.info.shape, module.b.info.shape) != expected:
            raise BadCheckpoint(
                f"{file}: the tensors of {module.name[:200]} have shapes {module.a.info.shape} and"
                f" {module.b.info.shape}; the model and r={rank} ask for {expected[0]} and {expected[1]}."
            )
        up_RO = replace(source, shape=(width_out, rank)).read(read_part)
        yield path, LowRankFactors(np.ascontiguousarray(down_IR), np.ascontiguousarray(up_RO))


def _read_values(file: Path, module: _Module, side: str, tensor: StoredTensor) -> np.ndarray:
    """Return a tensor as float32."""
    where = f"{file}: tensor 'base_model.model.{module.name[:200]}.lora_{side}.weight'"
    if tensor.info.dtype.kind not in "fV" or tensor.info.dtype.itemsize < 2 or len(tensor.info.shape) != 2:
        raise BadCheckpoint(f"{where} is {tensor.info.dtype} of shape {tensor.info.shape}, and no matrix of floats.")
    values = tensor.file.view(tensor.offset, tensor.info.shape, tensor.info.dtype).astype(np.float32)
    if not np.isfinite(values).all():
        raise BadCheckpoint(f"{where} holds numbers that are not finite.")
    return values


def _refuse_tensor(file: Path, name: str) -> BadCheckpoint:
    reason = next((reason for part, reason in _REASONS if part in name), None)
    if reason is not None:
        return BadCheckpoint(f"{file} has {name[:200]!r}: {reason}; {_ADVICE}.")
    return BadCheckpoint(f"{file} has {name[:200]!r}, which is no matrix that an adapter of this model may change.")


def _hash_files(directory: Path) -> str:
    """Return a hash of both files: adapters of one hash change the model alike."""
    digest = sha256()
    for name in (CONFIG_FILE, TENSOR_FILE):
        file = MappedFile(directory / name)
        digest.update(file.num_bytes.to_bytes(8, "little"))
        digest.update(file.buffer)
    return digest.hexdigest()
