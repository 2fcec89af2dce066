"""The programs of an engine: their keys, and the functions that lower them. Nothing else is compiled.

("prefill", tokens)  ("decode", rows)  ("prompt logprobs", tokens)  ("all prompt logprobs", tokens)
("sample", rows, mode)
("init penalties",)  ("set penalty row",)  ("copy pages",)  ("set last tokens",)
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxserve.cache.groups import index_groups
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
from jaxserve.parallel.placement import Placement
from jaxserve.parallel.sharding import BY_VOCAB, STACKED, WHOLE, split_specs
from jaxserve.sampling import penalties
from jaxserve.sampling.sampler import LogprobsConfig, SampleMode, SamplerOutput
from jaxserve.sampling_params import MAX_LOGPROB_TOKEN_IDS

# How the sampler's output is split among devices: all_logprob_BV stays where it is computed.
SAMPLER_OUTPUT_SPECS = SamplerOutput(
    **{field.name: BY_VOCAB if field.name == "all_logprob_BV" else WHOLE for field in fields(SamplerOutput)}
)

COPIES_PER_CALL = 8  # pages of each cache group; a step that copies more makes several calls


@dataclass(frozen=True, kw_only=True)
class ProgramShapes:
    """The sizes and settings that determine the programs of an engine and their shapes.

    model               The static description of the model.
    buckets             The compiled batch sizes.
    max_pages_per_row   The width of a page table.
    vocab_size          The number of token ids.
    num_rows            The number of rows of the batch, and one more that padding writes into.
    logprobs_config     The log-probabilities that the sampler computes.
    batch_invariant     One shape and one sampler for everything, so that no token depends on the rest of the batch.
    all_logprobs        Log-probabilities of the whole vocabulary may be asked for.
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
        """The sampler's modes that are compiled.

        Under batch invariance they are few, because a token must not depend on what other rows ask for.
        """
        unused = {SampleMode.SAMPLE, SampleMode.PROCESSORS} if self.batch_invariant else set()
        return tuple(
            mode for mode in SampleMode if mode not in unused and (self.all_logprobs or mode != SampleMode.ALL_LOGPROBS)
        )

    def choose_mode(self, needed: SampleMode) -> SampleMode:
        """Return the cheapest compiled mode that does all that `needed` does."""
        return min(mode for mode in self.modes if mode >= needed)

    @property
    def sample_row_counts(self) -> tuple[int, ...]:
        """The numbers of rows for which tokens are sampled: those of decode batches, and one after a prompt."""
        return tuple(sorted({*self.buckets.decode} if self.batch_invariant else {1, *self.buckets.decode}))

    @property
    def decode_layout(self) -> batch.Layout:
        """The layout of a decode batch."""
        return self.make_layout(1 if self.batch_invariant else 0)

    def prefill_program(self, tokens: int) -> tuple[Hashable, int, batch.Layout]:
        """Return the key of the program for a chunk of `tokens` tokens, its number of lines and their layout."""
        if self.batch_invariant:
            return ("decode", tokens), tokens, self.decode_layout
        return ("prefill", tokens), 1, self.make_layout(tokens)

    def make_layout(self, tokens: int) -> batch.Layout:
        """Return the layout of lines of `tokens` tokens."""
        return batch.Layout(self.max_pages_per_row, tokens, len(self.model.groups))


def make_lowerings(
    shapes: ProgramShapes, weights: Sequence[Any], pages: tuple[Any, ...], last_token_R: Array, placement: Placement
) -> dict[Hashable, Callable[[], Any]]:
    """Return for each key of a program a function that lowers it, those that compile slowest first.

    shapes         What the programs follow from.
    weights        The weights, or their shapes.
    pages          The pages of every layer.
    last_token_R   int32, the last token of each row.
    placement      The devices.
    """
    lowerer = _Lowerer(shapes, weights, pages, last_token_R, placement)
    lowerings: dict[Hashable, Callable[[], Any]] = {}
    for tokens in () if shapes.batch_invariant else shapes.buckets.prefill:
        lowerings["prefill", tokens] = partial(lowerer.lower_forward, 1, shapes.make_layout(tokens))
    for rows in shapes.buckets.decode:
        lowerings["decode", rows] = partial(lowerer.lower_forward, rows, shapes.decode_layout)
    for tokens in shapes.buckets.prefill:
        lowerings["prompt logprobs", tokens] = partial(lowerer.lower_prompt_logprobs, tokens, False)
        if shapes.all_logprobs:
            lowerings["all prompt logprobs", tokens] = partial(lowerer.lower_prompt_logprobs, tokens, True)
    for rows in shapes.sample_row_counts:
        for mode in shapes.modes:
            lowerings["sample", rows, mode] = partial(lowerer.lower_sample, rows, mode)
    lowerings["init penalties",] = lowerer.lower_init_penalties
    lowerings["set penalty row",] = lowerer.lower_set_penalty_row
    lowerings["copy pages",] = lowerer.lower_copy_pages
    lowerings["set last tokens",] = lowerer.lower_set_last_tokens
    return lowerings


