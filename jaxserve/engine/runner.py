"""The runner, which turns plans into calls of device programs, and their outputs into results. A step is three calls.

    forward(plan) → ForwardHandle         enqueues the forward pass and returns at once
    sample(handle, masks) → StepHandle    enqueues the sampling, and the copies of the results to the host
    fetch(handle) → StepResult            waits for the results

The first two are separate because a mask may depend on tokens that reach the host only while the device computes the
forward pass. `execute` is both, for plans without masks.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain, pairwise
from typing import NamedTuple, TypeAlias

import numpy as np
from jax import Array

from jaxserve.engine import batch
from jaxserve.engine.executor import Executor, Logits, Output
from jaxserve.engine.plan import (
    NO_MASKS,
    Chunk,
    DecodeBatch,
    Fork,
    Mask,
    SampledTokens,
    StepMasks,
    StepPlan,
    StepResult,
)
from jaxserve.engine.prefill_calls import divide_into_calls
from jaxserve.engine.program_table import Forward, PromptLogprobs
from jaxserve.layers.adapter import NO_ADAPTER
from jaxserve.sampling.packed_output import unpack_output

TokenSlice: TypeAlias = tuple[Array, slice]
"""Some tokens of an array that is being copied to the host."""


@dataclass(frozen=True, slots=True)
class PrefillCall:
    """A call of a forward program for prompt chunks.

    chunks            The chunks.
    lines             The line of the logits of each chunk.
    logits            The logits.
    targets           For each chunk the slice of its prompt_targets among the tokens of the call, or None.
    prompt_logprobs   The log-probabilities of the prompts, if one of the chunks asks for them.
    """

    chunks: tuple[Chunk, ...]
    lines: tuple[int, ...]
    logits: Logits
    targets: tuple[slice | None, ...]
    prompt_logprobs: Output | None


@dataclass(frozen=True, slots=True)
class ForwardHandle:
    """A step whose forward pass is enqueued.

    plan       The plan.
    decode     The logits of the decode rows; of rows that get several tokens these tokens.
    beams      Those of each batch of beams.
    prefills   The calls for the chunks.
    """

    plan: StepPlan
    decode: Logits | Output | None
    beams: tuple[Logits, ...]
    prefills: tuple[PrefillCall, ...]


@dataclass(frozen=True, slots=True)
class Sampled:
    """Lines of an output that is being copied to the host.

    output   The index of the output among those of the step.
    lines    The lines.
    """

    output: int
    lines: slice


@dataclass(frozen=True, slots=True)
class StepHandle:
    """A step in flight.

    outputs           The outputs of all its calls.
    decode            The decode rows' tokens.
    beams             Those of each batch of beams.
    chunks            Those of each chunk and its forks.
    prompt_logprobs   For each chunk the log-probabilities of its prompt, or None.
    experts           The chosen experts of the decode rows, of each batch of beams and of each chunk; empty if the
                      programs return none.
    """

    outputs: tuple[Output, ...]
    decode: Sampled | None
    beams: tuple[Sampled, ...]
    chunks: tuple[tuple[Sampled, ...], ...]
    prompt_logprobs: tuple[Sampled | None, ...]
    experts: tuple[TokenSlice, ...] = ()


class Runner:
    """The runner of one replica's steps.

    executor   The owner of its arrays.
    """

    def __init__(self, executor: Executor) -> None:
        self.executor = executor
        self._returns_experts = executor.table.model.routed is not None
        self._copies_outputs = executor.table.placement.platform != "cpu"  # whose memory the host reads in place
        self._prefill_sizes = [(key.num_tokens, key.rows) for key in executor.table.prefills]

    def execute(self, plan: StepPlan) -> StepHandle:
        """Enqueue a whole step that has no masks."""
        return self.sample(self.forward(plan), NO_MASKS)

    def forward(self, plan: StepPlan) -> ForwardHandle:
        """Enqueue the updates and the forward pass of a step: decode rows first, then beams, then the chunks."""
        if plan.page_copies:
            self.executor.copy_pages(plan.page_copies)
        for row, values in plan.penalty_rows:
            self.executor.set_penalty_row(row, values)
        for slot, adapter in plan.adapters:
            self.executor.set_adapter(slot, adapter)
        if plan.row_updates:
            self.executor.set_rows(plan.row_updates)
        decode = self._decode(plan.decode) if plan.decode else None
        beams = tuple([self._decode_one_token(beams) for beams in plan.beams])
        return ForwardHandle(plan, decode, beams, self._prefill(plan.chunks) if plan.chunks else ())

    def sample(self, handle: ForwardHandle, masks: StepMasks) -> StepHandle:
        """Enqueue the sampling of a step and the copies of its results to the host."""
        plan, decode = handle.plan, None
        outputs: list[Output] = []
        if plan.decode is not None and handle.decode is not None:
            decode = self._sample_decode(plan.decode, handle.decode, masks.decode, outputs)
        beams = tuple(
            [
                self._sample_decode(beams, logits, masks.beams[index] if masks.beams else (), outputs)
                for index, (beams, logits) in enumerate(zip(plan.beams, handle.beams, strict=True))
            ]
        )
        chunks: list[tuple[Sampled, ...]] = []
        prompt_logprobs: list[Sampled | None] = []
        for call in handle.prefills:
            chunks += self._sample_prefill(call, masks.chunks[len(chunks) :], outputs)
            if call.prompt_logprobs is not None:
                outputs.append(call.prompt_logprobs)
            prompt_logprobs += [Sampled(len(outputs) - 1, target) if target else None for target in call.targets]
        experts = _list_experts(handle) if self._returns_experts else ()
        if self._copies_outputs:
            for array in (*chain.from_iterable(output.packed for output in outputs), *(array for array, _ in experts)):
                if array is not None:
                    array.copy_to_host_async()
        return StepHandle(tuple(outputs), decode, beams, tuple(chunks), tuple(prompt_logprobs), experts)

    def fetch(self, handle: StepHandle) -> StepResult:
        """Wait for the results of a step."""
        outputs = [_read(output) for output in handle.outputs]
        vocab_size = self.executor.table.vocab_size

        def select(part: Sampled) -> SampledTokens:
            return _to_sampled_tokens(outputs[part.output], part.lines, vocab_size)

        return StepResult(
            decode=select(handle.decode) if handle.decode else None,
            beams=tuple([select(part) for part in handle.beams]),
            chunks=tuple([tuple([select(part) for part in parts]) for parts in handle.chunks]),
            prompt_logprobs=tuple([select(part) if part else None for part in handle.prompt_logprobs]),
            experts=tuple([_to_host(array)[tokens] for array, tokens in handle.experts]),
        )

    def reset(self) -> None:
        """Make the device state anew after a call that raised; what it held is lost. Nothing is compiled."""
        self.executor.reset_state()

    def close(self) -> None:
        """Free the device memory: weights, pages and programs."""
        self.executor.close()

    def _decode(self, decode: DecodeBatch) -> Logits | Output:
        if decode.max_tokens == 1:
            return self._decode_one_token(decode)
        has_adapters = decode.adapter_slot_B is not None
        key = self.executor.table.find_multi_step(len(decode), decode.mode, has_adapters=has_adapters)
        buffer_X, inputs = self.executor.empty_inputs(key)
        batch.pack_decode(inputs, decode)
        return self.executor.decode_steps(key, buffer_X)

    def _decode_one_token(self, decode: DecodeBatch) -> Logits:
        has_adapters = decode.adapter_slot_B is not None
        key = self.executor.table.find_decode(len(decode), has_adapters=has_adapters)
        buffer_X, inputs = self.executor.empty_inputs(key)
        batch.pack_decode(inputs, decode)
        return self.executor.forward(key, buffer_X)

    def _sample_decode(
        self,
        decode: DecodeBatch,
        logits: Logits | Output,
        masks: Sequence[tuple[int, Mask]],
        outputs: list[Output],
    ) -> Sampled:
        if isinstance(logits, Logits):
            logits = self.executor.sample(logits, decode.mode, masks, decode.logprob_token_ids)
        outputs.append(logits)
        return Sampled(len(outputs) - 1, slice(len(decode)))

    def _prefill(self, chunks: tuple[Chunk, ...]) -> tuple[PrefillCall, ...]:
        """Enqueue chunks, as many as fit in one call."""
        calls, first = [], 0
        for num, size in divide_into_calls([len(chunk.token_ids) for chunk in chunks], self._prefill_sizes):
            calls.append(self._prefill_call(self.executor.table.prefills[size], chunks[first : first + num]))
            first += num
        return tuple(calls)

    def _prefill_call(self, key: Forward, chunks: tuple[Chunk, ...]) -> PrefillCall:
        if any(chunk.adapter_slot != NO_ADAPTER for chunk in chunks):
            key = replace(key, has_adapters=True)
        buffer_X, inputs = self.executor.empty_inputs(key)
        if self.executor.table.batch_invariant:
            lines = batch.pack_chunks_as_rows(inputs, chunks)
        else:
            lines = batch.pack_chunks(inputs, chunks)
        logits = self.executor.forward(key, buffer_X)
        targets, ids, start = [], [], 0
        for chunk in chunks:
            target_ids, target = chunk.prompt_targets, None
            if target_ids is not None and len(target_ids):
                target = slice(start, start + len(target_ids))
                ids.append((start, target_ids))
            targets.append(target)
            start += len(chunk.token_ids)
        logprobs = None
        if ids:
            program = PromptLogprobs(key.num_tokens, any(chunk.all_prompt_logprobs for chunk in chunks))
            logprobs = self.executor.compute_prompt_logprobs(program, logits, ids)
        return PrefillCall(chunks, lines, logits, tuple(targets), logprobs)

    def _sample_prefill(
        self, call: PrefillCall, masks: Sequence[Sequence[Mask | None]], outputs: list[Output]
    ) -> list[tuple[Sampled, ...]]:
        """Enqueue the sampling for the rows of a call's chunks, then for their forks, the first of each chunk together.

        masks     For each chunk its own mask, then those of its forks; empty if there are none.
        outputs   The outputs so far, to which those of this call are added.
        """
        samples: list[list[Sampled]] = [[] for _ in call.chunks]
        for number in range(1 + max(len(chunk.forks) for chunk in call.chunks)):
            indices = [index for index, chunk in enumerate(call.chunks) if number <= len(chunk.forks)]
            lines = [call.lines[index] for index in indices]
            logits, rows = call.logits, [_find_row(call.chunks[index], number) for index in indices]
            if number:
                ends = [call.chunks[index].end for index in indices]
                logits = self.executor.with_forks(logits, list(zip(lines, ends, rows, strict=True)))
            row_masks = [masks[index][number] if masks else None for index in indices]
            output = self.executor.sample(
                logits,
                max(row.mode for row in rows),
                [(line, mask) for line, mask in zip(lines, row_masks, strict=True) if mask is not None],
                [(line, ids) for line, row in zip(lines, rows, strict=True) if (ids := row.logprob_token_ids)],
            )
            outputs.append(output)
            for index, line in zip(indices, lines, strict=True):
                samples[index].append(Sampled(len(outputs) - 1, slice(line, line + 1)))
        return [tuple(parts) for parts in samples]


class HostOutput(NamedTuple):
    """An Output on the host: its fields as matrices [B, columns], and all_logprob_BV."""

    part_by_name: dict[str, np.ndarray]
    all_logprob_BV: np.ndarray | None


def _to_host(array: Array) -> np.ndarray:
    """Wait for an array. The only place that reads the device: jax.device_get takes 0.14 ms more a step."""
    return np.asarray(array)


def _read(output: Output) -> HostOutput:
    """Wait for an output."""
    packed_BX, all_logprob_BV = (None if array is None else _to_host(array) for array in output.packed)
    assert packed_BX is not None
    return HostOutput(unpack_output(packed_BX, output.columns), all_logprob_BV)


def _list_experts(handle: ForwardHandle) -> tuple[TokenSlice, ...]:
    """Return where the experts of a step's tokens are: of the decode rows, the beams and the chunks, in this order."""
    plan, experts = handle.plan, []
    for rows, logits in zip((plan.decode, *plan.beams), (handle.decode, *handle.beams), strict=True):
        if rows is not None and isinstance(logits, Logits) and logits.expert_TRK is not None:
            experts.append((logits.expert_TRK, slice(len(rows))))
    for call in handle.prefills:
        if call.logits.expert_TRK is not None:
            ends = [0, *accumulate(len(chunk.token_ids) for chunk in call.chunks)]
            experts += [(call.logits.expert_TRK, slice(*span)) for span in pairwise(ends)]
    return tuple(experts)


