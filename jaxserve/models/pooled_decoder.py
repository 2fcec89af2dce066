"""PooledDecoder: a decoder without logits, whose hidden vectors are pooled, embedded or scored."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from jaxserve.cache.layer_cache import LayerCache
from jaxserve.errors import UnknownArchitecture
from jaxserve.layers.dense import DenseSpec
from jaxserve.layers.param_spec import Origin, ParamPath, ParamSpec
from jaxserve.models.architecture import Architecture
from jaxserve.models.config_reader import ConfigReader
from jaxserve.models.cost import Cost
from jaxserve.models.dense_params import DenseModule, DenseStems, chain_modules, dense_params
from jaxserve.models.spec import DecoderSpec

PREFIX = "model."
NOT_COMPUTED = frozenset(
    (
        *("num_labels", "is_matryoshka", "matryoshka_dimensions", "sentence_transformers", "classifier_from_token"),
        *("is_original_qwen3_reranker", "sbert_ce_default_activation_function", "sbert_ce_default_activation_fn"),
    )
)
"""Keys of config.json about what becomes of the network's outputs. They are read in engine/pooling_files.py."""

ReadHead: TypeAlias = Callable[[ConfigReader, DecoderSpec, int], tuple[DenseSpec, ...]]
"""The layers of a score head: of config.json, what else it says, and the number of labels."""


def read_linear_head(config: ConfigReader, spec: DecoderSpec, num_labels: int) -> tuple[DenseSpec, ...]:
    """Return the score head of transformers' decoders: a product."""
    return (DenseSpec(width_in=spec.width, width_out=num_labels, bias=False),)


@dataclass(frozen=True, slots=True, kw_only=True)
class PooledDecoder:
    """A decoder whose hidden vectors are pooled.

    decoder         its family
    num_labels      outputs of its score head; None: it is not used
    dense_modules   dense layers over pooled vectors, of a model without a score head
    needs_head      logits of some tokens are computed
    read_head       config.json → the score head
    head            names of the score head's tensors
    """

    decoder: Architecture
    num_labels: int | None = None
    dense_modules: tuple[DenseModule, ...] = ()
    needs_head: bool = False
    read_head: ReadHead = read_linear_head
    head: tuple[DenseStems, ...] = (DenseStems(("score",)),)

    def spec(self, hf_config: Mapping[str, Any], where: str = "config.json") -> DecoderSpec:
        """Return the values of a config.json. Raises UnknownArchitecture, naming the key that is not understood."""
        spec = self.decoder.spec({key: hf_config[key] for key in hf_config.keys() - NOT_COMPUTED}, where)
        if self.needs_head:
            if spec.has_head_bias or spec.logits_multiplier != 1.0 or spec.logits_softcap is not None:
                raise UnknownArchitecture(
                    f"{where}: logits of {spec.architecture_name} have a bias, a multiplier or a cap; scores are not"
                    " made of such logits here."
                )
            return spec
        if self.num_labels is None:
            dense = chain_modules(self.dense_modules, spec.width)
        else:
            dense = self.read_head(ConfigReader(hf_config, where), spec, self.num_labels)
        return replace(spec, tie_embeddings=True, has_head_bias=False, dense=dense)

    def params(self, spec: DecoderSpec) -> dict[ParamPath, ParamSpec]:
        """Return every weight; checkpoints of a network without a head have names without the prefix, too."""
        params = {
            path: replace(param, origins=param.origins + tuple(map(_drop_prefix, param.origins)))
            for path, param in self.decoder.params(spec).items()
        }
        stems = tuple(module.stems for module in self.dense_modules) if self.num_labels is None else self.head
        return params if self.needs_head else params | dense_params(spec.dense, stems)

    def ignored_tensors(self, spec: DecoderSpec) -> frozenset[str]:
        """Return patterns of tensors that may be there and are not read."""
        patterns = self.decoder.ignored_tensors(spec)
        return patterns | {pattern.removeprefix(PREFIX) for pattern in patterns}

    def cache(self, spec: DecoderSpec) -> tuple[LayerCache, ...]:
        """Return what each layer keeps between steps; nothing where whole sequences are computed at once."""
        return () if spec.is_bidirectional else self.decoder.cache(spec)

    def cost(self, spec: DecoderSpec) -> Cost:
        """Return the work of a token, for the roofline. What is pooled costs next to nothing."""
        return replace(self.decoder.cost(spec), head=0)


def _drop_prefix(origin: Origin) -> Origin:
    sources = tuple(replace(source, name=source.name.removeprefix(PREFIX)) for source in origin.sources)
    return replace(origin, sources=sources)
