"""A model in one form, read as a whole: token ids in, logits after each token out, every window from an empty cache."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxserve.attention import AttentionInputs
from jaxserve.attention.page_types import choose_page_type
from jaxserve.cache.groups import make_groups
from jaxserve.cache.pages import CacheTypes, make_pages
from jaxserve.config import EngineConfig
from jaxserve.engine.opened_model import open_model
from jaxserve.engine.program_plan import choose_attention
from jaxserve.models import registry
from jaxserve.weights.load import load_params

Reader: TypeAlias = Callable[[Sequence[int]], np.ndarray]
MULTIPLE = 128  # tokens, or a page of more; every length is a program


def open_reader(config: EngineConfig) -> Reader:
    """Load a model, and return a function from token_T to float32 logits_TV.

    It runs what a step of the engine runs, in one chunk: packed products, and attention that reads back what it has
    stored in pages.

    Raises StartupError if the model cannot be had in this form, ValueError if it has recurrent layers.
    """
    opened = open_model(config, None, None, None)
    graphdef, _ = registry.abstract_decoder(opened.spec, opened.dtype)
    groups = make_groups(opened.architecture.cache(opened.spec))
    if any(group.is_recurrent for group in groups):
        raise ValueError(f"{config.model} has recurrent layers, whose states are no pages; only paged layers are read.")
    choice = choose_attention(config, opened, groups)
    backend, page_size = choice.backend, choice.config.page_size
    weights = load_params(opened.checkpoint, opened.leaves, opened.shapes)
    types = CacheTypes(choose_page_type(config.kv_cache_dtype, opened.dtype), opened.dtype)

    @jax.jit
    def read(weights: Any, token_T: Any) -> Any:
        num_pages = len(token_T) // page_size
        inputs = _one_row(num_pages, page_size)
        model = registry.merge_params(graphdef, weights)
        pages = make_pages(backend, groups, num_pages=[num_pages + 1] * len(groups), page_size=page_size, types=types)
        hidden_TD, *_ = model(token_T, (inputs,) * opened.spec.num_layers, pages, backend)
        return model.compute_logits(hidden_TD).astype(jnp.float32)

    def read_tokens(token_T: Sequence[int]) -> np.ndarray:
        multiple = max(MULTIPLE, page_size)
        padded_T = np.zeros(-(-len(token_T) // multiple) * multiple, np.int32)
        padded_T[: len(token_T)] = token_T  # no token sees what stands behind it
        return np.asarray(read(weights, padded_T))[: len(token_T)]

    return read_tokens


def _one_row(num_pages: int, page_size: int) -> AttentionInputs:
    """One row that begins with an empty cache and fills so many pages; page 0 is nobody's."""
    num_tokens = num_pages * page_size
    position_T = jnp.arange(num_tokens, dtype=jnp.int32)
    return AttentionInputs(
        position_T=position_T,
        slot_T=position_T + page_size,
        page_table_BW=jnp.arange(1, num_pages + 1, dtype=jnp.int32)[None],
        length_B=jnp.array([num_tokens], jnp.int32),
        query_start_B1=jnp.array([0, num_tokens], jnp.int32),
        max_queries_per_row=num_tokens,
    )
