"""The table of forms in which quantised checkpoints store matrices, and the search for such matrices among tensors."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from jaxserve.errors import BadCheckpoint
from jaxserve.weights.packed_floats import (
    FP8_FORM,
    MXFP4_BYTES_FORM,
    MXFP4_FORM,
    NVFP4_BYTES_FORM,
    NVFP4_FORM,
)
from jaxserve.weights.packed_form import PackedForm, Scheme
from jaxserve.weights.packed_integers import AWQ_FORM, GPTQ_FORM, INT8_FORM, WORDS_FORM
from jaxserve.weights.protocol import Checkpoint
from jaxserve.weights.quantization import FileQuantization

FORMS: dict[str, PackedForm] = {
    "awq": AWQ_FORM,
    "fp8": FP8_FORM,
    "gptq": GPTQ_FORM,
    "int8": INT8_FORM,
    "mxfp4": MXFP4_FORM,
    "mxfp4_bytes": MXFP4_BYTES_FORM,
    "nvfp4": NVFP4_FORM,
    "nvfp4_bytes": NVFP4_BYTES_FORM,
    "words": WORDS_FORM,
}
# Tensors that concern activations and the cache, whose types are our own. The longest suffix comes first.
UNUSED_SUFFIXES: dict[str, str] = {
    **dict.fromkeys((".input_global_scale", ".input_scale", ".input_zero_point"), "scales of activations"),
    **dict.fromkeys((".activation_scale", ".output_scale", ".output_zero_point"), "scales of activations"),
    **dict.fromkeys(("_proj_activation_scale",), "scales of activations"),
    **dict.fromkeys((".k_scale", ".v_scale", ".q_scale", ".kv_scale", ".prob_scale"), "scales of the cache"),
    **dict.fromkeys((".k_zero_point", ".v_zero_point"), "scales of the cache"),
}


@dataclass(frozen=True, slots=True)
class PackedTensor:
    """A matrix, or a stack of them, that a checkpoint stores in several tensors.

    shape    of its values, as an unpacked checkpoint would have them
    scheme   what quantization_config says
    parts    role → name of a stored tensor
    """

    shape: tuple[int, ...]
    scheme: Scheme
    parts: Mapping[str, str]

    @property
    def form(self) -> PackedForm:
        """Return the form that it is stored in."""
        return FORMS[self.scheme.form]


def find_packed(checkpoint: Checkpoint, quantization: FileQuantization) -> dict[str, PackedTensor]:
    """Return the packed tensors by the names of their values; all are checked, none is read.

    What is packed follows from the tensors: names say where codes lie, types confirm it.

    Raises BadCheckpoint for a matrix that lacks a part, or of which one does not fit.
    """
    packed: dict[str, PackedTensor] = {}
    names = set(checkpoint.tensors)
    companions = _find_companions(names, quantization.forms)
    for name in sorted(names - companions):
        for form_name in quantization.forms:
            form = FORMS[form_name]
            if not name.endswith(form.codes):
                continue
            if not form.codes and checkpoint.tensors[name].dtype not in form.dtypes:
                continue
            stem = name.removesuffix(form.codes)
            scheme = quantization.find_scheme((stem + form.values).removesuffix(".weight"))
            if scheme.form == form_name:
                packed[stem + form.values] = _check_parts(checkpoint, name, stem, scheme)
    return packed


def _find_companions(names: set[str], forms: Iterable[str]) -> set[str]:
    """Return the tensors that belong to codes, or that are not read. NVFP4 has scales in fp8, as if they were codes."""
    found = set(find_unused(names))
    for form in map(FORMS.__getitem__, forms):
        for suffix in (*(each for group in form.scales.values() for each in group), *form.optional.values()):
            found |= {
                name for name in names if name.endswith(suffix) and name.removesuffix(suffix) + form.codes in names
            }
    return found


def _check_parts(checkpoint: Checkpoint, name: str, stem: str, scheme: Scheme) -> PackedTensor:
    form, parts = FORMS[scheme.form], {"codes": name}
    for role, suffixes in form.scales.items():
        found = [stem + suffix for suffix in suffixes if stem + suffix in checkpoint.tensors]
        if not found:
            raise BadCheckpoint(
                f"{checkpoint.path} lacks tensor {stem + suffixes[0]!r}, without which {name!r} cannot be unpacked."
            )
        parts[role] = found[0]
    for role, suffix in form.optional.items():
        if stem + suffix in checkpoint.tensors:
            parts[role] = stem + suffix
    where = f"{checkpoint.path}: tensor {name!r} cannot be unpacked"
    if checkpoint.tensors[name].dtype not in form.dtypes:
        raise BadCheckpoint(f"{where}: it is {checkpoint.tensors[name].dtype}, not {form.dtypes[0]}.")
    try:
        shape = form.find_shape({role: checkpoint.read(part) for role, part in parts.items()}, scheme)
    except ValueError as error:
        raise BadCheckpoint(f"{where}: {error}.") from None
    return PackedTensor(shape, scheme, parts)


def find_unused(names: set[str]) -> dict[str, str]:
    """Return the tensors of activations and of the cache, each with what it is for."""
    return {name: purpose for name in names for suffix, purpose in UNUSED_SUFFIXES.items() if name.endswith(suffix)}


def view_parts(checkpoint: Checkpoint, packed: PackedTensor, matrix: int | None = None) -> dict[str, np.ndarray]:
    """Return the stored tensors as views of the file, those of one matrix of a stack if `matrix` is given."""
    views = {role: checkpoint.read(part) for role, part in packed.parts.items()}
    return views if matrix is None else {role: view[matrix] for role, view in views.items()}
