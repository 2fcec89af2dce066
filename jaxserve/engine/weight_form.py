"""The form of the weights in memory: plain, packed as the settings ask, or with the codes that the file has.

With `auto`, what a quantised checkpoint holds as integers stays so where there are products for it, and so does what a
.gguf file or `jaxserve convert` holds in blocks that have products. Of the weights only scales of integers are rounded,
to float16; everything else is plain. `blocks` is what `auto` is for blocks, and refused where they cannot stay.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import gcd

import numpy as np

from jaxserve.config import EngineConfig, Quantization, QuantizationChoice
from jaxserve.errors import BadConfig
from jaxserve.layers.block_forms import FORMS, PackedKind
from jaxserve.layers.param_spec import ParamPath, ParamSpec, RowBlocks
from jaxserve.layers.scaled_weight import GROUP_INPUTS, ScaledForm, ScaledKind, choose_group
from jaxserve.models.partition import check_partition
from jaxserve.models.spec import DecoderSpec
from jaxserve.native import library
from jaxserve.parallel.placement import Placement
from jaxserve.parallel.ranks import Ranks
from jaxserve.weights.load import find_origin
from jaxserve.weights.orbax import OrbaxCheckpoint
from jaxserve.weights.protocol import BlockCheckpoint, Checkpoint, holds_blocks
from jaxserve.weights.quantized import QuantizedCheckpoint
from jaxserve.weights.scaling import find_stored_scales

# Platform → kind → in which form there are products for it.
PRODUCTS: Mapping[str, Mapping[Quantization, str]] = {
    "cpu": {"int8": "blocks of 32", "int4": "blocks of 32", "blocks": "those of the file"},
    "gpu": {"int8": "outputs", "fp8": "outputs", "int4": "groups of inputs"},
    "tpu": {"int8": "outputs", "fp8": "outputs", "int4": "groups of inputs"},
}
# Of NVIDIA GPUs from which on fp8 is multiplied as it is. On older ones XLA stores every weight in bfloat16 in each
# step, on an L4 tables alone if activations are rounded (jaxlib 0.10.2): it moves 5 bytes a weight, and bfloat16 has 2.
FP8_CAPABILITY = 9.0
INT4_CAPABILITY = 8.0  # from which on GPUs have fma.rn.bf16x2, by which the kernel unpacks (PTX ISA)


@dataclass(frozen=True, slots=True)
class WeightForm:
    """The form of weights in memory.

    quantization   The kind of the packed ones.
    kinds          The weights that are packed, each with its kind; None: all that can be.
    reason         Why, for the start-up table; empty where nobody would ask.
    scaled         How an accelerator multiplies them; None: they are packed in blocks, or not packed.
    """

    quantization: Quantization
    kinds: Mapping[ParamPath, ScaledKind | PackedKind] | None = None
    reason: str = ""
    scaled: ScaledForm | None = None


def choose_weight_form(
    config: EngineConfig,
    checkpoint: Checkpoint,
    params: Mapping[ParamPath, ParamSpec],
    spec: DecoderSpec,
    placement: Placement,
    dtype: np.dtype,
) -> WeightForm:
    """Return the form that the settings ask for; with `auto` that of the file, or plain where that cannot be.

    Raises BadConfig if there are no products for what the settings ask for.
    """
    if config.quantization == "blocks":
        choose_requested("blocks", placement, dtype)
        return _require_blocks(checkpoint, params, spec, placement.ranks)
    if config.quantization != "auto":
        return choose_requested(config.quantization, placement, dtype)
    if placement.platform == "cpu":
        return _keep_codes(checkpoint, params, spec, placement.ranks, dtype)
    if isinstance(checkpoint, QuantizedCheckpoint | OrbaxCheckpoint):
        return _keep_scales(checkpoint, params, placement)
    return WeightForm("none")


def _keep_codes(
    checkpoint: Checkpoint, params: Mapping[ParamPath, ParamSpec], spec: DecoderSpec, ranks: Ranks, dtype: np.dtype
) -> WeightForm:
    """Return the form for a CPU, which multiplies integers and blocks as they are unless something is in the way."""
    if not isinstance(checkpoint, QuantizedCheckpoint | OrbaxCheckpoint) and not holds_blocks(checkpoint):
        return WeightForm("none")
    kinds = find_kinds(checkpoint, params)
    obstacle = _find_obstacle(spec, ranks, dtype, kinds) if kinds else _explain_no_kinds(checkpoint)
    if obstacle or not kinds:
        return WeightForm("none", reason=obstacle)
    found = set(kinds.values())
    if holds_blocks(checkpoint) or found - {"int8", "int4"}:
        return _describe_blocks(checkpoint, params, kinds)
    quantization = "int4" if "int4" in found else "int8"
    return WeightForm(quantization, None if _is_all(kinds, params, quantization) else kinds, "the codes of the file")


def _explain_no_kinds(checkpoint: QuantizedCheckpoint | OrbaxCheckpoint | BlockCheckpoint) -> str:
    """Return why nothing of a file stays packed; empty if nothing of it is."""
    if isinstance(checkpoint, OrbaxCheckpoint):
        return ""
    if not holds_blocks(checkpoint):
        return "what is packed in the file are not integers in order"
    return f"{', '.join(checkpoint.count_types())} have no products" if checkpoint.count_types() else ""


def _find_obstacle(spec: DecoderSpec, ranks: Ranks, dtype: np.dtype, kinds: Mapping[ParamPath, PackedKind]) -> str:
    """Return why a CPU should not multiply weights of these kinds; empty if it should."""
    if dtype != np.float32:
        return "products of packed weights are computed in float32"
    if not library.is_usable():
        return "products of packed weights are slow for want of a C compiler"
    try:
        check_partition(spec, ranks, "blocks", _most_inputs(kinds))
    except BadConfig:
        return f"{ranks.size} devices would cut packed blocks"
    return ""


def _require_blocks(
    checkpoint: Checkpoint, params: Mapping[ParamPath, ParamSpec], spec: DecoderSpec, ranks: Ranks
) -> WeightForm:
    """Return the form in which blocks stay as the file has them, as far as they have products.

    Raises BadConfig if that is none of them, or if the ranks would cut them.
    """
    kinds = find_block_kinds(checkpoint, params)
    if not kinds:
        raise BadConfig(
            f"quantization='blocks' keeps those of a .gguf file, from Q2_K to Q8_0 and IQ4, and {checkpoint.path.name} "
            "has none; leave it out, or try int8."
        )
    check_partition(spec, ranks, "blocks", _most_inputs(kinds))
    return _describe_blocks(checkpoint, params, kinds)


def _describe_blocks(
    checkpoint: Checkpoint, params: Mapping[ParamPath, ParamSpec], kinds: Mapping[ParamPath, PackedKind]
) -> WeightForm:
    """Return the form in which blocks stay, with what becomes of the file's others."""
    lost = {path for path, param in params.items() if param.is_packable} - kinds.keys()
    unpacked = ""
    if lost and holds_blocks(checkpoint):
        sources = (each for path in lost for each in find_origin(checkpoint, path, params[path]).sources)
        types = {checkpoint.type_of(source.name) for source in sources}
        unpacked = f", of those in {', '.join(sorted(types))} {len(lost)} are unpacked"
    return WeightForm("blocks", kinds, f"the blocks of the file{unpacked}; activations are rounded to int8")


