"""The table of an engine's programs. Lowering, warm-up and dispatch follow from it, and nothing else is compiled.

A program is named by a frozen value that holds what distinguishes it; its `lower` says how it is made.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxserve.engine.buckets import Buckets
from jaxserve.engine.device_state import DeviceState, set_rows
from jaxserve.engine.host_states import read_state, write_state
from jaxserve.engine.multi_step import decode_steps, list_multi_step_columns
from jaxserve.engine.plan import MULTI_STEP_MODES
from jaxserve.engine.step import ModelContext, compute_prompt_logprobs, copy_pages, forward, sample_tokens
from jaxserve.engine.step_inputs import InputLayout, SampleInputs, step_shapes
from jaxserve.layers.adapted import AdapterLayout, set_slot
from jaxserve.native import library
from jaxserve.parallel.placement import Placement
from jaxserve.parallel.sharding import BY_VOCAB, STACKED, WHOLE, pad_vocab, split_specs
from jaxserve.sampling import penalties
from jaxserve.sampling.columns import NUM_COLUMNS
from jaxserve.sampling.packed_output import Columns, PackedOutput, list_columns, list_prompt_columns
from jaxserve.sampling.sampler import LogprobsConfig, SampleMode
from jaxserve.sampling_params import MAX_LOGPROB_TOKEN_IDS

COPIES_PER_CALL = 8  # pages of each cache group; a step that copies more makes several calls
MAX_CHUNKS_PER_CALL = 8
MIN_TOKENS_PER_CHUNK = 8  # of a call that is full; it bounds the rows of logits, which small calls have no use for


# How the inputs and the output of the sampler are split among devices: all_logprob_BV stays where it is computed.
_INPUTS_SPECS: Any = (WHOLE, WHOLE, WHOLE, BY_VOCAB, WHOLE, BY_VOCAB)
SAMPLE_INPUTS_SPECS = SampleInputs(*_INPUTS_SPECS)
_OUTPUT_SPECS: Any = (WHOLE, BY_VOCAB)
PACKED_OUTPUT_SPECS = PackedOutput(*_OUTPUT_SPECS)


class ProgramKey(Protocol):
    """The name of a program."""

    def lower(self, table: "ProgramTable", weights: Sequence[Any], state: DeviceState) -> Any:
        """Lower the program. weights and state are arrays, or their shapes."""
        ...


@dataclass(frozen=True, slots=True)
class Forward:
    """The forward pass of `rows` rows, over `tokens` tokens that the host gives; None: over the rows' newest tokens.

    has_adapters   Rows may have adapters. Without, nothing of them is in the program.
    """

    rows: int
    tokens: int | None = None
    has_adapters: bool = False

    @property
    def num_tokens(self) -> int:
        """The number of tokens, padding included."""
        return self.rows if self.tokens is None else self.tokens

    def make_layout(self, table: "ProgramTable") -> InputLayout:
        """Return the layout of the inputs."""
        return InputLayout(step_shapes(self.rows, self.tokens, table.page_table_widths, has_adapters=self.has_adapters))

    def lower(self, table: "ProgramTable", weights: Sequence[Any], state: DeviceState) -> Any:
        """Lower the program."""
        layout = self.make_layout(table)
        stacks = (table.adapters.stacks,) if self.has_adapters else ()
        step = table.placement.jit(
            partial(forward, table.model, layout),
            in_specs=(STACKED, split_specs(weights), WHOLE, WHOLE, *split_specs(stacks)),
            out_specs=(STACKED, BY_VOCAB, WHOLE, WHOLE, *(() if table.model.routed is None else (WHOLE,))),
            donate_argnums=0,
        )
        return step.lower(state.pages, shapes_of(weights), state.rows, ints(layout.size), *shapes_of(stacks))


@dataclass(frozen=True, slots=True)
class Sample:
    """The sampling of a token for each of `rows` rows of logits."""

    rows: int
    mode: SampleMode

    def list_columns(self, table: "ProgramTable") -> Columns:
        """Return the columns of the output."""
        return list_columns(self.mode, table.logprobs_config, table.padded_vocab_size)

    def lower(self, table: "ProgramTable", weights: Sequence[Any], state: DeviceState) -> Any:
        """Lower the program."""
        step = table.placement.jit(
            partial(
                sample_tokens,
                mode=self.mode,
                logprobs_config=table.logprobs_config,
                columns=self.list_columns(table),
                ranks=table.placement.ranks,
            ),
            in_specs=(WHOLE, BY_VOCAB, BY_VOCAB, SAMPLE_INPUTS_SPECS),
            out_specs=(WHOLE, BY_VOCAB, PACKED_OUTPUT_SPECS),
            donate_argnums=(0, 1),
        )
        needs_processors, rows = self.mode >= SampleMode.PROCESSORS, self.rows
        mask: Any = jax.ShapeDtypeStruct((rows, penalties.num_words(table.padded_vocab_size)), jnp.uint32)
        inputs = SampleInputs(
            row_B=ints(rows),
            position_B=ints(rows),
            sampling_BS=ints(rows, NUM_COLUMNS),
            mask_BM=mask if needs_processors else None,
            logprob_token_id_BI=ints(rows, MAX_LOGPROB_TOKEN_IDS) if needs_processors else None,
            grammar_BM=mask if self.mode >= SampleMode.LOGPROBS else None,
        )
        logits = jax.ShapeDtypeStruct((rows, table.padded_vocab_size), jnp.float32)
        return step.lower(state.rows, state.penalties if needs_processors else None, logits, inputs)


@dataclass(frozen=True, slots=True)
class MultiStep:
    """Decode steps of `rows` rows for up to `tokens` tokens each, which are sampled in one of MULTI_STEP_MODES.

    has_adapters   As in Forward.
    """

    rows: int
    tokens: int
    mode: SampleMode
    has_adapters: bool = False

    def make_layout(self, table: "ProgramTable") -> InputLayout:
        """Return the layout of the inputs."""
        widths = table.page_table_widths
        return InputLayout(step_shapes(self.rows, None, widths, has_adapters=self.has_adapters, has_stops=True))

    def list_columns(self, table: "ProgramTable") -> Columns:
        """Return the columns of the output."""
        return list_multi_step_columns(self.tokens)

    def lower(self, table: "ProgramTable", weights: Sequence[Any], state: DeviceState) -> Any:
        """Lower the program."""
        layout = self.make_layout(table)
        stacks = (table.adapters.stacks,) if self.has_adapters else ()
        step = table.placement.jit(
            partial(decode_steps, table.model, layout, self.tokens, self.mode),
            in_specs=(STACKED, split_specs(weights), WHOLE, BY_VOCAB, WHOLE, *split_specs(stacks)),
            out_specs=(STACKED, WHOLE, BY_VOCAB, PACKED_OUTPUT_SPECS),
            donate_argnums=(0, 2, 3),
        )
        penalty_state = state.penalties if self.mode >= SampleMode.PROCESSORS else None
        arguments = (state.pages, shapes_of(weights), state.rows, penalty_state, ints(layout.size))
        return step.lower(*arguments, *shapes_of(stacks))


@dataclass(frozen=True, slots=True)
class PromptLogprobs:
    """The log-probabilities of given next tokens at `tokens` positions; all: of the whole vocabulary, too."""

    tokens: int
    all: bool

    def list_columns(self, table: "ProgramTable") -> Columns:
        """Return the columns of the output."""
        return list_prompt_columns(table.logprobs_config, table.padded_vocab_size)

    def lower(self, table: "ProgramTable", weights: Sequence[Any], state: DeviceState) -> Any:
        """Lower the program."""
        step = table.placement.jit(
            partial(compute_prompt_logprobs, table.model, table.logprobs_config, self.all, self.list_columns(table)),
            in_specs=(split_specs(weights), WHOLE, WHOLE),
            out_specs=PACKED_OUTPUT_SPECS,
        )
        hidden = jax.ShapeDtypeStruct((self.tokens, table.model.spec.width), table.model.dtype)
        return step.lower(shapes_of(weights), hidden, ints(self.tokens))


@dataclass(frozen=True, slots=True)
class InitPenalties:
    """The creation of the penalty state."""

    def lower(self, table: "ProgramTable", weights: Sequence[Any], state: DeviceState) -> Any:
        """Lower the program."""
        columns = table.padded_vocab_size // table.placement.size
        return table.placement.jit(partial(penalties.init, table.num_rows, columns), (), BY_VOCAB).lower()


@dataclass(frozen=True, slots=True)
class SetPenaltyRow:
    """The update of one row's penalty state."""

    def lower(self, table: "ProgramTable", weights: Sequence[Any], state: DeviceState) -> Any:
        """Lower the program."""
        row = penalties.build_row((), (), (), table.padded_vocab_size)
        step = table.placement.jit(partial(penalties.set_row), (BY_VOCAB, WHOLE, STACKED), BY_VOCAB, donate_argnums=0)
        return step.lower(state.penalties, np.int32(0), row)


