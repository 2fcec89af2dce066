"""A decoder with pages of its own: rows take their next tokens and give the logits after each."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxserve.attention import AttentionInputs, list_backends
from jaxserve.cache.groups import make_groups
from jaxserve.cache.layer_cache import LayerCache, PagedKeysValues, RecurrentState
from jaxserve.cache.pages import CacheTypes, make_pages
from jaxserve.layers.param_spec import ParamPath
from jaxserve.layers.quant import PackedWeight
from jaxserve.models import registry
from jaxserve.models.spec import DecoderSpec

PAGE = 16


def place(config: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> dict[ParamPath, jax.Array]:
    """Checkpoint tensors → the decoder's leaves, every shape checked on both sides."""
    architecture = registry.find_architecture(config)
    spec = architecture.spec(config)
    _, shapes = registry.abstract_decoder(spec, jnp.float32)
    params = architecture.params(spec)
    assert params.keys() == shapes.keys()
    placed = {}
    for path, param in params.items():
        origin = param.choose_origin(weights)
        for source in origin.sources:
            assert weights[source.name].shape == source.shape, source.name
        placed[path] = jnp.asarray(origin.read(lambda name, part: weights[name][part]))
        assert placed[path].shape == shapes[path].shape == param.shape, path
    return placed


class Paged:
    """Rows of at most `capacity` tokens. Every row's pages are scattered over the pool; page 0 takes the padding."""

    def __init__(
        self,
        spec: DecoderSpec,
        leaves: Mapping[ParamPath, jax.Array | PackedWeight],
        *,
        rows: int = 1,
        capacity: int = 128,
        backend: str = "reference",
        dtype: Any = jnp.float32,
        page_type: Any = None,
    ) -> None:
        self.spec = spec
        self.leaves = {
            path: leaf if isinstance(leaf, PackedWeight) else leaf.astype(dtype) for path, leaf in leaves.items()
        }
        backend = list_backends(backend, "cpu")[0]
        graphdef, _ = registry.abstract_decoder(spec, dtype)
        count = -(-capacity // PAGE)
        order = np.random.default_rng(0).permutation(np.arange(1, rows * count + 1))
        self.table_BW = order.reshape(rows, count).astype(np.int32)
        groups = make_groups([_without_window(layer.attention.cache) for layer in spec.layers])
        self.slot_B1 = np.random.default_rng(1).permutation(np.arange(1, rows + 1))[:, None].astype(np.int32)
        num_pages = [rows + 1 if group.is_recurrent else rows * count + 1 for group in groups]
        types = CacheTypes(page_type or dtype, dtype)
        self._is_recurrent = [isinstance(layer.attention.cache, RecurrentState) for layer in spec.layers]
        self.pages = make_pages(backend, groups, num_pages=num_pages, page_size=PAGE, types=types)
        self.length_B = np.zeros(rows, np.int32)

        @jax.jit
        def step(leaves, token_T, inputs, pages):
            model = registry.merge_params(graphdef, leaves)
            hidden_TD, pages, _ = model(token_T, inputs, pages, backend)
            return model.compute_logits(hidden_TD), pages

        self._step = step

    @classmethod
    def of(cls, config: Mapping[str, Any], weights: Mapping[str, np.ndarray], **how: Any) -> "Paged":
        """The same from a config.json and the tensors of a checkpoint."""
        return cls(registry.find_architecture(config).spec(config), place(config, weights), **how)

    def feed(self, *rows: Sequence[int], columns: int | None = None) -> list[np.ndarray]:
        """One step: each row's next tokens, padding behind the last. Logits [n, V] of each row."""
        counts, columns = [*map(len, rows)], columns or max(map(len, rows))
        assert columns > 1 or all(counts)
        start = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        token = np.zeros(len(rows) * columns, np.int32)
        position, slot = np.zeros_like(token), np.zeros_like(token)
        for row, tokens in enumerate(rows):
            at = np.arange(self.length_B[row], self.length_B[row] + len(tokens))
            taken = slice(start[row], start[row + 1])
            token[taken], position[taken] = tokens, at
            slot[taken] = self.table_BW[row, at // PAGE] * PAGE + at % PAGE
            self.length_B[row] += len(tokens)
        inputs = AttentionInputs(position, slot, self.table_BW, self.length_B.copy(), start, columns)
        slots = replace(inputs, page_table_BW=np.where(self.length_B[:, None] > 0, self.slot_B1, 0))
        by_layer = tuple(slots if is_recurrent else inputs for is_recurrent in self._is_recurrent)
        logits_TV, self.pages = self._step(self.leaves, token, by_layer, self.pages)
        return np.split(np.asarray(logits_TV)[: start[-1]], start[1:-1])


def _without_window(cache: LayerCache) -> LayerCache:
    """Every row keeps all its pages."""
    return replace(cache, window=None) if isinstance(cache, PagedKeysValues) else cache
