"""The weights of dense layers over pooled vectors, and their names in checkpoints."""

from collections.abc import Sequence
from typing import NamedTuple

from jaxserve.errors import BadCheckpoint
from jaxserve.layers.dense import DenseSpec
from jaxserve.layers.param_spec import Origin, ParamPath, ParamSpec, Source


class DenseStems(NamedTuple):
    """The names of a dense layer's tensors: each a row of alternatives, the usual one first.

    linear   of the product
    norm     of the norm behind it; empty if there is none
    """

    linear: tuple[str, ...]
    norm: tuple[str, ...] = ()


class DenseModule(NamedTuple):
    """A dense layer that has its own files: what it computes, the names of its tensors, and the folder they lie in."""

    spec: DenseSpec
    stems: DenseStems
    folder: str


def chain_modules(modules: Sequence[DenseModule], width: int) -> tuple[DenseSpec, ...]:
    """Return what modules compute, of pooled vectors of so many numbers.

    Raises BadCheckpoint if one reads vectors of another length than those before it.
    """
    for module in modules:
        if module.spec.width_in != width:
            raise BadCheckpoint(
                f"{module.folder}: 'in_features' is {module.spec.width_in}, and vectors before it have {width} numbers."
            )
        width = module.spec.width_out
    return tuple(module.spec for module in modules)


def dense_params(specs: Sequence[DenseSpec], stems: Sequence[DenseStems]) -> dict[ParamPath, ParamSpec]:
    """Return every weight of the layers by its path, with its origins in checkpoints."""
    params: dict[ParamPath, ParamSpec] = {}
    for index, (spec, names) in enumerate(zip(specs, stems, strict=True)):
        linear, matrix, vector = ("dense", index, "linear"), (spec.width_in, spec.width_out), (spec.width_out,)
        params[*linear, "kernel"] = _whole(names.linear, "weight", matrix)
        if spec.bias:
            params[*linear, "bias"] = _whole(names.linear, "bias", vector)
        if spec.norm is not None and spec.norm.has_scale:
            params["dense", index, "norm", "scale"] = _whole(names.norm, "weight", vector)
        if spec.norm is not None and spec.norm.has_bias:
            params["dense", index, "norm", "bias"] = _whole(names.norm, "bias", vector)
    return params


def _whole(stems: tuple[str, ...], suffix: str, shape: tuple[int, ...]) -> ParamSpec:
    is_matrix, tensor_shape = len(shape) > 1, shape[::-1]
    origins = (Origin((Source(f"{stem}.{suffix}", tensor_shape, is_transposed=is_matrix),)) for stem in stems)
    return ParamSpec(shape, (None,) * len(shape), tuple(origins), is_float32=True)
