"""The runner, which owns the arrays on the device: weights, pages, last tokens, penalty state. A step is three calls.

    forward(plan) → ForwardHandle         enqueues the forward pass and returns at once
    sample(handle, masks) → StepHandle    enqueues the sampling, and the copies of the results to the host
    fetch(handle) → StepResult            waits for the results

The first two are separate because a mask may depend on tokens that reach the host only while the device computes the
forward pass. `execute` is both, for plans without masks.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import PartitionSpec

from jaxserve.engine import batch
from jaxserve.engine.buckets import Buckets
from jaxserve.engine.compile import ProgressCallback, compile_all
from jaxserve.engine.lowering import COPIES_PER_CALL, ProgramShapes, make_lowerings
from jaxserve.engine.plan import (
    NO_MASKS,
    Chunk,
    DecodeBatch,
    Mask,
    PageCopy,
    SampledTokens,
    StepMasks,
    StepPlan,
    StepResult,
)
from jaxserve.engine.programs import Program, ProgramStore
from jaxserve.engine.step import ModelContext
from jaxserve.layers.quant import PackedWeight
from jaxserve.parallel.placement import Placement
from jaxserve.parallel.sharding import BY_VOCAB, WHOLE, pad_vocab, split_specs
from jaxserve.sampling.penalties import PenaltyState, pad_row
from jaxserve.sampling.sampler import LogprobsConfig, SampleMode, SamplerOutput


@dataclass(frozen=True, slots=True)
class Logits:
    """The logits of one call of a forward program.

    logits            float32 [B, V], on the device.
    sampler_columns   int32 [B, NUM_SAMPLER_COLUMNS], the columns that the sampler needs.
    """

    logits: Array
    sampler_columns: Array | np.ndarray


@dataclass(frozen=True, slots=True)
class ForwardHandle:
    """A step whose forward pass is enqueued.

    plan              The plan.
    decode            The logits of the decode rows.
    beams             Those of each batch of beams.
    chunks            Those of each chunk.
    prompt_logprobs   For each chunk the log-probabilities of its prompt and their number, or None.
    """

    plan: StepPlan
    decode: Logits | None
    beams: tuple[Logits, ...]
    chunks: tuple[Logits, ...]
    prompt_logprobs: tuple[tuple[SamplerOutput, int] | None, ...]


@dataclass(frozen=True, slots=True)
class StepHandle:
    """A step in flight: arrays that are being copied to the host, each with the slice of its real lines.

    decode            The decode rows' tokens.
    beams             Those of each batch of beams.
    chunks            Those of each chunk and its forks.
    prompt_logprobs   For each chunk the log-probabilities of its prompt, or None.
    """

    decode: tuple[SamplerOutput, slice] | None
    beams: tuple[tuple[SamplerOutput, slice], ...]
    chunks: tuple[tuple[tuple[SamplerOutput, slice], ...], ...]
    prompt_logprobs: tuple[tuple[SamplerOutput, slice] | None, ...]


class Runner:
    """The owner of one replica's arrays, which runs steps. They are donated to programs, so nothing else may keep one.

    model               The static description of the model.
    weights             The weights in the order of model.paths; or their shapes, and `place_weights` brings them later.
    pages               The pages of every layer, from the attention backend.
    buckets             The compiled batch sizes.
    max_pages_per_row   The width of a page table.
    vocab_size          The number of token ids.
    max_num_seqs        The number of rows.
    logprobs_config     The log-probabilities that the sampler computes.
    all_logprobs        Log-probabilities of the whole vocabulary may be asked for.
    batch_invariant     Run everything with one shape and one sampler, so that the bits of a token do not depend on the
                        rest of the step; a prompt chunk then has a line for each token, like decode rows.
    placement           The devices.
    """

    def __init__(
        self,
        model: ModelContext,
        weights: Sequence[Array | PackedWeight | jax.ShapeDtypeStruct],
        pages: tuple[Any, ...],
        *,
        buckets: Buckets,
        max_pages_per_row: int,
        vocab_size: int,
        max_num_seqs: int,
        logprobs_config: LogprobsConfig,
        all_logprobs: bool = False,
        batch_invariant: bool = False,
        placement: Placement,
    ) -> None:
        self._model, self._weights, self._pages = model, tuple(weights), pages
        self._pad_row = max_num_seqs  # one more row, which padding writes into
        self._shapes = ProgramShapes(
            model=model,
            buckets=buckets,
            max_pages_per_row=max_pages_per_row,
            vocab_size=pad_vocab(vocab_size, placement.size),
            num_rows=max_num_seqs + 1,
            logprobs_config=logprobs_config,
            batch_invariant=batch_invariant,
            all_logprobs=all_logprobs,
        )
        self._placement = placement
        self._last_token_R = self._put(np.zeros(max_num_seqs + 1, np.int32))
        self._penalties: PenaltyState | None = None
        self._vocab_size, counts = vocab_size, self._shapes.sample_row_counts
        allow_all = {rows: batch.allow_all(rows, self._shapes.vocab_size) for rows in counts}
        self._allow_all = {rows: self._put(mask, BY_VOCAB) for rows, mask in allow_all.items()}
        self._no_logprob_token_ids = {rows: self._put(batch.scatter_logprob_token_ids((), rows)) for rows in counts}
        self._programs: dict[Hashable, Program] = {}
        self._loaded_keys: set[Hashable] = set()

    def place_weights(self, weights: Sequence[Array | PackedWeight]) -> None:
        """Set the weights, which must have the shapes given before."""
        self._weights = tuple(weights)

    def compile(self, progress: ProgressCallback | None = None, directory: Path | None = None) -> int:
        """Load or compile all programs and return their number. Nothing can be compiled afterwards.

        progress    Called after every program.
        directory   The program store's directory; None: nothing is loaded or saved.
        """
        store = ProgramStore(directory, self._placement, self._fingerprint())
        lowerings = make_lowerings(self._shapes, self._weights, self._pages, self._last_token_R, self._placement)
        self._programs = compile_all(lowerings, store, progress)
        self._loaded_keys = store.loaded_keys
        self._penalties = self._programs["init penalties",]()
        return len(self._programs)

    def warm_up(self) -> None:
        """Run programs once on padding, so that no request has to wait for a first run.

        On a CPU the first run costs no more than later ones, and a program from the store ran when it was saved: if all
        came from the store, the smallest sizes are enough there.
        """
        shapes, sampled = self._shapes, None
        for tokens in self._warm_up_sizes(shapes.buckets.prefill):
            key, rows, layout = shapes.prefill_program(tokens)
            logits, hidden = self._forward(key, batch.empty(layout, rows, self._pad_row))
            for kind in ("prompt logprobs", "all prompt logprobs") if shapes.all_logprobs else ("prompt logprobs",):
                self._programs[kind, tokens](self._weights, hidden, np.zeros(tokens, np.int32))
            sampled = self._sample(logits, SampleMode.GREEDY)
        for rows in self._warm_up_sizes(shapes.buckets.decode):
            logits, _ = self._forward(("decode", rows), batch.empty(shapes.decode_layout, rows, self._pad_row))
            for mode in shapes.modes:
                sampled = self._sample(logits, mode)
        self._copy_pages([(0, 0, 0)])
        self._set_last_tokens([])
        jax.block_until_ready((sampled, self._pages, self._last_token_R))

    def _warm_up_sizes(self, sizes: Sequence[int]) -> list[int]:
        ran_before = self._placement.platform == "cpu" and self._loaded_keys == self._programs.keys()
        return list(sizes[:1] if ran_before else sizes)

    def execute(self, plan: StepPlan) -> StepHandle:
        """Enqueue a whole step that has no masks."""
        return self.sample(self.forward(plan), NO_MASKS)

    def forward(self, plan: StepPlan) -> ForwardHandle:
        """Enqueue the updates and the forward pass of a step: decode rows first, then beams, then each chunk."""
        if plan.page_copies:
            self._copy_pages(plan.page_copies)
        for row, penalties in plan.penalty_rows:
            self._penalties = self._programs["set penalty row",](
                self._penalties, np.int32(row), pad_row(penalties, self._shapes.vocab_size)
            )
        if plan.last_tokens:
            self._set_last_tokens(plan.last_tokens)
        decode = self._decode(plan.decode) if plan.decode else None
        beams = tuple(self._decode(batch) for batch in plan.beams)
        chunks = [self._chunk(chunk) for chunk in plan.chunks]
        return ForwardHandle(
            plan, decode, beams, tuple(logits for logits, _ in chunks), tuple(logprobs for _, logprobs in chunks)
        )

    def sample(self, handle: ForwardHandle, masks: StepMasks) -> StepHandle:
        """Enqueue the sampling of a step and the copies of its results to the host."""
        plan, decode = handle.plan, None
        if plan.decode is not None and handle.decode is not None:
            sampled = self._sample(handle.decode, plan.decode.mode, masks.decode, plan.decode.logprob_token_ids)
            decode = (sampled, slice(len(plan.decode)))
        beams = tuple(
            (self._sample(logits, batch.mode, masks.beams[index] if masks.beams else ()), slice(len(batch)))
            for index, (batch, logits) in enumerate(zip(plan.beams, handle.beams, strict=True))
        )
        chunks = []
        for index, (chunk, logits) in enumerate(zip(plan.chunks, handle.chunks, strict=True)):
            chunks.append(self._sample_chunk(chunk, logits, masks.chunks[index] if masks.chunks else ()))
        prompt_logprobs = tuple(
            (logprobs[0], slice(logprobs[1])) if logprobs else None for logprobs in handle.prompt_logprobs
        )
        step = StepHandle(decode, beams, tuple(chunks), prompt_logprobs)
        for leaf in jax.tree.leaves(_arrays(step)):
            leaf.copy_to_host_async()
        return step

    def fetch(self, handle: StepHandle) -> StepResult:
        """Wait for the results of a step."""
        decode, beams, chunks, prompt_logprobs = jax.device_get(_arrays(handle))  # the only place that reads the device
        return StepResult(
            decode=_to_sampled_tokens(decode, handle.decode[1], self._vocab_size) if handle.decode else None,
            beams=tuple(
                _to_sampled_tokens(output, lines, self._vocab_size)
                for output, (_, lines) in zip(beams, handle.beams, strict=True)
            ),
            chunks=tuple(
                tuple(
                    _to_sampled_tokens(output, lines, self._vocab_size)
                    for output, (_, lines) in zip(outputs, samples, strict=True)
                )
                for outputs, samples in zip(chunks, handle.chunks, strict=True)
            ),
            prompt_logprobs=tuple(
                _to_sampled_tokens(output, logprobs[1], self._vocab_size) if logprobs else None
                for output, logprobs in zip(prompt_logprobs, handle.prompt_logprobs, strict=True)
            ),
        )

    def close(self) -> None:
        """Free the device memory: weights, pages and programs."""
        owned = (
            self._weights,
            self._pages,
            self._last_token_R,
            self._penalties,
            self._allow_all,
            self._no_logprob_token_ids,
        )
        for leaf in jax.tree.leaves(owned):
            if isinstance(leaf, Array) and not leaf.is_deleted():
                leaf.delete()
        self._programs = {}

    def _decode(self, decode: DecodeBatch) -> Logits:
        rows = self._shapes.buckets.decode_bucket(len(decode))
        packed = batch.pack_decode(decode, self._shapes.decode_layout, rows, self._pad_row)
        return self._forward(("decode", rows), packed)[0]

    def _chunk(self, chunk: Chunk) -> tuple[Logits, tuple[SamplerOutput, int] | None]:
        """Enqueue a chunk; return its logits and the log-probabilities of its prompt, with their number."""
        tokens = self._shapes.buckets.prefill_bucket(len(chunk.token_ids))
        key, rows, layout = self._shapes.prefill_program(tokens)
        if self._shapes.batch_invariant:
            packed = batch.pack_chunk_as_rows(chunk, layout, rows, self._pad_row)
        else:
            packed = batch.pack_chunk(chunk, layout)
        logits, hidden = self._forward(key, packed)
        logprobs = None
        if chunk.prompt_targets is not None and len(chunk.prompt_targets):
            target_T = batch.pad_ids(chunk.prompt_targets, tokens)
            kind = "all prompt logprobs" if chunk.all_prompt_logprobs else "prompt logprobs"
            logprobs = (self._programs[kind, tokens](self._weights, hidden, target_T), len(chunk.prompt_targets))
        return logits, logprobs

    def _sample_chunk(
        self, chunk: Chunk, logits: Logits, masks: Sequence[Mask | None]
    ) -> tuple[tuple[SamplerOutput, slice], ...]:
        """Enqueue the sampling for a chunk's row and its forks; return each output with the slice of its line."""
        line = len(chunk.token_ids) - 1 if self._shapes.batch_invariant else 0
        masks = masks or (None,) * (1 + len(chunk.forks))
        samples = []
        for row, mask in zip((chunk, *chunk.forks), masks, strict=True):
            columns = logits.sampler_columns
            if row is not chunk:
                num_lines = logits.logits.shape[0]
                columns = batch.sampler_columns(row.row, row.sampling_S, chunk.end, line, num_lines, self._pad_row)
            line_masks = () if mask is None else ((line, mask),)
            ids = ((line, row.logprob_token_ids),) if row.logprob_token_ids else ()
            sampled = self._sample(Logits(logits.logits, columns), row.mode, line_masks, ids)
            samples.append((sampled, slice(line, line + 1)))
        return tuple(samples)

    def _forward(self, key: Hashable, packed: np.ndarray) -> tuple[Logits, Array]:
        """Run a forward program; return its logits and the hidden states.

        The program transfers the numpy array itself: jax.device_put, in Python, costs 0.2 ms more.
        """
        program = self._programs[key]
        self._pages, logits, hidden, columns = program(self._weights, self._pages, self._last_token_R, packed)
        return Logits(logits, columns), hidden

    def _sample(
        self,
        logits: Logits,
        mode: SampleMode,
        masks: Sequence[tuple[int, Mask]] = (),
        logprob_token_ids: Sequence[tuple[int, tuple[int, ...]]] = (),
    ) -> SamplerOutput:
        """Run the sampler in this mode, or in the lowest mode that applies masks if there are any."""
        rows = logits.logits.shape[0]
        mode = self._shapes.choose_mode(max(mode, SampleMode.PROCESSORS) if masks else mode)
        program = self._programs["sample", rows, mode]
        if mode < SampleMode.PROCESSORS:
            assert not logprob_token_ids, mode
            self._last_token_R, _, sampled = program(
                self._last_token_R, None, logits.logits, logits.sampler_columns, None, None, None
            )
            return sampled
        mask_BM = self._masks([(line, mask.allowed_M) for line, mask in masks], rows)
        grammars = [(line, mask.grammar_M) for line, mask in masks if mask.grammar_M is not None]
        grammar_BM = self._masks(grammars, rows) if mode >= SampleMode.LOGPROBS else None
        id_BI = self._no_logprob_token_ids[rows]
        if logprob_token_ids:
            id_BI = batch.scatter_logprob_token_ids(logprob_token_ids, rows)
        self._last_token_R, self._penalties, sampled = program(
            self._last_token_R, self._penalties, logits.logits, logits.sampler_columns, mask_BM, grammar_BM, id_BI
        )
        return sampled

    def _masks(self, masks: Sequence[tuple[int, np.ndarray]], rows: int) -> Array | np.ndarray:
        """Return masks with a line for each row; without any, the array that is on the device already."""
        return batch.scatter_masks(masks, rows, self._shapes.vocab_size) if masks else self._allow_all[rows]

    def _copy_pages(self, copies: Sequence[PageCopy]) -> None:
        by_group = [[copy[1:] for copy in copies if copy[0] == group] for group in range(len(self._model.groups))]
        for first in range(0, max(map(len, by_group)), COPIES_PER_CALL):
            pairs = [group[first : first + COPIES_PER_CALL] for group in by_group]
            columns = [batch.pack_pairs(group, COPIES_PER_CALL, (0, 0)) for group in pairs]
            from_GN, to_GN = zip(*columns, strict=True)
            self._pages = self._programs["copy pages",](self._pages, from_GN, to_GN)

    def _set_last_tokens(self, tokens: Sequence[tuple[int, int]]) -> None:
        columns = batch.pack_pairs(tokens, self._shapes.num_rows, (self._pad_row, 0))
        self._last_token_R = self._programs["set last tokens",](self._last_token_R, *columns)

    def _fingerprint(self) -> list[Any]:
        """Return everything that the programs depend on besides their keys."""
        model, arguments = self._model, (self._weights, self._pages, self._last_token_R)
        shapes = self._shapes
        return [
            model.spec,
            model.dtype,
            model.paths,
            (model.ranks, split_specs(arguments)),
            (model.backend.name, getattr(model.backend, "__dict__", {}), model.page_size, model.groups),
            jax.tree.structure(arguments),
            [(leaf.shape, str(leaf.dtype)) for leaf in jax.tree.leaves(arguments)],
            (shapes.max_pages_per_row, shapes.vocab_size, shapes.logprobs_config, shapes.batch_invariant),
        ]

    def _put(self, array: np.ndarray, spec: PartitionSpec = WHOLE) -> Array:
        return jax.device_put(array, self._placement.sharding(spec))


def _arrays(handle: StepHandle) -> Any:
    """Return all device arrays of a step: of decode, beams, chunks with their forks, and prompt log-probabilities."""
    return (
        handle.decode[0] if handle.decode else None,
        [sampled for sampled, _ in handle.beams],
        [[sampled for sampled, _ in samples] for samples in handle.chunks],
        [logprobs[0] if logprobs else None for logprobs in handle.prompt_logprobs],
    )


def _to_sampled_tokens(output: Any, lines: slice, vocab_size: int) -> SampledTokens:
    """Return the real lines of a SamplerOutput of numpy arrays, without token ids that only fill up the ranks."""
    arrays: dict[str, Any] = {name: getattr(output, name) for name in SampledTokens.__slots__}
    sampled = SampledTokens(**{name: array[lines] for name, array in arrays.items() if array is not None})
    if sampled.all_logprob_BV is None:
        return sampled
    return replace(sampled, all_logprob_BV=sampled.all_logprob_BV[:, :vocab_size])
