"""Every shape that may run, as a key and a function that lowers it. What is compiled is decided here, and nowhere else.

("prefill", tokens)  ("decode", rows)  ("score", tokens)  ("score whole", tokens)  ("draw", rows, mode)
("fresh lines",)  ("write line",)  ("copy pages",)  ("tell",)
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxserve.engine import batch
from jaxserve.engine.buckets import Buckets
from jaxserve.engine.step import Network, copy_pages, draw, forward, score_prompt, tell
from jaxserve.sampling import lines
from jaxserve.sampling.sampler import SampleMode, Score
from jaxserve.sampling_params import MAX_LOGPROB_TOKEN_IDS

COPIES_AT_ONCE = 8  # pages; a step that copies more makes several calls


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """What the shapes are made of. rows: the batch's rows and one more, which padding writes into.

    one_shape   batch invariance: one shape and one sampler for everything
    whole       log-probabilities of the whole vocabulary may be asked for
    """

    network: Network
    buckets: Buckets
    width: int
    vocab_size: int
    rows: int
    how: Score
    one_shape: bool
    whole: bool

    @property
    def modes(self) -> tuple[SampleMode, ...]:
        """What is drawn must not depend on what neighbours ask for, so under batch invariance modes are few."""
        unused = {SampleMode.DRAW, SampleMode.SHAPED} if self.one_shape else set()
        return tuple(mode for mode in SampleMode if mode not in unused and (self.whole or mode != SampleMode.WHOLE))

    def mode(self, wanted: SampleMode) -> SampleMode:
        """The cheapest mode there is that does what is wanted."""
        return min(mode for mode in self.modes if mode >= wanted)

    @property
    def drawn_rows(self) -> tuple[int, ...]:
        """Numbers of rows that tokens are drawn for: those of decode batches, and one after a prompt."""
        return tuple(sorted({*self.buckets.decode} if self.one_shape else {1, *self.buckets.decode}))

    @property
    def decode_layout(self) -> batch.Layout:
        return batch.Layout(self.width, 1 if self.one_shape else 0)

    def prompt(self, tokens: int) -> tuple[Hashable, int, batch.Layout]:
        """The program that computes a chunk of so many tokens, its lines and their layout."""
        if self.one_shape:
            return ("decode", tokens), tokens, self.decode_layout
        return ("prefill", tokens), 1, batch.Layout(self.width, tokens)


def lowerings(
    shapes: Shapes, weights: Sequence[Any], pages: tuple[Any, ...], last_token_R: Array
) -> dict[Hashable, Callable[[], Any]]:
    """Key → what lowers it. The slowest kinds come first."""
    state = _Arguments(shapes, weights, pages, last_token_R)
    found: dict[Hashable, Callable[[], Any]] = {}
    for tokens in () if shapes.one_shape else shapes.buckets.prefill:
        found["prefill", tokens] = partial(state.forward, 1, batch.Layout(shapes.width, tokens))
    for rows in shapes.buckets.decode:
        found["decode", rows] = partial(state.forward, rows, shapes.decode_layout)
    for tokens in shapes.buckets.prefill:
        found["score", tokens] = partial(state.score, tokens, False)
        if shapes.whole:
            found["score whole", tokens] = partial(state.score, tokens, True)
    for rows in shapes.drawn_rows:
        for mode in shapes.modes:
            found["draw", rows, mode] = partial(state.draw, rows, mode)
    found["fresh lines",] = state.fresh_lines
    found["write line",] = state.write_line
    found["copy pages",] = state.copy_pages
    found["tell",] = state.tell
    return found


@dataclass(frozen=True)
class _Arguments:
    """What every lowering is given: the real arrays where they exist, their shapes where not.

    Every function is a partial, which no other is equal to: what JAX remembers of an engine before this one, a
    program that the store lacks among it, plays no part.
    """

    shapes: Shapes
    weights: Sequence[Any]
    pages: tuple[Any, ...]
    last_token_R: Array

    def forward(self, rows: int, layout: batch.Layout) -> Any:
        step = jax.jit(partial(forward, self.shapes.network, layout), donate_argnums=1, keep_unused=True)
        return step.lower(self.weights, self.pages, self.last_token_R, _ints(rows, layout.num_columns))

    def score(self, tokens: int, whole: bool) -> Any:
        step = jax.jit(partial(score_prompt, self.shapes.network, self.shapes.how, whole), keep_unused=True)
        _, rows, layout = self.shapes.prompt(tokens)
        network = self.shapes.network
        hidden = jax.ShapeDtypeStruct((rows * max(1, layout.num_tokens), network.spec.width), network.dtype)
        return step.lower(self.weights, hidden, _ints(tokens))

    def draw(self, rows: int, mode: SampleMode) -> Any:
        step = jax.jit(partial(draw, mode=mode, how=self.shapes.how), donate_argnums=(0, 1), keep_unused=True)
        logits = jax.ShapeDtypeStruct((rows, self.shapes.vocab_size), jnp.float32)
        more = (None, None, None, None)
        if mode >= SampleMode.SHAPED:
            mask = jax.ShapeDtypeStruct((rows, lines.num_words(self.shapes.vocab_size)), jnp.uint32)
            grammar = mask if mode >= SampleMode.FULL else None
            more = (self.lines, mask, grammar, _ints(rows, MAX_LOGPROB_TOKEN_IDS))
        return step.lower(self.last_token_R, more[0], logits, _ints(rows, batch.HEAD), *more[1:])

    @property
    def lines(self) -> lines.Lines:
        return jax.eval_shape(partial(lines.fresh, self.shapes.rows, self.shapes.vocab_size))

    def fresh_lines(self) -> Any:
        return jax.jit(partial(lines.fresh, self.shapes.rows, self.shapes.vocab_size)).lower()

    def write_line(self) -> Any:
        new = lines.line((), (), (), self.shapes.vocab_size)
        return jax.jit(partial(lines.write), donate_argnums=0).lower(self.lines, np.int32(0), new)

    def copy_pages(self) -> Any:
        num = _ints(COPIES_AT_ONCE)
        return jax.jit(partial(copy_pages), donate_argnums=0).lower(self.pages, num, num)

    def tell(self) -> Any:
        num = _ints(self.shapes.rows)
        return jax.jit(partial(tell), donate_argnums=0).lower(self.last_token_R, num, num)


def _ints(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.int32)