def find_block_kinds(checkpoint: Checkpoint, params: Mapping[ParamPath, ParamSpec]) -> dict[ParamPath, PackedKind]:
    """Return the weights whose blocks a .gguf file has, or `jaxserve convert` has kept; of other checkpoints none."""
    if isinstance(checkpoint, OrbaxCheckpoint) or holds_blocks(checkpoint):
        return find_kinds(checkpoint, params)
    return {}


def _most_inputs(kinds: Mapping[ParamPath, PackedKind]) -> int:
    """Return the inputs of the largest blocks."""
    return max(FORMS[kind].inputs for kind in kinds.values())


def _keep_scales(
    checkpoint: QuantizedCheckpoint | OrbaxCheckpoint, params: Mapping[ParamPath, ParamSpec], placement: Placement
) -> WeightForm:
    """Return the form for an accelerator, which multiplies the file's numbers if outputs have one scale each.

    Or if they are int4, and the kernel for NVIDIA GPUs takes their groups.
    """
    has_fp8 = placement.platform != "gpu" or _multiplies_fp8(placement)
    kinds, groups, is_fp8, has_zeros = dict[ParamPath, ScaledKind](), [], False, False
    for path, param in params.items():
        stored = find_stored_scales(checkpoint, find_origin(checkpoint, path, param)) if param.is_packable else None
        if stored is None or stored.kind not in PRODUCTS.get(placement.platform, {}):
            continue
        kind = stored.kind
        is_fp8 |= kind == "fp8"
        if kind == "int4":
            group = param.shape[-2] // stored.scales.shape[-2]
            if path[-1] == "table" or not _takes_group(group, param, placement):
                continue
            groups.append(group)
            has_zeros |= stored.zeros is not None
        if kind != "fp8" or has_fp8:
            kinds[path] = kind
    if not kinds:
        is_plain = isinstance(checkpoint, OrbaxCheckpoint) and not checkpoint.packed
        reason = "" if is_plain else _explain_no_scales(placement)
        if is_fp8 and not has_fp8:
            reason = f"a gpu multiplies fp8 from compute capability {FP8_CAPABILITY} on"
        return WeightForm("none", reason=reason)
    quantization: Quantization = max(set(kinds.values()), key=("int8", "fp8", "int4").index)
    form = ScaledForm(_multiplies_fp8(placement), bool(groups), gcd(*groups) if groups else None, has_zeros)
    return WeightForm(quantization, kinds, "the numbers of the file", form)


