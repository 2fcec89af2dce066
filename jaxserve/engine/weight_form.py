"""The form of the weights in memory: plain, packed as the settings ask, or with the codes that the file has.

With `auto`, what a quantised checkpoint holds as integers stays so where there are kernels for it. Of the weights only
scales are rounded, to float16; everything else is plain. What `jaxserve convert` has packed stays as it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from jaxserve.config import EngineConfig, Quantization
from jaxserve.errors import BadConfig
from jaxserve.layers.param_spec import ParamPath, ParamSpec
from jaxserve.layers.quant import PackedKind
from jaxserve.models.partition import check_partition
from jaxserve.models.spec import DecoderSpec
from jaxserve.native import library
from jaxserve.parallel.ranks import Ranks
from jaxserve.weights.load import find_origin
from jaxserve.weights.orbax import OrbaxCheckpoint
from jaxserve.weights.protocol import Checkpoint
from jaxserve.weights.quantized import QuantizedCheckpoint

# Platform → why integers of a checkpoint are unpacked there; platforms that are not here have kernels.
UNPACKED_PLATFORMS = {name: f"a {name} has no kernels for packed weights" for name in ("gpu", "cuda", "rocm", "tpu")}


@dataclass(frozen=True, slots=True)
class WeightForm:
    """The form of weights in memory.

    quantization   The kind of the packed ones.
    kinds          The weights that are packed, each with its kind; None: all that can be.
    reason         Why, for the start-up table; empty where nobody would ask.
    """

    quantization: Quantization
    kinds: Mapping[ParamPath, PackedKind] | None = None
    reason: str = ""


def choose_weight_form(
    config: EngineConfig,
    checkpoint: Checkpoint,
    params: Mapping[ParamPath, ParamSpec],
    spec: DecoderSpec,
    ranks: Ranks,
    platform: str,
    dtype: np.dtype,
) -> WeightForm:
    """Return the form that the settings ask for; with `auto` that of the file, or plain where that cannot be."""
    if config.quantization != "auto":
        return WeightForm(config.quantization)
    if not isinstance(checkpoint, QuantizedCheckpoint | OrbaxCheckpoint):
        return WeightForm("none")
    kinds = find_kinds(checkpoint, params)
    if not kinds and isinstance(checkpoint, OrbaxCheckpoint):
        return WeightForm("none")
    if not kinds:
        return WeightForm("none", reason="what is packed in the file are not integers in order")
    quantization: PackedKind = "int4" if "int4" in kinds.values() else "int8"
    reason = UNPACKED_PLATFORMS.get(platform)
    if reason is None and dtype != np.float32:
        reason = "products of packed weights are computed in float32"
    if reason is None and not library.is_usable():
        reason = "products of packed weights are slow for want of a C compiler"
    if reason is None:
        try:
            check_partition(spec, ranks, quantization)
        except BadConfig:
            reason = f"{ranks.size} devices would cut packed blocks"
    if reason is not None:
        return WeightForm("none", reason=reason)
    return WeightForm(quantization, None if _is_all(kinds, params, quantization) else kinds, "the codes of the file")


def _is_all(kinds: Mapping[ParamPath, PackedKind], params: Mapping[ParamPath, ParamSpec], kind: PackedKind) -> bool:
    """Return whether the weights are packed as if the settings had asked for this kind."""
    packable = (path for path, param in params.items() if param.is_packable)
    return all(kinds.get(path) == ("int8" if path[-1] == "table" else kind) for path in packable)


def find_kinds(
    checkpoint: QuantizedCheckpoint | OrbaxCheckpoint, params: Mapping[ParamPath, ParamSpec]
) -> dict[ParamPath, PackedKind]:
    """Return the weights that keep their codes. Those that are multiplied in one call do so together or not at all."""
    groups: dict[ParamPath, dict[ParamPath, PackedKind | None]] = {}
    for path, param in params.items():
        if param.is_packable:
            sources = find_origin(checkpoint, path, param).sources
            kinds: list[PackedKind | None] = [*{checkpoint.kind_of(source.name) for source in sources}]
            groups.setdefault(_call_of(path), {})[path] = kinds[0] if len(kinds) == 1 else None
    together = (group for group in groups.values() if len(set(group.values())) == 1)
    return {path: kind for group in together for path, kind in group.items() if kind is not None}


def _call_of(path: ParamPath) -> ParamPath:
    """Return the block whose weights may be multiplied in one call: attention, an MLP, or experts."""
    return path[:-1] if len(path) > 1 and path[-2] == "experts" else path[:-2]


def describe_weight_form(form: WeightForm) -> str:
    """Return the form in words, for the start-up table."""
    reason = f" ({form.reason})" if form.reason else ""
    if form.quantization == "none":
        return f"not packed{reason}"
    products = "native products" if library.is_usable() else "unpacked in every step, for want of a C compiler"
    if form.kinds is None:
        return f"{form.quantization}{', tables int8' if form.quantization == 'int4' else ''}{reason}, {products}"
    return f"{form.quantization} in {len(form.kinds)} matrices{reason}, {products}"
