"""PooledDecoder: a decoder without logits, whose hidden vectors are pooled, embedded or scored."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from jaxserve.cache.layer_cache import LayerCache
from jaxserve.errors import UnknownArchitecture
from jaxserve.layers.param_spec import Origin, ParamPath, ParamSpec, Source
from jaxserve.models.architecture import Architecture
from jaxserve.models.cost import Cost
from jaxserve.models.spec import DecoderSpec

PREFIX = "model."
NOT_COMPUTED = frozenset(
    (
        *("num_labels", "is_matryoshka", "matryoshka_dimensions", "sentence_transformers", "classifier_from_token"),
        *("is_original_qwen3_reranker", "sbert_ce_default_activation_function", "sbert_ce_default_activation_fn"),
    )
)
"""Keys of config.json about what becomes of the network's outputs. They are read in engine/pooling_files.py."""


@dataclass(frozen=True, slots=True)
class PooledDecoder:
    """A decoder whose hidden vectors are pooled.

    decoder      its family
    num_labels   outputs of its score head; None: there is none
    needs_head   logits of some tokens are computed
    """

    decoder: Architecture
    num_labels: int | None = None
    needs_head: bool = False

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
        return replace(spec, tie_embeddings=True, has_head_bias=False, num_labels=self.num_labels)

    def params(self, spec: DecoderSpec) -> dict[ParamPath, ParamSpec]:
        """Return every weight; checkpoints of a network without a head have names without the prefix, too."""
        params = {
            path: replace(param, origins=param.origins + tuple(map(_drop_prefix, param.origins)))
            for path, param in self.decoder.params(spec).items()
        }
        if spec.num_labels is not None:
            source = Source("score.weight", (spec.num_labels, spec.width), is_transposed=True)
            params["score", "kernel"] = ParamSpec((spec.width, spec.num_labels), ("width", None), (Origin((source,)),))
        return params

    def ignored_tensors(self, spec: DecoderSpec) -> frozenset[str]:
        """Return patterns of tensors that may be there and are not read."""
        patterns = self.decoder.ignored_tensors(spec)
        return patterns | {pattern.removeprefix(PREFIX) for pattern in patterns}

    def cache(self, spec: DecoderSpec) -> tuple[LayerCache, ...]:
        """Return what each layer keeps between steps."""
        return self.decoder.cache(spec)

    def cost(self, spec: DecoderSpec) -> Cost:
        """Return the work of a token, for the roofline. What is pooled costs next to nothing."""
        return replace(self.decoder.cost(spec), head=0)


def _drop_prefix(origin: Origin) -> Origin:
    sources = tuple(replace(source, name=source.name.removeprefix(PREFIX)) for source in origin.sources)
    return replace(origin, sources=sources)
