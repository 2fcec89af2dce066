"""DecoderSpec: whatever may differ between relatives of Llama, as a value. ParamSpec: where a weight comes from.

Fields name arithmetic, never architectures. Nothing here knows Hugging Face's words; the translators do.
"""

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from jaxserve.layers.rope import RopeSpec

ParamPath: TypeAlias = tuple[Hashable, ...]
"""A leaf's place in the module tree, e.g. ("layers", 3, "attention", "query", "kernel")."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderSpec:
    """A pre-norm decoder: embed, then per layer attention and gated MLP with residuals, then norm and logits."""

    architecture: str
    """The architecture, for people: "LlamaForCausalLM"."""
    vocab_size: int
    """Rows of the embedding, which is the width of the logits; may be more than the tokenizer knows."""
    width: int
    mlp_width: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_position_embeddings: int
    norm_eps: float
    rope: RopeSpec
    windows: tuple[int | None, ...]
    """One entry a layer: a token sees itself and the window - 1 tokens before it; None sees all."""
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    """An RMS norm over each query and key head before the rotation."""
    tie_embeddings: bool = False
    """The logits read the embedding table; there is no other head."""

    @property
    def num_layers(self) -> int:
        return len(self.windows)

    @property
    def attention_scale(self) -> float:
        return self.head_dim**-0.5


@dataclass(frozen=True, slots=True)
class ParamSpec:
    """One weight's origin: the checkpoint's name for it, its shape there, and how it is laid out here."""

    tensor_name: str
    shape: tuple[int, ...]
    transform: Callable[[np.ndarray], np.ndarray]
    """Checkpoint layout → leaf layout; a view where numpy can make one."""
    is_matrix: bool = False
    """Multiplied with activations, so it may be packed. Lies [out, in] in the checkpoint; place undoes itself."""


def attention_projections(spec: DecoderSpec) -> Iterator[tuple[str, int, int, bool]]:
    """(projection, in, out, bias) of the four projections, in the order they are computed."""
    query, key = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
    yield "query", spec.width, query, spec.qkv_bias
    yield "key", spec.width, key, spec.qkv_bias
    yield "value", spec.width, key, spec.qkv_bias
    yield "output", query, spec.width, spec.output_bias


def mlp_projections(spec: DecoderSpec) -> Iterator[tuple[str, int, int, bool]]:
    """(projection, in, out, bias) of the feed-forward block."""
    yield "gate", spec.width, spec.mlp_width, spec.mlp_bias
    yield "up", spec.width, spec.mlp_width, spec.mlp_bias
    yield "down", spec.mlp_width, spec.width, spec.mlp_bias