def _find_row(chunk: Chunk, number: int) -> Chunk | Fork:
    """Return the chunk itself for number 0, else one of its forks."""
    return chunk.forks[number - 1] if number else chunk


def _to_sampled_tokens(output: HostOutput, lines: slice, vocab_size: int) -> SampledTokens:
    """Return some lines of an output, which hold one token each, or several tokens without log-probabilities.

    vocab_size   The number of token ids, without those that only give all devices equal parts.
    """
    part_by_name = {name: part[lines] for name, part in output.part_by_name.items()}
    if "count_B" in part_by_name:
        return SampledTokens(part_by_name["token_BK"], part_by_name["count_B"][:, 0])
    token_BK = part_by_name["token_B"]
    count_B = np.ones(len(token_BK), np.int32)
    if len(part_by_name) == 1:
        return SampledTokens(token_BK, count_B)

    def by_token(name: str) -> np.ndarray | None:
        part = part_by_name.get(name)
        return None if part is None else part[:, None]

    all_logprob_BV = output.all_logprob_BV
    return SampledTokens(
        token_BK,
        count_B,
        part_by_name["logprob_B"],
        part_by_name["rank_B"],
        by_token("top_id_BK"),
        by_token("top_logprob_BK"),
        by_token("requested_logprob_BI"),
        None if all_logprob_BV is None else all_logprob_BV[lines, None, :vocab_size],
        part_by_name.get("candidate_id_BC"),
        part_by_name.get("candidate_logprob_BC"),
        part_by_name.get("candidate_raw_logprob_BC"),
    )