def _takes_group(group: int, param: ParamSpec, placement: Placement) -> bool:
    """Return whether the kernel for NVIDIA GPUs multiplies an int4 weight with scales for so many inputs."""
    if placement.platform != "gpu" or placement.compute_capability < INT4_CAPABILITY:
        return False
    is_split = placement.split_axes(param.axes)[-2] is not None
    num_inputs = param.shape[-2] // (placement.size if is_split else 1)
    return choose_group(num_inputs, ScaledForm(has_kernel=True, group=group)) is not None


def _explain_no_scales(placement: Placement) -> str:
    """Return what numbers of a file an accelerator multiplies."""
    text = f"a {placement.platform} multiplies numbers with one scale for each output"
    if placement.platform == "gpu" and placement.compute_capability >= INT4_CAPABILITY:
        text += f", or int4 in groups of {' or '.join(map(str, GROUP_INPUTS[1::-1]))} inputs"
    return text


def _multiplies_fp8(placement: Placement) -> bool:
    """Return whether the devices are GPUs that multiply fp8 as it is, with activations that are rounded to it."""
    return placement.compute_capability >= FP8_CAPABILITY


def check_products(quantization: QuantizationChoice, platform: str) -> None:
    """Raise BadConfig if the devices of a platform have no products for weights that are packed so."""
    kinds = PRODUCTS.get(platform, {})
    if quantization not in ("auto", "none", *kinds):
        others = f"try {' or '.join(kinds)}" if kinds else "leave it out"
        raise BadConfig(f"quantization={quantization!r} has no products on a {platform}; {others}.")


def _check_capability(quantization: Quantization, capability: float) -> None:
    """Raise BadConfig if GPUs of this compute capability have no products for weights that are packed so."""
    if quantization == "fp8" and capability < FP8_CAPABILITY:
        others = "int8 or int4" if capability >= INT4_CAPABILITY else "int8"
        raise BadConfig(
            f"quantization='fp8' needs a gpu of compute capability {FP8_CAPABILITY} or later; on others weights would "
            f"be unpacked in every step; try {others}."
        )
    if quantization == "int4" and capability < INT4_CAPABILITY:
        raise BadConfig(
            f"quantization='int4' needs a gpu of compute capability {INT4_CAPABILITY} or later; on others its kernel "
            "does not compile; try int8."
        )


