"""Owns what lives on the device: weights, pages, newest tokens, lines of history. One step is three calls.

    forward(plan) → work          enqueues what computes logits, and returns at once
    draw(work, masks) → ticket    enqueues what draws tokens from them, and starts their copies home
    fetch(ticket) → result        waits for these numbers

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
from jaxserve.engine.compile import Progress, compile_all
from jaxserve.engine.lowering import COPIES_AT_ONCE, Shapes, lowerings
from jaxserve.engine.plan import NO_MASKS, Chunk, DecodeBatch, DrawnRows, Mask, StepMasks, StepPlan, StepResult
from jaxserve.engine.programs import Program, ProgramStore
from jaxserve.engine.step import Network
from jaxserve.layers.quant import PackedWeight
from jaxserve.sampling.lines import Lines
from jaxserve.sampling.sampler import Sampled, SampleMode, Score


@dataclass(frozen=True, slots=True)
class Computed:
    """Logits of one call of a forward function, on the device, and the columns that the sampler needs."""

    logits: Array
    head: Array | np.ndarray


@dataclass(frozen=True, slots=True)
class Work:
    """A step whose logits are enqueued. scores: Sampled and number of real positions, where they were wanted."""

    plan: StepPlan
    decode: Computed | None
    beams: tuple[Computed, ...]
    chunks: tuple[Computed, ...]
    scores: tuple[tuple[Sampled, int] | None, ...]


@dataclass(frozen=True, slots=True)
class Ticket:
    """A step under way: what it drew and scored, still on the device, with the copies home already started.

    The slices say in which lines the answers stand.
    """

    decode: tuple[Sampled, slice] | None
    beams: tuple[tuple[Sampled, slice], ...]
    chunks: tuple[tuple[tuple[Sampled, slice], ...], ...]
    scores: tuple[tuple[Sampled, slice] | None, ...]


class Runner:
    """The device's owner. Donated arrays are replaced at once, so nobody can keep an old one.

    weights      the leaves in network.paths' order, placed; or only their shapes, and `place` brings them later
    pages        one entry a layer, from the network's backend
    how          log-probabilities; with `whole` any number of them may be asked for

    With batch_invariant everything runs through one shape and one sampler, so that the bits of a token do not
    depend on what else the step does: prompt chunks have a line for each token, like decoding rows.
    """

    def __init__(
        self,
        network: Network,
        weights: Sequence[Array | PackedWeight | jax.ShapeDtypeStruct],
        pages: tuple[Any, ...],
        *,
        buckets: Buckets,
        width: int,
        vocab_size: int,
        max_num_seqs: int,
        how: Score,
        whole: bool = False,
        batch_invariant: bool = False,
        device: Any = None,
    ) -> None:
        self._network, self._weights, self._pages = network, tuple(weights), pages
        self._pad_row = max_num_seqs  # one more row, for padding to write into
        self._shapes = Shapes(
            network=network,
            buckets=buckets,
            width=width,
            vocab_size=vocab_size,
            rows=max_num_seqs + 1,
            how=how,
            one_shape=batch_invariant,
            whole=whole,
        )
        self._device = device or jax.devices()[0]
        self._last_token_R = self._put(np.zeros(max_num_seqs + 1, np.int32))
        self._lines: Lines | None = None
        drawn = self._shapes.drawn_rows
        self._allow_all = {rows: self._put(batch.allow_all(rows, vocab_size)) for rows in drawn}
        self._want_none = {rows: self._put(batch.wanted_in_lines((), rows)) for rows in drawn}
        self._programs: dict[Hashable, Program] = {}
        self._found: set[Hashable] = set()

    def place(self, weights: Sequence[Array | PackedWeight]) -> None:
        """Brings the weights, of the shapes announced."""
        self._weights = tuple(weights)

    def compile(self, progress: Progress | None = None, directory: Path | None = None) -> int:
        """Finds (in directory) or compiles every shape; returns how many there are. Then nothing else can run."""
        store = ProgramStore(directory, self._device, self._facts())
        wanted = lowerings(self._shapes, self._weights, self._pages, self._last_token_R)
        self._programs = compile_all(wanted, store, progress)
        self._found = store.found
        self._lines = self._programs["fresh lines",]()
        return len(self._programs)

    def warm_up(self) -> None:
        """Runs every shape once on padding, so that no first time is left for a request.

        On a CPU a step costs the same the first time, and a program that was found has been tried by the start that
        made it: there the smallest step of each kind is enough.
        """
        shapes, ticket = self._shapes, None
        for tokens in self._to_try(shapes.buckets.prefill):
            key, rows, layout = shapes.prompt(tokens)
            computed, hidden = self._forward(key, batch.blank(layout, rows, self._pad_row))
            for kind in ("score", "score whole") if shapes.whole else ("score",):
                self._programs[kind, tokens](self._weights, hidden, np.zeros(tokens, np.int32))
            ticket = self._draw(computed, SampleMode.GREEDY)
        for rows in self._to_try(shapes.buckets.decode):
            computed, _ = self._forward(("decode", rows), batch.blank(shapes.decode_layout, rows, self._pad_row))
            for mode in shapes.modes:
                ticket = self._draw(computed, mode)
        self._copy([(0, 0)])
        self._tell([])
        jax.block_until_ready((ticket, self._pages, self._last_token_R))

    def _to_try(self, sizes: Sequence[int]) -> list[int]:
        is_known = self._device.platform == "cpu" and self._found == self._programs.keys()
        return list(sizes[:1] if is_known else sizes)

    def execute(self, plan: StepPlan) -> Ticket:
        """Enqueues a whole step that has no masks."""
        return self.draw(self.forward(plan), NO_MASKS)

    def forward(self, plan: StepPlan) -> Work:
        """Enqueues moves and logits: decode rows first, then beams, then each chunk."""
        self._copy(plan.copies)
        for row, line in plan.lines:
            self._lines = self._programs["write line",](self._lines, np.int32(row), line)
        if plan.told:
            self._tell(plan.told)
        decode = self._decode(plan.decode) if plan.decode else None
        beams = tuple(self._decode(batch) for batch in plan.beams)
        chunks = [self._chunk(chunk) for chunk in plan.chunks]
        return Work(plan, decode, beams, tuple(one for one, _ in chunks), tuple(scored for _, scored in chunks))

    def draw(self, work: Work, masks: StepMasks) -> Ticket:
        """Enqueues the draws of a step, and the copies of all its numbers home."""
        plan, decode = work.plan, None
        if plan.decode is not None and work.decode is not None:
            sampled = self._draw(work.decode, plan.decode.mode, masks.decode, plan.decode.wanted_ids)
            decode = (sampled, slice(len(plan.decode)))
        beams = tuple(
            (self._draw(computed, batch.mode, masks.beams[at] if masks.beams else ()), slice(len(batch)))
            for at, (batch, computed) in enumerate(zip(plan.beams, work.beams, strict=True))
        )
        chunks = []
        for at, (chunk, computed) in enumerate(zip(plan.chunks, work.chunks, strict=True)):
            chunks.append(self._draw_chunk(chunk, computed, masks.chunks[at] if masks.chunks else ()))
        scores = tuple((scored[0], slice(scored[1])) if scored else None for scored in work.scores)
        ticket = Ticket(decode, beams, tuple(chunks), scores)
        for leaf in jax.tree.leaves(_arrays(ticket)):
            leaf.copy_to_host_async()
        return ticket

    def fetch(self, ticket: Ticket) -> StepResult:
        """Waits for a step's numbers."""
        decode, beams, chunks, scores = jax.device_get(_arrays(ticket))  # the only place that reads the device
        return StepResult(
            decode=_rows(decode, ticket.decode[1]) if ticket.decode else None,
            beams=tuple(_rows(home, lines) for home, (_, lines) in zip(beams, ticket.beams, strict=True)),
            chunks=tuple(
                tuple(_rows(home, lines) for home, (_, lines) in zip(homes, drawn, strict=True))
                for homes, drawn in zip(chunks, ticket.chunks, strict=True)
            ),
            scores=tuple(
                _rows(home, scored[1]) if scored else None for home, scored in zip(scores, ticket.scores, strict=True)
            ),
        )

    def close(self) -> None:
        """Frees device memory: weights, pages and programs."""
        owned = (self._weights, self._pages, self._last_token_R, self._lines, self._allow_all, self._want_none)
        for leaf in jax.tree.leaves(owned):
            if isinstance(leaf, Array) and not leaf.is_deleted():
                leaf.delete()
        self._programs = {}

    # Running

    def _decode(self, decode: DecodeBatch) -> Computed:
        rows = self._shapes.buckets.decode_bucket(len(decode))
        packed = batch.pack_decode(decode, self._shapes.decode_layout, rows, self._pad_row)
        return self._forward(("decode", rows), packed)[0]

    def _chunk(self, chunk: Chunk) -> tuple[Computed, tuple[Sampled, int] | None]:
        """The chunk's logits, and the scores of its tokens."""
        tokens = self._shapes.buckets.prefill_bucket(len(chunk.token_ids))
        key, rows, layout = self._shapes.prompt(tokens)
        if self._shapes.one_shape:
            packed = batch.pack_chunk_in_lines(chunk, layout, rows, self._pad_row)
        else:
            packed = batch.pack_chunk(chunk, layout)
        computed, hidden = self._forward(key, packed)
        scored = None
        if chunk.next_ids is not None and len(chunk.next_ids):
            next_T = batch.pad_ids(chunk.next_ids, tokens)
            kind = "score whole" if chunk.scores_whole else "score"
            scored = (self._programs[kind, tokens](self._weights, hidden, next_T), len(chunk.next_ids))
        return computed, scored

    def _draw_chunk(
        self, chunk: Chunk, computed: Computed, masks: Sequence[Mask | None]
    ) -> tuple[tuple[Sampled, slice], ...]:
        """What was drawn for the chunk's own row and for its forks, and in which line of it the token stands."""
        at = len(chunk.token_ids) - 1 if self._shapes.one_shape else 0
        masks = masks or (None,) * (1 + len(chunk.forks))
        drawn = []
        for one, mask in zip((chunk, *chunk.forks), masks, strict=True):
            head = computed.head
            if one is not chunk:
                rows = computed.logits.shape[0]
                head = batch.head_for(one.row, one.sampling_S, chunk.end, at, rows, self._pad_row)
            its = () if mask is None else ((at, mask),)
            wanted = ((at, one.wanted_ids),) if one.wanted_ids else ()
            drawn.append((self._draw(Computed(computed.logits, head), one.mode, its, wanted), slice(at, at + 1)))
        return tuple(drawn)

    def _forward(self, key: Hashable, packed: np.ndarray) -> tuple[Computed, Array]:
        """The program takes its numpy array to the device itself: device_put, in Python, costs 0.2 ms more."""
        program = self._programs[key]
        self._pages, logits, hidden, head = program(self._weights, self._pages, self._last_token_R, packed)
        return Computed(logits, head), hidden

    def _draw(
        self,
        computed: Computed,
        mode: SampleMode,
        masks: Sequence[tuple[int, Mask]] = (),
        wanted: Sequence[tuple[int, tuple[int, ...]]] = (),
    ) -> Sampled:
        """In this mode, or in the lowest that has masks, where there are any."""
        rows = computed.logits.shape[0]
        mode = self._shapes.mode(max(mode, SampleMode.SHAPED) if masks else mode)
        program = self._programs["draw", rows, mode]
        if mode < SampleMode.SHAPED:
            assert not wanted, mode
            nothing = (None, None, None)
            self._last_token_R, _, sampled = program(self._last_token_R, None, computed.logits, computed.head, *nothing)
            return sampled
        mask = self._masks([(at, one.allowed_M) for at, one in masks], rows)
        grammars = [(at, one.grammar_M) for at, one in masks if one.grammar_M is not None]
        grammar = self._masks(grammars, rows) if mode >= SampleMode.FULL else None
        want = batch.wanted_in_lines(wanted, rows) if wanted else self._want_none[rows]
        self._last_token_R, self._lines, sampled = program(
            self._last_token_R, self._lines, computed.logits, computed.head, mask, grammar, want
        )
        return sampled

    def _masks(self, masks: Sequence[tuple[int, np.ndarray]], rows: int) -> Array | np.ndarray:
        """Each in its line; without any, the array that lies on the device already."""
        return batch.masks_in_lines(masks, rows, self._shapes.vocab_size) if masks else self._allow_all[rows]

    def _copy(self, pairs: Sequence[tuple[int, int]]) -> None:
        for first in range(0, len(pairs), COPIES_AT_ONCE):
            some = batch.pairs(pairs[first : first + COPIES_AT_ONCE], COPIES_AT_ONCE, (0, 0))
            self._pages = self._programs["copy pages",](self._pages, *some)

    def _tell(self, tokens: Sequence[tuple[int, int]]) -> None:
        columns = batch.pairs(tokens, self._shapes.rows, (self._pad_row, 0))
        self._last_token_R = self._programs["tell",](self._last_token_R, *columns)

    def _facts(self) -> list[Any]:
        """All that shapes the programs beside their keys, in words."""
        network, arguments = self._network, (self._weights, self._pages, self._last_token_R)
        shapes = self._shapes
        return [
            network.spec,
            network.dtype,
            network.paths,
            (network.backend.name, getattr(network.backend, "__dict__", {}), network.page_size),
            jax.tree.structure(arguments),
            [(leaf.shape, str(leaf.dtype)) for leaf in jax.tree.leaves(arguments)],
            (shapes.width, shapes.vocab_size, shapes.how, shapes.one_shape),
        ]

    def _put(self, array: np.ndarray | np.generic) -> Array:
        return jax.device_put(array, self._device)


def _arrays(ticket: Ticket) -> Any:
    """Every device array of a ticket: (decode, one for each batch of beams, some and one or None for each chunk)."""
    return (
        ticket.decode[0] if ticket.decode else None,
        [sampled for sampled, _ in ticket.beams],
        [[sampled for sampled, _ in drawn] for drawn in ticket.chunks],
        [scored[0] if scored else None for scored in ticket.scores],
    )


def _rows(home: Any, lines: slice) -> DrawnRows:
    """home: a Sampled of numpy arrays."""
    found: dict[str, Any] = {name: getattr(home, name) for name in DrawnRows.__slots__}
    return DrawnRows(**{name: array[lines] for name, array in found.items() if array is not None})
