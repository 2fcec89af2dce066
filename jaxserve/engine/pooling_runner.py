"""The runner of an engine that pools: plans become calls of its programs, and their outputs a vector for each chunk.

A step has no sampling, so `sample` only begins the copies of the results to the host.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jax import Array

from jaxserve.engine import batch
from jaxserve.engine.plan import Chunk, StepMasks, StepPlan, StepResult
from jaxserve.engine.pooling_executor import PoolingExecutor
from jaxserve.engine.pooling_table import PoolSequences, list_keys_by_length
from jaxserve.engine.prefill_calls import CALL_COST, divide_into_calls


@dataclass(frozen=True, slots=True)
class PoolingCall:
    """A call of a program, which is computed or will be.

    output    What it pools.
    indices   The chunks of the plan that it computes.
    parts     The part of the output that belongs to each of them: a line, or the lines of its tokens.
    """

    output: Array
    indices: tuple[int, ...]
    parts: tuple[int | slice | tuple[int, slice], ...]


class PoolingRunner:
    """The runner of one replica's steps.

    executor   The owner of its arrays.
    """

    def __init__(self, executor: PoolingExecutor) -> None:
        self.executor = executor
        table = executor.table
        self._copies_outputs = table.placement.platform != "cpu"  # whose memory the host reads in place
        self._sizes = [(key.tokens, key.rows) for key in table.pools]
        self._keys_by_length = list_keys_by_length(table)
        self._pools_tokens = table.task.spec.kind == "all"

    def forward(self, plan: StepPlan) -> tuple[PoolingCall, ...]:
        """Enqueue a step, which has prompt chunks and nothing else."""
        assert plan.decode is None and not plan.beams and not plan.page_copies, plan
        return self._encode(plan.chunks) if self._keys_by_length else self._pool(plan.chunks)

    def sample(self, handle: tuple[PoolingCall, ...], masks: StepMasks) -> tuple[PoolingCall, ...]:
        """Enqueue the copies of a step's results to the host."""
        if self._copies_outputs:
            for call in handle:
                call.output.copy_to_host_async()
        return handle

    def fetch(self, handle: tuple[PoolingCall, ...]) -> StepResult:
        """Wait for the results of a step."""
        pooled: dict[int, np.ndarray] = {}
        for call in handle:
            output = np.asarray(call.output)
            pooled |= {index: output[part].copy() for index, part in zip(call.indices, call.parts, strict=True)}
        return StepResult(None, (), (), pooled=tuple(pooled[index] for index in range(len(pooled))))

    def reset(self) -> None:
        """Make the device state anew after a call that raised; what it held is lost. Nothing is compiled."""
        self.executor.reset_state()

    def close(self) -> None:
        """Free the device memory: weights, pages and programs."""
        self.executor.close()

    def _pool(self, chunks: Sequence[Chunk]) -> tuple[PoolingCall, ...]:
        """Enqueue chunks of a decoder, as many as fit in one call."""
        calls, first, table = [], 0, self.executor.table
        for num, size in divide_into_calls([len(chunk.token_ids) for chunk in chunks], self._sizes):
            key, own = table.pools[size], chunks[first : first + num]
            buffer_X, inputs = self.executor.empty_inputs(key)
            pack = batch.pack_chunks_as_rows if table.batch_invariant else batch.pack_chunks
            parts: tuple[int | slice, ...] = pack(inputs, own)
            if self._pools_tokens:
                ends = np.cumsum([len(chunk.token_ids) for chunk in own]).tolist()
                parts = tuple(slice(start, end) for start, end in zip([0, *ends], ends, strict=False))
            calls.append(PoolingCall(self.executor.pool_chunks(key, buffer_X), tuple(range(first, first + num)), parts))
            first += num
        return tuple(calls)

    def _encode(self, chunks: Sequence[Chunk]) -> tuple[PoolingCall, ...]:
        """Enqueue whole sequences, those of similar length in one call."""
        by_length: dict[int, list[int]] = {}
        for index, chunk in enumerate(chunks):
            length = next(length for length in self._keys_by_length if length >= len(chunk.token_ids))
            by_length.setdefault(length, []).append(index)
        calls = []
        for length, indices in by_length.items():
            for key in choose_calls(len(indices), self._keys_by_length[length]):
                own, indices = indices[: key.rows], indices[key.rows :]
                buffer_BX = key.make_empty()
                for row, index in enumerate(own):
                    chunk = chunks[index]
                    num = len(chunk.token_ids)
                    buffer_BX[row, :num] = chunk.token_ids
                    buffer_BX[row, -2:] = num, num if chunk.second_start is None else chunk.second_start
                parts = tuple(
                    (row, slice(len(chunks[index].token_ids))) if self._pools_tokens else row
                    for row, index in enumerate(own)
                )
                calls.append(PoolingCall(self.executor.pool_sequences(key, buffer_BX), tuple(own), parts))
        return tuple(calls)


def choose_calls(num: int, keys: Sequence[PoolSequences]) -> list[PoolSequences]:
    """Return the calls that compute `num` sequences of one length at the least cost.

    keys   The programs of this length, by rows.

    The cost of a call is that of reading the weights, and of its tokens with padding.
    """
    best: list[tuple[int, list[PoolSequences]]] = [(0, [])]
    for count in range(1, num + 1):
        options = []
        for key in keys:
            cost, calls = best[max(0, count - key.rows)]
            options.append((cost + CALL_COST + key.rows * key.length, [*calls, key]))
        best.append(min(options, key=lambda option: option[0]))
    return best[num][1]
