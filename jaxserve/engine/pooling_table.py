"""The programs of an engine that pools. There are no decode steps and no sampler, and nothing of them is compiled."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from jaxserve.engine.device_state import DeviceState
from jaxserve.engine.pooling_step import NUM_LENGTHS, PoolingContext, pool_chunks, pool_sequences
from jaxserve.engine.program_table import Forward, ProgramKey, ProgramTable, Sample, ints, shapes_of
from jaxserve.engine.step_inputs import InputLayout
from jaxserve.models.pooling_spec import PoolingTask
from jaxserve.parallel.sharding import STACKED, WHOLE, split_specs

MIN_LENGTH = 16  # tokens of the shortest bucket of an encoder
ROW_STEP = 4  # an encoder's calls have 1, 4, 16 … sequences, up to what a step has room for


@dataclass(frozen=True, slots=True)
class PoolChunks:
    """A decoder's pass over chunks of `rows` prompts with `tokens` tokens, and their pooling."""

    rows: int
    tokens: int

    def make_layout(self, table: ProgramTable) -> InputLayout:
        """Return the layout of the inputs."""
        return Forward(self.rows, self.tokens).make_layout(table)

    def lower(self, table: Any, weights: Sequence[Any], state: DeviceState) -> Any:
        """Lower the program."""
        layout = self.make_layout(table)
        step = table.placement.jit(
            partial(pool_chunks, table.context, layout),
            in_specs=(STACKED, split_specs(weights), WHOLE, WHOLE),
            out_specs=(STACKED, WHOLE),
            donate_argnums=0,
        )
        return step.lower(state.pages, shapes_of(weights), state.rows, ints(layout.size))


@dataclass(frozen=True, slots=True)
class PoolSequences:
    """An encoder's pass over `rows` sequences of up to `length` tokens, and their pooling."""

    rows: int
    length: int

    def make_empty(self) -> np.ndarray:
        """Return a new buffer, int32 [B, S + NUM_LENGTHS], to be filled: sequences of one token."""
        buffer_BX = np.zeros((self.rows, self.length + NUM_LENGTHS), np.int32)
        buffer_BX[:, -2:] = 1, self.length
        return buffer_BX

    def lower(self, table: Any, weights: Sequence[Any], state: DeviceState) -> Any:
        """Lower the program."""
        step = table.placement.jit(partial(pool_sequences, table.context), (split_specs(weights), WHOLE), WHOLE)
        return step.lower(shapes_of(weights), ints(self.rows, self.length + NUM_LENGTHS))


@dataclass(frozen=True, kw_only=True)
class PoolingTable(ProgramTable):
    """The programs of an engine that pools.

    task              What the model pools for.
    max_step_tokens   The most tokens of a step, padding included: of one call of an encoder.
    max_length        The longest sequence.
    """

    task: PoolingTask
    max_step_tokens: int
    max_length: int

    @property
    def context(self) -> PoolingContext:
        """The static description of the model and its pooling."""
        return PoolingContext(self.model, self.task.spec)

    @property
    def decodes(self) -> tuple[Forward, ...]:
        """Nothing is decoded."""
        return ()

    @property
    def forwards(self) -> tuple[Forward, ...]:
        """Nothing has logits."""
        return ()

    @property
    def samples(self) -> tuple[Sample, ...]:
        """Nothing is sampled."""
        return ()

    @cached_property
    def pools(self) -> tuple[PoolChunks, ...]:
        """The passes over prompt chunks, by size; none of an encoder."""
        if self.task.is_encoder:
            return ()
        return tuple(PoolChunks(key.rows, key.num_tokens) for key in self.prefills)

    @cached_property
    def encodes(self) -> tuple[PoolSequences, ...]:
        """The passes over whole sequences, by length, and for each length by rows; none of a decoder.

        Under batch invariance a length has one number of rows.
        """
        if not self.task.is_encoder:
            return ()
        keys: list[PoolSequences] = []
        for length in list_lengths(self.max_length):
            most = max(1, min(self.num_rows - 1, self.max_step_tokens // length))
            rows = [most] if self.batch_invariant else list_rows(most)
            keys += [PoolSequences(each, length) for each in rows]
        return tuple(keys)

    def list_keys(self) -> tuple[ProgramKey, ...]:
        """Return the names of all programs, those that compile slowest first."""
        return (*self.pools[::-1], *self.encodes[::-1])

    def fingerprint(self, weights: Sequence[Any], state: DeviceState) -> list[Any]:
        """Return everything that the programs depend on besides their keys."""
        return [*super().fingerprint(weights, state), self.task.spec]


def list_lengths(longest: int) -> list[int]:
    """Return the lengths of an encoder's rows: powers of two, and the longest sequence."""
    lengths = [MIN_LENGTH]
    while lengths[-1] < longest:
        lengths.append(2 * lengths[-1])
    return [*(length for length in lengths if length < longest), longest]


def list_rows(most: int) -> list[int]:
    """Return the numbers of rows of an encoder's calls."""
    rows = [1]
    while rows[-1] * ROW_STEP < most:
        rows.append(rows[-1] * ROW_STEP)
    return rows if most == 1 else [*rows, most]


def list_keys_by_length(table: PoolingTable) -> dict[int, list[PoolSequences]]:
    """Return an encoder's programs by length, each list by rows."""
    by_length: dict[int, list[PoolSequences]] = {}
    for key in table.encodes:
        by_length.setdefault(key.length, []).append(key)
    return by_length