@dataclass(frozen=True, slots=True)
class SetRows:
    """The update of rows' newest tokens and lengths."""

    def lower(self, table: "ProgramTable", weights: Sequence[Any], state: DeviceState) -> Any:
        """Lower the program."""
        column_N = ints(table.num_rows)
        step = table.placement.jit(partial(set_rows), (WHOLE,) * 4, WHOLE, donate_argnums=0)
        return step.lower(state.rows, column_N, column_N, column_N)


@dataclass(frozen=True, slots=True)
class CopyPages:
    """The copy of COPIES_PER_CALL pages of each cache group."""

    def lower(self, table: "ProgramTable", weights: Sequence[Any], state: DeviceState) -> Any:
        """Lower the program."""
        page_GN = (ints(COPIES_PER_CALL),) * len(table.model.groups)
        step = table.placement.jit(
            partial(copy_pages, table.placement.platform == "cpu"), (STACKED, WHOLE, WHOLE), STACKED, donate_argnums=0
        )
        return step.lower(state.pages, page_GN, page_GN)


@dataclass(frozen=True, slots=True)
class ReadState:
    """The copy of one state out of a recurrent group, for host memory."""

    group: int

    def lower(self, table: "ProgramTable", weights: Sequence[Any], state: DeviceState) -> Any:
        """Lower the program."""
        step = table.placement.jit(partial(read_state, self.group), (STACKED, WHOLE), STACKED)
        return step.lower(state.pages, np.int32(0))


