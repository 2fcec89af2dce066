"""Partial softmax sums of splits of the keys, and how they are added.

Units are what is split: rows of decode, tiles of prefill. Sums are added in the order of their splits, so that a
unit's result depends on nothing else in the batch.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxserve.attention.gpu.blocks import (
    MASKED_SCORE,
    SoftmaxState,
    ceil_div,
    indices,
    init_softmax,
    load_masked,
    store_masked,
)


class PartialSums(NamedTuple):
    """The states of the splits, float32, as shapes, arrays or refs. Those of splits that do not exist hold anything.

    M is the number of query rows of a unit; kernels compute a power of two of them and leave the surplus out here.
    """

    max_UKSM: Any
    sum_UKSM: Any
    acc_UKSMH: Any

    @classmethod
    def describe(cls, units: int, kv_heads: int, splits: int, rows: int, head_dim: int) -> "PartialSums":
        """Return the shapes."""
        shape = (units, kv_heads, splits, rows)
        part = jax.ShapeDtypeStruct(shape, jnp.float32)
        return cls(part, part, jax.ShapeDtypeStruct((*shape, head_dim), jnp.float32))

    def store(self, unit: Array, head: Array, split: Array, state: SoftmaxState) -> None:
        """Store the state of a split."""
        index_M, index_MH, mask_M, mask_MH = self._indices(*state.acc_MH.shape)
        place = (unit, head, split)
        store_masked(self.max_UKSM, (*place, index_M), state.running_max_M, mask_M)
        store_masked(self.sum_UKSM, (*place, index_M), state.running_sum_M, mask_M)
        store_masked(self.acc_UKSMH, (*place, *index_MH), state.acc_MH, mask_MH)

    def add_up(
        self, unit: Array, head: Array, num_splits: Array, *, rows: int, lanes: int, loads: int = 1
    ) -> SoftmaxState:
        """Return the state of all splits of a unit.

        loads   So many splits are loaded together, that their latencies overlap.
        """
        index_M, index_MH, mask_M, mask_MH = self._indices(rows, lanes)

        def load(split: Array) -> SoftmaxState:
            is_split, place = split < num_splits, (unit, head, split)
            part_max_M = load_masked(self.max_UKSM, (*place, index_M), mask_M & is_split)
            return SoftmaxState(
                jnp.where(mask_M & is_split, part_max_M, MASKED_SCORE),
                load_masked(self.sum_UKSM, (*place, index_M), mask_M & is_split),
                load_masked(self.acc_UKSMH, (*place, *index_MH), mask_MH & is_split),
            )

        def add(turn: Array, state: SoftmaxState) -> SoftmaxState:
            for part in [load(turn * loads + offset) for offset in range(loads)]:
                state = _merge(state, part)
            return state

        return jax.lax.fori_loop(jnp.int32(0), ceil_div(num_splits, loads), add, init_softmax(rows, lanes))

    def _indices(self, rows: int, lanes: int) -> tuple[Array, tuple[Array, Array], Array, Array]:
        index_M, index_H = indices(rows), indices(lanes)
        mask_M = index_M < self.acc_UKSMH.shape[3]
        mask_MH = mask_M[:, None] & (index_H < self.acc_UKSMH.shape[4])[None, :]
        return index_M, (index_M[:, None], index_H[None, :]), mask_M, mask_MH


def _merge(state: SoftmaxState, part: SoftmaxState) -> SoftmaxState:
    new_max_M = jnp.maximum(state.running_max_M, part.running_max_M)
    rescale_M, part_rescale_M = (jnp.exp2(each.running_max_M - new_max_M) for each in (state, part))
    return SoftmaxState(
        new_max_M,
        state.running_sum_M * rescale_M + part.running_sum_M * part_rescale_M,
        state.acc_MH * rescale_M[:, None] + part.acc_MH * part_rescale_M[:, None],
    )