def choose_requested(quantization: Quantization, placement: Placement, dtype: np.dtype) -> WeightForm:
    """Return the form of weights that are all packed alike.

    Raises BadConfig if the devices have no products for it.
    """
    platform = placement.platform
    check_products(quantization, platform)
    if quantization == "none":
        return WeightForm(quantization)
    if platform == "gpu":
        _check_capability(quantization, placement.compute_capability)
    if platform != "cpu":
        rounds_activations = quantization == "fp8" and _multiplies_fp8(placement)
        has_kernel = quantization == "int4" and platform == "gpu"
        return WeightForm(quantization, scaled=ScaledForm(rounds_activations, has_kernel))
    if dtype != np.float32:
        raise BadConfig(
            f"quantization={quantization!r} computes in float32, not {dtype}, on a cpu; try --dtype float32, or auto."
        )
    return WeightForm(quantization)


def _is_all(kinds: Mapping[ParamPath, PackedKind], params: Mapping[ParamPath, ParamSpec], kind: Quantization) -> bool:
    """Return whether the weights are packed as if the settings had asked for this kind."""
    packable = (path for path, param in params.items() if param.is_packable)
    return all(kinds.get(path) == ("int8" if path[-1] == "table" else kind) for path in packable)


def find_kinds(
    checkpoint: QuantizedCheckpoint | OrbaxCheckpoint | BlockCheckpoint, params: Mapping[ParamPath, ParamSpec]
) -> dict[ParamPath, PackedKind]:
    """Return the weights that keep their codes. Those that are multiplied in one call do so together or not at all."""
    groups: dict[ParamPath, dict[ParamPath, PackedKind | None]] = {}
    for path, param in params.items():
        if param.is_packable:
            sources = find_origin(checkpoint, path, param).sources
            kinds: list[PackedKind | None] = [*{checkpoint.kind_of(source.name) for source in sources}]
            is_cut = kinds[0] not in ("int8", "int4") and any(isinstance(each.rows, RowBlocks) for each in sources)
            groups.setdefault(_call_of(path), {})[path] = kinds[0] if len(kinds) == 1 and not is_cut else None
    together = (group for group in groups.values() if None not in group.values())
    return {path: kind for group in together for path, kind in group.items() if kind is not None}


def _call_of(path: ParamPath) -> ParamPath:
    """Return the block whose weights may be multiplied in one call: attention, an MLP, or experts; a table is alone."""
    if path[-1] == "table":
        return path
    return path[:-1] if len(path) > 1 and path[-2] == "experts" else path[:-2]


def describe_weight_form(form: WeightForm) -> str:
    """Return the form in words, for the start-up table."""
    reason = f" ({form.reason})" if form.reason else ""
    if form.quantization == "none":
        return f"not packed{reason}"
    if form.scaled is not None:
        groups = "group of inputs" if form.quantization == "int4" else "output"
        tables = ", tables int8" if form.quantization == "int4" and form.kinds is None else ""
        activations = ", activations in fp8" if form.scaled.rounds_activations and form.quantization == "fp8" else ""
        matrices = "" if form.kinds is None else f" in {len(form.kinds)} matrices"
        text = f"{form.quantization}{matrices} with a scale for each {groups}{tables}{activations}{reason}"
        return f"{text}, products by {'a kernel' if form.scaled.has_kernel else 'XLA'}"
    products = "native products" if library.is_usable() else "unpacked in every step, for want of a C compiler"
    if form.kinds is None:
        return f"{form.quantization}{', tables int8' if form.quantization == 'int4' else ''}{reason}, {products}"
    kinds = ", ".join(f"{kind} in {num}" for kind, num in Counter(form.kinds.values()).items())
    return f"{kinds} matrices{reason}, {products}"
