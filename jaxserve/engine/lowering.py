"""Every shape that may run, as a key and a function that lowers it. What is compiled is decided here, and nowhere else.

("prefill", tokens)  ("decode", rows)  ("prompt logprobs", tokens)  ("all prompt logprobs", tokens)
("sample", rows, mode)
("init penalties",)  ("set penalty row",)  ("copy pages",)  ("set last tokens",)
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxserve.engine import batch
from jaxserve.engine.buckets import Buckets
from jaxserve.engine.step import (
    ModelContext,
    compute_prompt_logprobs,
    copy_pages,
    forward,
    sample_tokens,
    set_last_tokens,
)
from jaxserve.sampling import penalties
from jaxserve.sampling.sampler import LogprobsConfig, SampleMode
from jaxserve.sampling_params import MAX_LOGPROB_TOKEN_IDS

COPIES_PER_CALL = 8  # pages; a step that copies more makes several calls


@dataclass(frozen=True, kw_only=True)
class ProgramShapes:
    """What the shapes are made of. rows: the batch's rows and one more, which padding writes into.

    batch_invariant   batch invariance: one shape and one sampler for everything
    all_logprobs   log-probabilities of the whole vocabulary may be asked for
    """

    model: ModelContext
    buckets: Buckets
    max_pages_per_row: int
    vocab_size: int
    num_rows: int
    logprobs_config: LogprobsConfig
    batch_invariant: bool
    all_logprobs: bool

    @property
    def modes(self) -> tuple[SampleMode, ...]:
        """What is drawn must not depend on what neighbours ask for, so under batch invariance modes are few."""
        unused = {SampleMode.SAMPLE, SampleMode.PROCESSORS} if self.batch_invariant else set()
        return tuple(
            mode for mode in SampleMode if mode not in unused and (self.all_logprobs or mode != SampleMode.ALL_LOGPROBS)
        )

    def choose_mode(self, wanted: SampleMode) -> SampleMode:
        """The cheapest mode there is that does what is wanted."""
        return min(mode for mode in self.modes if mode >= wanted)

    @property
    def sample_row_counts(self) -> tuple[int, ...]:
        """Numbers of rows that tokens are drawn for: those of decode batches, and one after a prompt."""
        return tuple(sorted({*self.buckets.decode} if self.batch_invariant else {1, *self.buckets.decode}))

    @property
    def decode_layout(self) -> batch.Layout:
        return batch.Layout(self.max_pages_per_row, 1 if self.batch_invariant else 0)

    def prefill_program(self, tokens: int) -> tuple[Hashable, int, batch.Layout]:
        """The program that computes a chunk of so many tokens, its lines and their layout."""
        if self.batch_invariant:
            return ("decode", tokens), tokens, self.decode_layout
        return ("prefill", tokens), 1, batch.Layout(self.max_pages_per_row, tokens)


def make_lowerings(
    shapes: ProgramShapes, weights: Sequence[Any], pages: tuple[Any, ...], last_token_R: Array
) -> dict[Hashable, Callable[[], Any]]:
    """Key → what lowers it. The slowest kinds come first."""
    state = _Lowerer(shapes, weights, pages, last_token_R)
    found: dict[Hashable, Callable[[], Any]] = {}
    for tokens in () if shapes.batch_invariant else shapes.buckets.prefill:
        found["prefill", tokens] = partial(state.forward, 1, batch.Layout(shapes.max_pages_per_row, tokens))
    for rows in shapes.buckets.decode:
        found["decode", rows] = partial(state.forward, rows, shapes.decode_layout)
    for tokens in shapes.buckets.prefill:
        found["prompt logprobs", tokens] = partial(state.prompt_logprobs, tokens, False)
        if shapes.all_logprobs:
            found["all prompt logprobs", tokens] = partial(state.prompt_logprobs, tokens, True)
    for rows in shapes.sample_row_counts:
        for mode in shapes.modes:
            found["sample", rows, mode] = partial(state.sample, rows, mode)
    found["init penalties",] = state.init_penalties
    found["set penalty row",] = state.set_penalty_row
    found["copy pages",] = state.copy_pages
    found["set last tokens",] = state.set_last_tokens
    return found


@dataclass(frozen=True)
class _Lowerer:
    """What every lowering is given: the real arrays where they exist, their shapes where not.

    Every function is a partial, which no other is equal to: what JAX remembers of an engine before this one, a
    program that the store lacks among it, plays no part.
    """

    shapes: ProgramShapes
    weights: Sequence[Any]
    pages: tuple[Any, ...]
    last_token_R: Array

    def forward(self, rows: int, layout: batch.Layout) -> Any:
        step = jax.jit(partial(forward, self.shapes.model, layout), donate_argnums=1, keep_unused=True)
        return step.lower(self.weights, self.pages, self.last_token_R, _ints(rows, layout.num_columns))

    def prompt_logprobs(self, tokens: int, whole: bool) -> Any:
        step = jax.jit(
            partial(compute_prompt_logprobs, self.shapes.model, self.shapes.logprobs_config, whole), keep_unused=True
        )
        _, rows, layout = self.shapes.prefill_program(tokens)
        model = self.shapes.model
        hidden = jax.ShapeDtypeStruct((rows * max(1, layout.num_tokens), model.spec.width), model.dtype)
        return step.lower(self.weights, hidden, _ints(tokens))

    def sample(self, rows: int, mode: SampleMode) -> Any:
        step = jax.jit(
            partial(sample_tokens, mode=mode, logprobs_config=self.shapes.logprobs_config),
            donate_argnums=(0, 1),
            keep_unused=True,
        )
        logits = jax.ShapeDtypeStruct((rows, self.shapes.vocab_size), jnp.float32)
        more = (None, None, None, None)
        if mode >= SampleMode.PROCESSORS:
            mask = jax.ShapeDtypeStruct((rows, penalties.num_words(self.shapes.vocab_size)), jnp.uint32)
            grammar = mask if mode >= SampleMode.LOGPROBS else None
            more = (self.penalties, mask, grammar, _ints(rows, MAX_LOGPROB_TOKEN_IDS))
        return step.lower(self.last_token_R, more[0], logits, _ints(rows, batch.NUM_SAMPLER_COLUMNS), *more[1:])

    @property
    def penalties(self) -> penalties.PenaltyState:
        return jax.eval_shape(partial(penalties.init, self.shapes.num_rows, self.shapes.vocab_size))

    def init_penalties(self) -> Any:
        return jax.jit(partial(penalties.init, self.shapes.num_rows, self.shapes.vocab_size)).lower()

    def set_penalty_row(self) -> Any:
        new = penalties.build_row((), (), (), self.shapes.vocab_size)
        return jax.jit(partial(penalties.set_row), donate_argnums=0).lower(self.penalties, np.int32(0), new)

    def copy_pages(self) -> Any:
        num = _ints(COPIES_PER_CALL)
        return jax.jit(partial(copy_pages), donate_argnums=0).lower(self.pages, num, num)

    def set_last_tokens(self) -> Any:
        num = _ints(self.shapes.num_rows)
        return jax.jit(partial(set_last_tokens), donate_argnums=0).lower(self.last_token_R, num, num)


def _ints(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.int32)
