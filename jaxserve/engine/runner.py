"""Owns what lives on the device: weights, pages, newest tokens. execute(plan) → ticket, fetch(ticket) → result.

execute returns as soon as the work is enqueued; fetch waits for numbers whose copies were started then.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxserve.engine import batch
from jaxserve.engine.buckets import Buckets
from jaxserve.engine.compile import Progress, compile_all
from jaxserve.engine.plan import Chunk, DecodeBatch, DrawnRows, StepPlan, StepResult
from jaxserve.engine.programs import Program, ProgramStore
from jaxserve.engine.step import Network, draw, forward, score_prompt
from jaxserve.sampling.sampler import Sampled, SampleMode


@dataclass(frozen=True, slots=True)
class Ticket:
    """A step under way: what it drew and scored, still on the device, with the copies home already started.

    The slices say in which lines the answers stand.
    """

    decode: tuple[Sampled, slice] | None
    chunks: tuple[tuple[Sampled, slice], ...]
    scores: tuple[tuple[tuple[Array, ...], np.ndarray] | None, ...]


class Runner:
    """The device's owner. Donated arrays are replaced at once, so nobody can keep an old one.

    weights      the leaves in network.paths' order, placed; or only their shapes, and `place` brings them later
    pages        one entry a layer, from the network's backend

    With batch_invariant everything runs through one shape and one sampler, so that the bits of a token do not
    depend on what else the step does: prompt chunks have a line for each token, like decoding rows.
    """

    def __init__(
        self,
        network: Network,
        weights: Sequence[Array | jax.ShapeDtypeStruct],
        pages: tuple[Any, ...],
        *,
        buckets: Buckets,
        width: int,
        vocab_size: int,
        max_num_seqs: int,
        max_logprobs: int,
        batch_invariant: bool = False,
        device: Any = None,
    ) -> None:
        self._network, self._weights, self._pages = network, tuple(weights), pages
        self._buckets, self._width, self._vocab_size = buckets, width, vocab_size
        self._pad_row = max_num_seqs  # one more row, for padding to write into
        self._max_logprobs = max(1, max_logprobs)
        self._device = device or jax.devices()[0]
        self._last_token_R = self._put(np.zeros(max_num_seqs + 1, np.int32))
        self._one_shape = batch_invariant
        self._modes = [mode for mode in SampleMode if not batch_invariant or mode != SampleMode.DRAW]
        self._drawn_rows = {*self._buckets.decode} if batch_invariant else {1, *self._buckets.decode}
        self._allow_all = {rows: self._put(batch.allow_all(rows, vocab_size)) for rows in self._drawn_rows}
        self._programs: dict[Hashable, Program] = {}
        self._found: set[Hashable] = set()

    def place(self, weights: Sequence[Array]) -> None:
        """Brings the weights, of the shapes announced."""
        self._weights = tuple(weights)

    def compile(self, progress: Progress | None = None, directory: Path | None = None) -> int:
        """Finds (in directory) or compiles every shape; returns how many there are. Then nothing else can run."""
        lowerings: dict[Hashable, Any] = {}
        for tokens in () if self._one_shape else self._buckets.prefill:
            lowerings["prefill", tokens] = partial(self._lower_forward, 1, self._layout(tokens))
        for rows in self._buckets.decode:
            lowerings["decode", rows] = partial(self._lower_forward, rows, self._decode_layout)
        for tokens in self._buckets.prefill:
            lowerings["score", tokens] = partial(self._lower_score, tokens)
        for rows in self._drawn_rows:
            for mode in self._modes:
                lowerings["draw", rows, mode] = partial(self._lower_draw, rows, mode)
        store = ProgramStore(directory, self._device, self._facts())
        self._programs = compile_all(lowerings, store, progress)
        self._found = store.found
        return len(self._programs)

    def warm_up(self) -> None:
        """Runs every shape once on padding, so that no first time is left for a request.

        On a CPU a step costs the same the first time, and a program that was found has been tried by the start that
        made it: there the smallest step of each kind is enough.
        """
        ticket = None
        for tokens in self._to_try(self._buckets.prefill):
            key, rows, layout = self._prompt_shape(tokens)
            logits, hidden, head = self._forward(key, batch.blank(layout, rows, self._pad_row))
            self._programs["score", tokens](self._weights, hidden, self._put(np.zeros(tokens, np.int32)))
            ticket = self._draw(logits, head, SampleMode.GREEDY, ())
        for rows in self._to_try(self._buckets.decode):
            packed = batch.blank(self._decode_layout, rows, self._pad_row)
            logits, _, head = self._forward(("decode", rows), packed)
            for mode in self._modes:
                ticket = self._draw(logits, head, mode, ())
        jax.block_until_ready(ticket)

    def _to_try(self, sizes: Sequence[int]) -> list[int]:
        is_known = self._device.platform == "cpu" and self._found == self._programs.keys()
        return list(sizes[:1] if is_known else sizes)

    def execute(self, plan: StepPlan) -> Ticket:
        """Enqueues a step: decode rows first, then each chunk."""
        decode = (self._decode(plan.decode), slice(len(plan.decode))) if plan.decode else None
        chunks, scores = [], []
        for chunk in plan.chunks:
            drawn, at, scored = self._chunk(chunk)
            chunks.append((drawn, slice(at, at + 1)))
            scores.append(scored)
        ticket = Ticket(decode, tuple(chunks), tuple(scores))
        for leaf in jax.tree.leaves(ticket_arrays(ticket)):
            leaf.copy_to_host_async()
        return ticket

    def fetch(self, ticket: Ticket) -> StepResult:
        """Waits for a step's numbers."""
        decode, chunks, scores = jax.device_get(ticket_arrays(ticket))  # the only place that reads the device
        return StepResult(
            decode=_drawn(decode, ticket.decode[1]) if ticket.decode else None,
            chunks=tuple(_drawn(drawn, lines) for drawn, (_, lines) in zip(chunks, ticket.chunks, strict=True)),
            scores=tuple(
                _scored(arrays, score[1]) if score else None
                for arrays, score in zip(scores, ticket.scores, strict=True)
            ),
        )

    def close(self) -> None:
        """Frees device memory: weights, pages and programs."""
        for leaf in jax.tree.leaves((self._weights, self._pages, self._last_token_R, self._allow_all)):
            if isinstance(leaf, Array) and not leaf.is_deleted():
                leaf.delete()
        self._programs = {}

    # Running

    def _decode(self, decode: DecodeBatch) -> Sampled:
        rows = self._buckets.decode_bucket(len(decode))
        packed = batch.pack_decode(decode, self._decode_layout, rows, self._pad_row)
        logits, _, head = self._forward(("decode", rows), packed)
        return self._draw(logits, head, decode.mode, decode.held_back)

    def _chunk(self, chunk: Chunk) -> tuple[Sampled, int, tuple[tuple[Array, ...], np.ndarray] | None]:
        """What was drawn, in which line of it the chunk's token stands, and the scores."""
        tokens = self._buckets.prefill_bucket(len(chunk.token_ids))
        key, rows, layout = self._prompt_shape(tokens)
        if self._one_shape:
            packed, at = batch.pack_chunk_in_lines(chunk, layout, rows, self._pad_row), len(chunk.token_ids) - 1
        else:
            packed, at = batch.pack_chunk(chunk, layout), 0
        logits, hidden, head = self._forward(key, packed)
        held_back = ((at, chunk.held_back_ids),) if chunk.held_back_ids else ()
        scored = None
        if chunk.next_ids is not None and len(chunk.next_ids):
            next_T = self._put(batch.pad_ids(chunk.next_ids, tokens))
            scored = (self._programs["score", tokens](self._weights, hidden, next_T), chunk.next_ids)
        return self._draw(logits, head, chunk.mode, held_back), at, scored

    def _forward(self, key: Hashable, packed: np.ndarray) -> tuple[Array, Array, Array]:
        program = self._programs[key]
        self._pages, logits, hidden, head = program(self._weights, self._pages, self._last_token_R, self._put(packed))
        return logits, hidden, head

    def _draw(self, logits: Array, head: Array, mode: SampleMode, held_back: tuple) -> Sampled:
        rows = logits.shape[0]
        if mode not in self._modes:  # what is drawn must not depend on whether a neighbour wants log-probabilities
            mode = SampleMode.FULL
        mask = self._allow_all[rows] if mode == SampleMode.FULL else None
        if held_back:
            mask = self._put(batch.hold_back(held_back, rows, self._vocab_size))
        self._last_token_R, sampled = self._programs["draw", rows, mode](self._last_token_R, logits, head, mask)
        return sampled

    # Shapes

    def _facts(self) -> list[Any]:
        """All that shapes the programs beside their keys, in words."""
        network, arguments = self._network, (self._weights, self._pages, self._last_token_R)
        return [
            network.spec,
            network.dtype,
            network.paths,
            (network.backend.name, getattr(network.backend, "__dict__", {}), network.page_size),
            jax.tree.structure(arguments),
            [(leaf.shape, str(leaf.dtype)) for leaf in jax.tree.leaves(arguments)],
            (self._width, self._vocab_size, self._max_logprobs, self._one_shape),
        ]

    def _layout(self, tokens: int) -> batch.Layout:
        return batch.Layout(self._width, tokens)

    @property
    def _decode_layout(self) -> batch.Layout:
        return self._layout(1 if self._one_shape else 0)

    def _prompt_shape(self, tokens: int) -> tuple[Hashable, int, batch.Layout]:
        """The program that computes a chunk of so many tokens, its lines and their layout."""
        if self._one_shape:
            return ("decode", tokens), tokens, self._decode_layout
        return ("prefill", tokens), 1, self._layout(tokens)

    def _lower_forward(self, rows: int, layout: batch.Layout) -> Any:
        step = jax.jit(partial(forward, self._network, layout), donate_argnums=1, keep_unused=True)
        packed = jax.ShapeDtypeStruct((rows, layout.num_columns), jnp.int32)
        return step.lower(self._weights, self._pages, self._last_token_R, packed)

    def _lower_score(self, tokens: int) -> Any:
        step = jax.jit(partial(score_prompt, self._network, self._max_logprobs), keep_unused=True)
        _, rows, layout = self._prompt_shape(tokens)
        queries = rows * max(1, layout.num_tokens)
        hidden = jax.ShapeDtypeStruct((queries, self._network.spec.width), self._network.dtype)
        return step.lower(self._weights, hidden, jax.ShapeDtypeStruct((tokens,), jnp.int32))

    def _lower_draw(self, rows: int, mode: SampleMode) -> Any:
        step = jax.jit(partial(draw, mode=mode, max_logprobs=self._max_logprobs), donate_argnums=0, keep_unused=True)
        logits = jax.ShapeDtypeStruct((rows, self._vocab_size), jnp.float32)
        head = jax.ShapeDtypeStruct((rows, batch.HEAD), jnp.int32)
        mask = self._allow_all[rows] if mode == SampleMode.FULL else None
        return step.lower(self._last_token_R, logits, head, mask)

    def _put(self, array: np.ndarray) -> Array:
        return jax.device_put(array, self._device)


def ticket_arrays(ticket: Ticket) -> Any:
    """Every device array of a ticket: (decode, one entry a chunk, one entry or None a chunk)."""
    return (
        ticket.decode[0] if ticket.decode else None,
        [drawn for drawn, _ in ticket.chunks],
        [scored[0] if scored else None for scored in ticket.scores],
    )


def _drawn(home: Any, lines: slice) -> DrawnRows:
    """home: a Sampled of numpy arrays."""
    return DrawnRows(
        token_B=home.token_B[lines],
        logprob_B=None if home.logprob_B is None else home.logprob_B[lines],
        rank_B=None if home.rank_B is None else home.rank_B[lines],
        top_id_BK=None if home.top_id_BK is None else home.top_id_BK[lines],
        top_logprob_BK=None if home.top_logprob_BK is None else home.top_logprob_BK[lines],
    )


def _scored(home: tuple[np.ndarray, ...], next_ids: np.ndarray) -> DrawnRows:
    logprob, rank, top_id, top_logprob = (array[: len(next_ids)] for array in home)
    return DrawnRows(next_ids, logprob, rank, top_id, top_logprob)
