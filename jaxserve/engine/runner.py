"""Owns what lives on the device: weights, pages, newest tokens, lines of history. One step is three calls.

    forward(plan) → ForwardHandle          enqueues what computes logits, and returns at once
    sample(handle, masks) → StepHandle    enqueues what draws tokens from them, and starts their copies home
    fetch(handle) → StepResult        waits for these numbers

A mask may depend on tokens that come home only while the device is busy with the forward functions: so there are two
calls before the third. `execute` is both, for plans without masks.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import Array

from jaxserve.engine import batch
from jaxserve.engine.buckets import Buckets
from jaxserve.engine.compile import ProgressCallback, compile_all
from jaxserve.engine.lowering import COPIES_PER_CALL, ProgramShapes, make_lowerings
from jaxserve.engine.plan import NO_MASKS, Chunk, DecodeBatch, Mask, SampledTokens, StepMasks, StepPlan, StepResult
from jaxserve.engine.programs import Program, ProgramStore
from jaxserve.engine.step import ModelContext
from jaxserve.layers.quant import PackedWeight
from jaxserve.sampling.penalties import PenaltyState
from jaxserve.sampling.sampler import LogprobsConfig, SampleMode, SamplerOutput


@dataclass(frozen=True, slots=True)
class Logits:
    """Logits of one call of a forward function, on the device, and the columns that the sampler needs."""

    logits: Array
    sampler_columns: Array | np.ndarray


@dataclass(frozen=True, slots=True)
class ForwardHandle:
    """A step whose logits are enqueued. scores: Sampled and number of real positions, where they were wanted."""

    plan: StepPlan
    decode: Logits | None
    beams: tuple[Logits, ...]
    chunks: tuple[Logits, ...]
    prompt_logprobs: tuple[tuple[SamplerOutput, int] | None, ...]


@dataclass(frozen=True, slots=True)
class StepHandle:
    """A step under way: what it drew and scored, still on the device, with the copies home already started.

    The slices say in which lines the answers stand.
    """

    decode: tuple[SamplerOutput, slice] | None
    beams: tuple[tuple[SamplerOutput, slice], ...]
    chunks: tuple[tuple[tuple[SamplerOutput, slice], ...], ...]
    prompt_logprobs: tuple[tuple[SamplerOutput, slice] | None, ...]


class Runner:
    """The device's owner. Donated arrays are replaced at once, so nobody can keep an old one.

    weights      the leaves in model.paths' order, placed; or only their shapes, and `place` brings them later
    pages        one entry a layer, from the model's backend
    logprobs_config  log-probabilities; with `all_logprobs` any number of them may be asked for

    With batch_invariant everything runs through one shape and one sampler, so that the bits of a token do not
    depend on what else the step does: prompt chunks have a line for each token, like decoding rows.
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
        device: Any = None,
    ) -> None:
        self._model, self._weights, self._pages = model, tuple(weights), pages
        self._pad_row = max_num_seqs  # one more row, for padding to write into
        self._shapes = ProgramShapes(
            model=model,
            buckets=buckets,
            max_pages_per_row=max_pages_per_row,
            vocab_size=vocab_size,
            num_rows=max_num_seqs + 1,
            logprobs_config=logprobs_config,
            batch_invariant=batch_invariant,
            all_logprobs=all_logprobs,
        )
        self._device = device or jax.devices()[0]
        self._last_token_R = self._put(np.zeros(max_num_seqs + 1, np.int32))
        self._penalties: PenaltyState | None = None
        drawn = self._shapes.sample_row_counts
        self._allow_all = {rows: self._put(batch.allow_all(rows, vocab_size)) for rows in drawn}
        self._no_logprob_token_ids = {rows: self._put(batch.scatter_logprob_token_ids((), rows)) for rows in drawn}
        self._programs: dict[Hashable, Program] = {}
        self._loaded_keys: set[Hashable] = set()

    def place_weights(self, weights: Sequence[Array | PackedWeight]) -> None:
        """Brings the weights, of the shapes announced."""
        self._weights = tuple(weights)

    def compile(self, progress: ProgressCallback | None = None, directory: Path | None = None) -> int:
        """Finds (in directory) or compiles every shape; returns how many there are. Then nothing else can run."""
        store = ProgramStore(directory, self._device, self._fingerprint())
        wanted = make_lowerings(self._shapes, self._weights, self._pages, self._last_token_R)
        self._programs = compile_all(wanted, store, progress)
        self._loaded_keys = store.loaded_keys
        self._penalties = self._programs["init penalties",]()
        return len(self._programs)

    def warm_up(self) -> None:
        """Runs every shape once on padding, so that no first time is left for a request.

        On a CPU a step costs the same the first time, and a program that was found has been tried by the start that
        made it: there the smallest step of each kind is enough.
        """
        shapes, ticket = self._shapes, None
        for tokens in self._warm_up_sizes(shapes.buckets.prefill):
            key, rows, layout = shapes.prefill_program(tokens)
            computed, hidden = self._forward(key, batch.empty(layout, rows, self._pad_row))
            for kind in ("prompt logprobs", "all prompt logprobs") if shapes.all_logprobs else ("prompt logprobs",):
                self._programs[kind, tokens](self._weights, hidden, np.zeros(tokens, np.int32))
            ticket = self._sample(computed, SampleMode.GREEDY)
        for rows in self._warm_up_sizes(shapes.buckets.decode):
            computed, _ = self._forward(("decode", rows), batch.empty(shapes.decode_layout, rows, self._pad_row))
            for mode in shapes.modes:
                ticket = self._sample(computed, mode)
        self._copy_pages([(0, 0)])
        self._set_last_tokens([])
        jax.block_until_ready((ticket, self._pages, self._last_token_R))

    def _warm_up_sizes(self, sizes: Sequence[int]) -> list[int]:
        is_known = self._device.platform == "cpu" and self._loaded_keys == self._programs.keys()
        return list(sizes[:1] if is_known else sizes)

    def execute(self, plan: StepPlan) -> StepHandle:
        """Enqueues a whole step that has no masks."""
        return self.sample(self.forward(plan), NO_MASKS)

    def forward(self, plan: StepPlan) -> ForwardHandle:
        """Enqueues moves and logits: decode rows first, then beams, then each chunk."""
        self._copy_pages(plan.page_copies)
        for row, line in plan.penalty_rows:
            self._penalties = self._programs["set penalty row",](self._penalties, np.int32(row), line)
        if plan.last_tokens:
            self._set_last_tokens(plan.last_tokens)
        decode = self._decode(plan.decode) if plan.decode else None
        beams = tuple(self._decode(batch) for batch in plan.beams)
        chunks = [self._chunk(chunk) for chunk in plan.chunks]
        return ForwardHandle(
            plan, decode, beams, tuple(one for one, _ in chunks), tuple(scored for _, scored in chunks)
        )

    def sample(self, handle: ForwardHandle, masks: StepMasks) -> StepHandle:
        """Enqueues the draws of a step, and the copies of all its numbers home."""
        plan, decode = handle.plan, None
        if plan.decode is not None and handle.decode is not None:
            sampled = self._sample(handle.decode, plan.decode.mode, masks.decode, plan.decode.logprob_token_ids)
            decode = (sampled, slice(len(plan.decode)))
        beams = tuple(
            (self._sample(computed, batch.mode, masks.beams[at] if masks.beams else ()), slice(len(batch)))
            for at, (batch, computed) in enumerate(zip(plan.beams, handle.beams, strict=True))
        )
        chunks = []
        for at, (chunk, computed) in enumerate(zip(plan.chunks, handle.chunks, strict=True)):
            chunks.append(self._sample_chunk(chunk, computed, masks.chunks[at] if masks.chunks else ()))
        scores = tuple((scored[0], slice(scored[1])) if scored else None for scored in handle.prompt_logprobs)
        ticket = StepHandle(decode, beams, tuple(chunks), scores)
        for leaf in jax.tree.leaves(_arrays(ticket)):
            leaf.copy_to_host_async()
        return ticket

    def fetch(self, handle: StepHandle) -> StepResult:
        """Waits for a step's numbers."""
        decode, beams, chunks, scores = jax.device_get(_arrays(handle))  # the only place that reads the device
        return StepResult(
            decode=_to_sampled_tokens(decode, handle.decode[1]) if handle.decode else None,
            beams=tuple(_to_sampled_tokens(home, lines) for home, (_, lines) in zip(beams, handle.beams, strict=True)),
            chunks=tuple(
                tuple(_to_sampled_tokens(home, lines) for home, (_, lines) in zip(homes, drawn, strict=True))
                for homes, drawn in zip(chunks, handle.chunks, strict=True)
            ),
            prompt_logprobs=tuple(
                _to_sampled_tokens(home, scored[1]) if scored else None
                for home, scored in zip(scores, handle.prompt_logprobs, strict=True)
            ),
        )

    def close(self) -> None:
        """Frees device memory: weights, pages and programs."""
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

    # Running

    def _decode(self, decode: DecodeBatch) -> Logits:
        rows = self._shapes.buckets.decode_bucket(len(decode))
        packed = batch.pack_decode(decode, self._shapes.decode_layout, rows, self._pad_row)
        return self._forward(("decode", rows), packed)[0]

    def _chunk(self, chunk: Chunk) -> tuple[Logits, tuple[SamplerOutput, int] | None]:
        """The chunk's logits, and the scores of its tokens."""
        tokens = self._shapes.buckets.prefill_bucket(len(chunk.token_ids))
        key, rows, layout = self._shapes.prefill_program(tokens)
        if self._shapes.batch_invariant:
            packed = batch.pack_chunk_as_rows(chunk, layout, rows, self._pad_row)
        else:
            packed = batch.pack_chunk(chunk, layout)
        computed, hidden = self._forward(key, packed)
        scored = None
        if chunk.prompt_targets is not None and len(chunk.prompt_targets):
            next_T = batch.pad_ids(chunk.prompt_targets, tokens)
            kind = "all prompt logprobs" if chunk.all_prompt_logprobs else "prompt logprobs"
            scored = (self._programs[kind, tokens](self._weights, hidden, next_T), len(chunk.prompt_targets))
        return computed, scored

    def _sample_chunk(
        self, chunk: Chunk, computed: Logits, masks: Sequence[Mask | None]
    ) -> tuple[tuple[SamplerOutput, slice], ...]:
        """What was drawn for the chunk's own row and for its forks, and in which line of it the token stands."""
        at = len(chunk.token_ids) - 1 if self._shapes.batch_invariant else 0
        masks = masks or (None,) * (1 + len(chunk.forks))
        drawn = []
        for one, mask in zip((chunk, *chunk.forks), masks, strict=True):
            head = computed.sampler_columns
            if one is not chunk:
                rows = computed.logits.shape[0]
                head = batch.sampler_columns(one.row, one.sampling_S, chunk.end, at, rows, self._pad_row)
            its = () if mask is None else ((at, mask),)
            wanted = ((at, one.logprob_token_ids),) if one.logprob_token_ids else ()
            drawn.append((self._sample(Logits(computed.logits, head), one.mode, its, wanted), slice(at, at + 1)))
        return tuple(drawn)

    def _forward(self, key: Hashable, packed: np.ndarray) -> tuple[Logits, Array]:
        """The program takes its numpy array to the device itself: device_put, in Python, costs 0.2 ms more."""
        program = self._programs[key]
        self._pages, logits, hidden, head = program(self._weights, self._pages, self._last_token_R, packed)
        return Logits(logits, head), hidden

    def _sample(
        self,
        computed: Logits,
        mode: SampleMode,
        masks: Sequence[tuple[int, Mask]] = (),
        wanted: Sequence[tuple[int, tuple[int, ...]]] = (),
    ) -> SamplerOutput:
        """In this mode, or in the lowest that has masks, where there are any."""
        rows = computed.logits.shape[0]
        mode = self._shapes.choose_mode(max(mode, SampleMode.PROCESSORS) if masks else mode)
        program = self._programs["sample", rows, mode]
        if mode < SampleMode.PROCESSORS:
            assert not wanted, mode
            nothing = (None, None, None)
            self._last_token_R, _, sampled = program(
                self._last_token_R, None, computed.logits, computed.sampler_columns, *nothing
            )
            return sampled
        mask = self._masks([(at, one.allowed_M) for at, one in masks], rows)
        grammars = [(at, one.grammar_M) for at, one in masks if one.grammar_M is not None]
        grammar = self._masks(grammars, rows) if mode >= SampleMode.LOGPROBS else None
        want = batch.scatter_logprob_token_ids(wanted, rows) if wanted else self._no_logprob_token_ids[rows]
        self._last_token_R, self._penalties, sampled = program(
            self._last_token_R, self._penalties, computed.logits, computed.sampler_columns, mask, grammar, want
        )
        return sampled

    def _masks(self, masks: Sequence[tuple[int, np.ndarray]], rows: int) -> Array | np.ndarray:
        """Each in its line; without any, the array that lies on the device already."""
        return batch.scatter_masks(masks, rows, self._shapes.vocab_size) if masks else self._allow_all[rows]

    def _copy_pages(self, pairs: Sequence[tuple[int, int]]) -> None:
        for first in range(0, len(pairs), COPIES_PER_CALL):
            some = batch.pack_pairs(pairs[first : first + COPIES_PER_CALL], COPIES_PER_CALL, (0, 0))
            self._pages = self._programs["copy pages",](self._pages, *some)

    def _set_last_tokens(self, tokens: Sequence[tuple[int, int]]) -> None:
        columns = batch.pack_pairs(tokens, self._shapes.num_rows, (self._pad_row, 0))
        self._last_token_R = self._programs["set last tokens",](self._last_token_R, *columns)

    def _fingerprint(self) -> list[Any]:
        """All that shapes the programs beside their keys, in words."""
        model, arguments = self._model, (self._weights, self._pages, self._last_token_R)
        shapes = self._shapes
        return [
            model.spec,
            model.dtype,
            model.paths,
            (model.backend.name, getattr(model.backend, "__dict__", {}), model.page_size),
            jax.tree.structure(arguments),
            [(leaf.shape, str(leaf.dtype)) for leaf in jax.tree.leaves(arguments)],
            (shapes.max_pages_per_row, shapes.vocab_size, shapes.logprobs_config, shapes.batch_invariant),
        ]

    def _put(self, array: np.ndarray | np.generic) -> Array:
        return jax.device_put(array, self._device)


def _arrays(handle: StepHandle) -> Any:
    """Every device array of a ticket: (decode, one for each batch of beams, some and one or None for each chunk)."""
    return (
        handle.decode[0] if handle.decode else None,
        [sampled for sampled, _ in handle.beams],
        [[sampled for sampled, _ in drawn] for drawn in handle.chunks],
        [scored[0] if scored else None for scored in handle.prompt_logprobs],
    )


def _to_sampled_tokens(home: Any, lines: slice) -> SampledTokens:
    """home: a Sampled of numpy arrays."""
    found: dict[str, Any] = {name: getattr(home, name) for name in SampledTokens.__slots__}
    return SampledTokens(**{name: array[lines] for name, array in found.items() if array is not None})