@dataclass(frozen=True)
class _Lowerer:
    """Functions that lower the programs, with real arrays where they exist and shapes where not.

    Every function is wrapped in a partial of its own, which is equal to no other: so nothing that JAX has cached for an
    earlier engine of this process is used, for example a program that is not in the store.
    """

    shapes: ProgramShapes
    weights: Sequence[Any]
    pages: tuple[Any, ...]
    last_token_R: Array
    placement: Placement

    @property
    def weight_specs(self) -> Any:
        """How each weight is split among the devices."""
        return split_specs(self.weights)

    @property
    def weight_shapes(self) -> Any:
        """Shapes and types alone: devices come from the placement."""
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), self.weights)

    def lower_forward(self, rows: int, layout: batch.Layout) -> Any:
        """Lower the forward pass of `rows` lines, for prefill or decode."""
        step = self.placement.jit(
            partial(forward, self.shapes.model, layout),
            in_specs=(self.weight_specs, STACKED, WHOLE, WHOLE),
            out_specs=(STACKED, BY_VOCAB, WHOLE, WHOLE),
            donate_argnums=1,
        )
        return step.lower(self.weight_shapes, self.pages, self.last_token_R, _ints(rows, layout.num_columns))

    def lower_prompt_logprobs(self, tokens: int, all_logprobs: bool) -> Any:
        """Lower the log-probabilities of a chunk of `tokens` prompt tokens."""
        model = self.shapes.model
        step = self.placement.jit(
            partial(compute_prompt_logprobs, model, self.shapes.logprobs_config, all_logprobs),
            in_specs=(self.weight_specs, WHOLE, WHOLE),
            out_specs=SAMPLER_OUTPUT_SPECS,
        )
        _, rows, layout = self.shapes.prefill_program(tokens)
        hidden = jax.ShapeDtypeStruct((rows * max(1, layout.num_tokens), model.spec.width), model.dtype)
        return step.lower(self.weight_shapes, hidden, _ints(tokens))

    def lower_sample(self, rows: int, mode: SampleMode) -> Any:
        """Lower the sampler for `rows` rows."""
        ranks = self.placement.ranks
        step = self.placement.jit(
            partial(sample_tokens, mode=mode, logprobs_config=self.shapes.logprobs_config, ranks=ranks),
            in_specs=(WHOLE, BY_VOCAB, BY_VOCAB, WHOLE, BY_VOCAB, BY_VOCAB, WHOLE),
            out_specs=(WHOLE, BY_VOCAB, SAMPLER_OUTPUT_SPECS),
            donate_argnums=(0, 1),
        )
        logits = jax.ShapeDtypeStruct((rows, self.shapes.vocab_size), jnp.float32)
        columns = _ints(rows, batch.NUM_SAMPLER_COLUMNS)
        if mode < SampleMode.PROCESSORS:
            return step.lower(self.last_token_R, None, logits, columns, None, None, None)
        mask = jax.ShapeDtypeStruct((rows, penalties.num_words(self.shapes.vocab_size)), jnp.uint32)
        grammar = mask if mode >= SampleMode.LOGPROBS else None
        logprob_token_ids = _ints(rows, MAX_LOGPROB_TOKEN_IDS)
        return step.lower(self.last_token_R, self.penalties, logits, columns, mask, grammar, logprob_token_ids)

    @property
    def penalties(self) -> penalties.PenaltyState:
        """The shapes of the penalty state."""
        return jax.eval_shape(partial(penalties.init, self.shapes.num_rows, self.shapes.vocab_size))

    def lower_init_penalties(self) -> Any:
        """Lower the creation of the penalty state."""
        columns = self.shapes.vocab_size // self.placement.size
        return self.placement.jit(partial(penalties.init, self.shapes.num_rows, columns), (), BY_VOCAB).lower()

    def lower_set_penalty_row(self) -> Any:
        """Lower the update of one row's penalty state."""
        row = penalties.build_row((), (), (), self.shapes.vocab_size)
        step = self.placement.jit(partial(penalties.set_row), (BY_VOCAB, WHOLE, STACKED), BY_VOCAB, donate_argnums=0)
        return step.lower(self.penalties, np.int32(0), row)

    def lower_copy_pages(self) -> Any:
        """Lower the copy of COPIES_PER_CALL pages of each cache group."""
        groups = self.shapes.model.groups
        page_GN = (_ints(COPIES_PER_CALL),) * len(groups)
        function = partial(copy_pages, index_groups(groups))
        step = self.placement.jit(function, (STACKED, WHOLE, WHOLE), STACKED, donate_argnums=0)
        return step.lower(self.pages, page_GN, page_GN)

    def lower_set_last_tokens(self) -> Any:
        """Lower the update of the rows' last tokens."""
        column_N = _ints(self.shapes.num_rows)
        step = self.placement.jit(partial(set_last_tokens), (WHOLE, WHOLE, WHOLE), WHOLE, donate_argnums=0)
        return step.lower(self.last_token_R, column_N, column_N)


def _ints(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.int32)
