"""Architecture: the interface of a network for the engine and the loader. registry.py lists all of them."""

from collections.abc import Mapping
from typing import Any, Protocol

from jaxserve.cache.layer_cache import LayerCache
from jaxserve.layers.param_spec import ParamPath, ParamSpec
from jaxserve.models.cost import Cost
from jaxserve.models.spec import DecoderSpec


class Architecture(Protocol):
    """A network, its weights, and what it keeps between steps. `abstract_decoder` builds the network of a spec."""

    def spec(self, hf_config: Mapping[str, Any], where: str = "config.json") -> DecoderSpec:
        """Return the values of a config.json; where: what errors call it.

        Raises UnknownArchitecture, naming the key that is not understood.
        """
        ...

    def params(self, spec: DecoderSpec) -> dict[ParamPath, ParamSpec]:
        """Return every leaf of `abstract_decoder(spec, dtype)`, with its origins in checkpoints."""
        ...

    def ignored_tensors(self, spec: DecoderSpec) -> frozenset[str]:
        """Return patterns of checkpoint tensors that may be there and are not read."""
        ...

    def cache(self, spec: DecoderSpec) -> tuple[LayerCache, ...]:
        """Return what each layer keeps between steps."""
        ...

    def cost(self, spec: DecoderSpec) -> Cost:
        """Return the work of a token, for the roofline."""
        ...
