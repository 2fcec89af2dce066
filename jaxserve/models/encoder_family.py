"""EncoderFamily: an architecture whose network is the one encoder, and the names of its weights in checkpoints."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from jaxserve.cache.layer_cache import LayerCache
from jaxserve.layers.dense import DenseActivation, DenseSpec
from jaxserve.layers.param_spec import Origin, ParamPath, ParamSpec, Source
from jaxserve.models.config_reader import ConfigReader
from jaxserve.models.cost import AttentionCost, Cost
from jaxserve.models.dense_params import DenseModule, DenseStems, chain_modules, dense_params
from jaxserve.models.encoder_spec import EncoderSpec

Stems: TypeAlias = Mapping[str, str]
"""Module → its stem in the checkpoint."""
NOT_COMPUTED = frozenset(
    (
        *("num_labels", "is_matryoshka", "matryoshka_dimensions", "sentence_transformers"),
        *("sbert_ce_default_activation_function", "sbert_ce_default_activation_fn", "tie_word_embeddings"),
        *("hidden_dropout_prob", "attention_probs_dropout_prob", "directionality", "output_past", "pooler_fc_size"),
        *("pooler_num_attention_heads", "pooler_num_fc_layers", "pooler_size_per_head", "pooler_type"),
    )
)
"""Keys of config.json about training, and about what becomes of the network's outputs (engine/pooling_files.py)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderFamily:
    """An architecture that is an EncoderSpec and names for its weights.

    read              config.json → values, without a head; takes every key that it understands
    prefix            of the encoder's tensors where a head is beside it; models without one have none
    embeddings        stems of tables, and of the norm over their sum
    layer             stem of a layer; {} is its number
    modules           stems of a layer's modules
    head              stems of the score head's dense layer and of its scores
    head_activation   behind that dense layer
    num_labels        outputs of the score head; None: it is not used
    dense_modules     dense layers over pooled vectors, of a model without a score head
    """

    read: Callable[[ConfigReader], EncoderSpec]
    prefix: str
    embeddings: Stems
    layer: str
    modules: Stems
    head: tuple[str, str]
    head_activation: DenseActivation = "tanh"
    num_labels: int | None = None
    dense_modules: tuple[DenseModule, ...] = ()

    def spec(self, hf_config: Mapping[str, Any], where: str = "config.json") -> EncoderSpec:
        """Return the values of a config.json; where: what errors call it.

        Raises UnknownArchitecture, naming the key that is not understood.
        """
        config = ConfigReader({key: hf_config[key] for key in hf_config.keys() - NOT_COMPUTED}, where)
        config.require("is_decoder", False, None)
        spec = self.read(config)
        config.reject_unread()
        if spec.width % spec.num_heads:
            raise config.unsupported("num_attention_heads", spec.num_heads, f"a divisor of the width {spec.width}")
        if self.num_labels is None:
            return replace(spec, dense=chain_modules(self.dense_modules, spec.width))
        dense = DenseSpec(width_in=spec.width, width_out=spec.width, activation=self.head_activation)
        return replace(spec, dense=(dense, DenseSpec(width_in=spec.width, width_out=self.num_labels)))

    def params(self, spec: EncoderSpec) -> dict[ParamPath, ParamSpec]:
        """Return every weight of the encoder by its path in the module tree, with its origins in checkpoints."""
        width, params = spec.width, dict[ParamPath, ParamSpec]()
        rows = {"embed": spec.vocab_size, "positions": spec.num_positions, "types": spec.num_token_types}
        for name, num in rows.items():
            if num:
                axes = ("vocab", "width") if name == "embed" else (None, "width")
                table = self._alternatives(f"{self.embeddings[name]}.weight", (num, width))
                params[name, "table"] = ParamSpec((num, width), axes, table)
        params |= self._norm(("embedding_norm",), self.embeddings["embedding_norm"], width)
        for index in range(spec.num_layers):
            stems = {module: self.layer.format(index) + stem for module, stem in self.modules.items()}
            for module in ("query", "key", "value", "output"):
                params |= self._linear(("layers", index, module), stems[module], width, width)
            params |= self._linear(("layers", index, "up"), stems["up"], width, spec.hidden)
            params |= self._linear(("layers", index, "down"), stems["down"], spec.hidden, width)
            for module in ("attention_norm", "mlp_norm"):
                params |= self._norm(("layers", index, module), stems[module], width)
        head = tuple(DenseStems((self.prefix + stem, stem)) for stem in self.head)
        stems = tuple(module.stems for module in self.dense_modules) if self.num_labels is None else head
        return params | dense_params(spec.dense, stems)

    def ignored_tensors(self, spec: EncoderSpec) -> frozenset[str]:
        """Return patterns of tensors that may be there and are not read: heads of other tasks, and counted ids."""
        return frozenset(("cls.*", "lm_head.*", "vocab_*.*", "*pooler.dense.*", "*.position_ids"))

    def cache(self, spec: EncoderSpec) -> tuple[LayerCache, ...]:
        """Return nothing: whole sequences are computed at once."""
        return ()

    def cost(self, spec: EncoderSpec) -> Cost:
        """Return the work of a token, for the roofline."""
        body = spec.num_layers * (4 * spec.width**2 + 2 * spec.width * spec.hidden)
        return Cost(body, 0, (AttentionCost(None, spec.num_layers, 0, 4 * spec.width),))

    def _alternatives(self, name: str, shape: tuple[int, ...], *, is_transposed: bool = False) -> tuple[Origin, ...]:
        """Return the tensor with the prefix and without it, and a norm's under TensorFlow's names."""
        return tuple(
            Origin((Source(each, shape, is_transposed=is_transposed),)) for each in dict.fromkeys(self._spell(name))
        )

    def _spell(self, name: str) -> Iterator[str]:
        old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        for each in (name, old):
            yield from (self.prefix + each, each)

    def _linear(self, path: ParamPath, stem: str, width_in: int, width_out: int) -> dict[ParamPath, ParamSpec]:
        kernel = self._alternatives(f"{stem}.weight", (width_out, width_in), is_transposed=True)
        return {
            (*path, "kernel"): ParamSpec((width_in, width_out), (None, None), kernel, is_packable=True),
            (*path, "bias"): ParamSpec((width_out,), (None,), self._alternatives(f"{stem}.bias", (width_out,))),
        }

    def _norm(self, path: ParamPath, stem: str, width: int) -> dict[ParamPath, ParamSpec]:
        return {
            (*path, leaf): ParamSpec((width,), (None,), self._alternatives(f"{stem}.{suffix}", (width,)))
            for leaf, suffix in (("scale", "weight"), ("bias", "bias"))
        }
