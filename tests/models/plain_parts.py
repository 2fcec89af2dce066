"""What every block of the plain decoder needs: activations, and the weights below a path."""

import math
from collections.abc import Mapping

import numpy as np
from scipy.special import erf, expit

from jaxserve.layers.param_spec import ParamPath

ACTIVATIONS = {
    "silu": lambda x: x * expit(x),
    "gelu": lambda x: x * (1 + erf(x / math.sqrt(2))) / 2,
    "gelu_tanh": lambda x: x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
    "relu": lambda x: np.maximum(x, 0),
    "relu2": lambda x: np.maximum(x, 0) ** 2,
}


class Weights:
    """Some of a decoder's weights, by the rest of their paths."""

    def __init__(self, params: Mapping[ParamPath, np.ndarray]) -> None:
        self._params = {path: np.asarray(value, np.float64) for path, value in params.items()}

    def __getitem__(self, name: ParamPath | str) -> np.ndarray:
        return self._params[(name,) if isinstance(name, str) else name]

    def get(self, name: str, default: float) -> np.ndarray | float:
        return self._params.get((name,), default)

    def part(self, *path: str | int) -> "Weights":
        """Return the weights below a path."""
        size = len(path)
        return Weights({own[size:]: value for own, value in self._params.items() if own[:size] == path})

    def linear(self, name: str, x: np.ndarray) -> np.ndarray:
        """Return what the linear layer of this name makes of x."""
        layer = self.part(name)
        return x @ layer["kernel"] + layer.get("bias", 0.0)