@dataclass(frozen=True, slots=True)
class WriteState:
    """The copy of one state from host memory into a recurrent group."""

    group: int

    def lower(self, table: "ProgramTable", weights: Sequence[Any], state: DeviceState) -> Any:
        """Lower the program."""
        pages: Any = state.pages
        read = table.placement.jit(partial(read_state, self.group), (STACKED, WHOLE), STACKED)
        states = jax.eval_shape(read, pages, np.int32(0))
        step = table.placement.jit(
            partial(write_state, self.group), (STACKED, STACKED, WHOLE), STACKED, donate_argnums=0
        )
        return step.lower(pages, states, np.int32(0))


@dataclass(frozen=True, slots=True)
class SetAdapter:
    """The writing of an adapter into a slot."""

    def lower(self, table: "ProgramTable", weights: Sequence[Any], state: DeviceState) -> Any:
        """Lower the program."""
        layout = table.adapters
        specs = split_specs(layout.stacks)
        step = table.placement.jit(partial(set_slot, layout.rank), (specs, WHOLE, specs), specs, donate_argnums=0)
        return step.lower(shapes_of(layout.stacks), np.int32(1), layout.slot_shapes())


@dataclass(frozen=True, kw_only=True)
class ProgramTable:
    """The programs of an engine, and which of them serves a call.

    model               The static description of the model.
    buckets             The compiled batch sizes.
    max_pages_per_row   The width of a page table, but of those of recurrent layers.
    vocab_size          The number of token ids.
    num_rows            The number of rows of the batch, and one more that padding writes into.
    logprobs_config     The log-probabilities that the sampler computes.
    batch_invariant     One shape and one sampler for everything, so that no token depends on the rest of the batch: a
                        forward pass of as many rows as tokens.
    all_logprobs        Log-probabilities of the whole vocabulary may be asked for.
    placement           The devices.
    first_host_pages    For each recurrent group whose snapshots host memory holds, too: the page id of the first there.
    max_tokens_per_row  The most tokens that a decode step gives a row.
    """

    model: ModelContext
    buckets: Buckets
    max_pages_per_row: int
    vocab_size: int
    num_rows: int
    logprobs_config: LogprobsConfig
    batch_invariant: bool
    all_logprobs: bool
    placement: Placement
    first_host_pages: Mapping[int, int] = field(default_factory=dict)
    max_tokens_per_row: int = 1

    @cached_property
    def padded_vocab_size(self) -> int:
        """The number of token ids, with those that only give all devices equal parts."""
        return pad_vocab(self.vocab_size, self.placement.size)

    @cached_property
    def page_table_widths(self) -> tuple[int, ...]:
        """The width of a page table of each cache group."""
        return tuple(group.page_table_width(self.max_pages_per_row) for group in self.model.groups)

    @property
    def adapters(self) -> AdapterLayout:
        """The arrays of adapters, of a model that has some."""
        assert self.model.adapters is not None
        return self.model.adapters

    @cached_property
    def decodes(self) -> tuple[Forward, ...]:
        """The forward passes of decode batches, by size."""
        return tuple(self._forward(rows, rows if self.batch_invariant else None) for rows in self.buckets.decode)

    @cached_property
    def prefills(self) -> tuple[Forward, ...]:
        """The forward passes of prompt chunks, by size."""
        return tuple(self._forward(self._max_chunks(tokens), tokens) for tokens in self.buckets.prefill)

    def _forward(self, rows: int, tokens: int | None) -> Forward:
        """Return a forward pass without adapters, but under batch invariance there is one for all."""
        return Forward(rows, tokens, has_adapters=self.batch_invariant and self.model.adapters is not None)

    @cached_property
    def forwards(self) -> tuple[Forward, ...]:
        """All forward passes, prompt chunks first, and each without adapters before the same with."""
        plain = (*self.prefills, *self.decodes)
        if self.model.adapters is None:
            return tuple(dict.fromkeys(plain))
        return tuple(dict.fromkeys(key for each in plain for key in (each, replace(each, has_adapters=True))))

    def _max_chunks(self, tokens: int) -> int:
        if self.batch_invariant:
            return tokens
        limit = min(MAX_CHUNKS_PER_CALL, tokens // MIN_TOKENS_PER_CHUNK)
        return max(rows for rows in (1, *self.buckets.decode) if rows <= max(1, limit))

    @cached_property
    def modes(self) -> tuple[SampleMode, ...]:
        """The sampler's modes that are compiled.

        Under batch invariance they are few, because a token must not depend on what other rows ask for.
        """
        unused = {SampleMode.SAMPLE, SampleMode.PROCESSORS} if self.batch_invariant else set()
        if not self.all_logprobs:
            unused.add(SampleMode.ALL_LOGPROBS)
        return tuple(mode for mode in SampleMode if mode not in unused)

    @cached_property
    def samples(self) -> tuple[Sample, ...]:
        """The samplers."""
        rows = {key.rows for key in self.forwards}
        return tuple(Sample(num, mode) for num in sorted(rows) for mode in self.modes)

    @cached_property
    def multi_steps(self) -> tuple[MultiStep, ...]:
        """The decode steps of several tokens, by size; none if a row gets one."""
        if self.max_tokens_per_row == 1:
            return ()
        kinds = (False,) if self.model.adapters is None else (False, True)
        return tuple(
            MultiStep(rows, self.max_tokens_per_row, mode, has_adapters)
            for rows in self.buckets.decode
            for mode in MULTI_STEP_MODES
            for has_adapters in kinds
        )

    @property
    def prompt_logprobs(self) -> tuple[PromptLogprobs, ...]:
        """The log-probabilities of prompt chunks."""
        kinds = (False, True) if self.all_logprobs else (False,)
        return tuple(PromptLogprobs(tokens, all_logprobs) for tokens in self.buckets.prefill for all_logprobs in kinds)

    def list_keys(self) -> tuple[ProgramKey, ...]:
        """Return the names of all programs, those that compile slowest first."""
        others = (InitPenalties(), SetPenaltyRow(), CopyPages(), SetRows())
        states = (kind(group) for group in self.first_host_pages for kind in (ReadState, WriteState))
        adapters = () if self.model.adapters is None else (SetAdapter(),)
        logprobs = self.prompt_logprobs
        return (*self.forwards, *self.multi_steps, *logprobs, *self.samples, *others, *states, *adapters)

    def make_lowerings(self, weights: Sequence[Any], state: DeviceState) -> dict[Hashable, Callable[[], Any]]:
        """Return for each program a function that lowers it. weights and state are arrays, or their shapes.

        Every lowered function is a partial of its own, which is equal to no other: so nothing that JAX has cached for
        an earlier engine of this process is used, for example a program that is not in the store.
        """
        return {key: partial(key.lower, self, weights, state) for key in self.list_keys()}

    def fingerprint(self, weights: Sequence[Any], state: DeviceState) -> list[Any]:
        """Return everything that the programs depend on besides their keys. weights and state: arrays, or shapes."""
        model, arguments = self.model, (tuple(weights), state)
        return [
            model.spec,
            model.dtype,
            model.weights,
            (model.ranks, split_specs(arguments)),
            None if model.adapters is None else (model.adapters.num_slots, model.adapters.rank),
            model.routed,
            (model.backend.name, getattr(model.backend, "__dict__", {}), model.page_size, model.groups),
            jax.tree.structure(arguments),
            [(leaf.shape, str(leaf.dtype)) for leaf in jax.tree.leaves(arguments)],
            (self.max_pages_per_row, self.padded_vocab_size, self.logprobs_config, self.batch_invariant),
            # Kernels are chosen while a program is traced, and must be registered before one from the store runs.
            self.placement.platform == "cpu" and library.is_usable(),
        ]

    def find_decode(self, num_rows: int, *, has_adapters: bool = False) -> Forward:
        """Return the program for a decode batch. has_adapters: rows have some."""
        rows = self.buckets.decode_bucket(num_rows)
        key = self._forward(rows, rows if self.batch_invariant else None)
        return replace(key, has_adapters=True) if has_adapters else key

    def find_multi_step(self, num_rows: int, needed: SampleMode, *, has_adapters: bool = False) -> MultiStep:
        """Return the program for a decode batch whose rows get several tokens, for all that mode `needed` does."""
        mode = min(mode for mode in MULTI_STEP_MODES if mode >= needed)
        return MultiStep(self.buckets.decode_bucket(num_rows), self.max_tokens_per_row, mode, has_adapters)

    def find_sample(self, rows: int, needed: SampleMode) -> Sample:
        """Return the cheapest sampler for `rows` rows of logits that does all that mode `needed` does."""
        return Sample(rows, min(mode for mode in self.modes if mode >= needed))


def shapes_of(weights: Sequence[Any]) -> Any:
    """Return shapes and types alone: the devices are the placement's."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tuple(weights))


def ints(*shape: int) -> Any:
    """Return the shape of an int32 array."""
    return jax.ShapeDtypeStruct(shape, jnp.int32)
