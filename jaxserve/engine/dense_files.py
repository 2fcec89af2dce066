"""The config.json of a Dense module of sentence-transformers, which has a folder beside the model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxserve.errors import BadCheckpoint
from jaxserve.layers.dense import DenseActivation, DenseSpec
from jaxserve.models.dense_params import DenseModule, DenseStems
from jaxserve.weights.protocol import read_json

ACTIVATIONS: Mapping[str, DenseActivation] = {  # by the class of torch.nn
    "GELU": "gelu",
    "Identity": "none",
    "ReLU": "relu",
    "SiLU": "silu",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
}
MAX_WIDTH = 1 << 20
SENTENCE = "sentence_embedding"  # what Pooling gives


def read_dense(path: Path, folder: str, *, normalizes_input: bool) -> DenseModule:
    """Read a module's config.json; folder: where it lies, as modules.json says, which begins its tensors' names.

    Raises BadCheckpoint, naming the key, for what is not computed here.
    """
    config = read_json(path)
    for key in ("module_input_name", "module_output_name"):
        if config.get(key) not in (SENTENCE, None):
            raise BadCheckpoint(f"{path}: {key!r} is {config[key]!r}; Dense is computed here of {SENTENCE!r} alone.")
    activation = str(config.get("activation_function") or "Tanh").rpartition(".")[2]
    if activation not in ACTIVATIONS:
        raise BadCheckpoint(f"{path}: 'activation_function' is {activation!r}; known are {', '.join(ACTIVATIONS)}.")
    bias = config.get("bias", True)
    if not isinstance(bias, bool):
        raise BadCheckpoint(f"{path}: 'bias' is {bias!r}; it must be true or false.")
    spec = DenseSpec(
        width_in=_read_width(path, config, "in_features"),
        width_out=_read_width(path, config, "out_features"),
        bias=bias,
        activation=ACTIVATIONS[activation],
        normalizes_input=normalizes_input,
    )
    return DenseModule(spec, DenseStems((f"{folder}/linear",)), folder)


def _read_width(path: Path, config: Mapping[str, Any], key: str) -> int:
    width = config.get(key)
    if isinstance(width, bool) or not isinstance(width, int) or not 0 < width <= MAX_WIDTH:
        raise BadCheckpoint(f"{path}: {key!r} is {width!r}; it must be a number of numbers.")
    return width
