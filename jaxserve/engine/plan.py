"""The messages between scheduler and runner: plans, masks and results. Immutable plain values, which can be pickled."""

from dataclasses import dataclass
from itertools import chain
from typing import TypeAlias

import numpy as np

from jaxserve.cache.groups import PageCopy
from jaxserve.engine.values import equal_values
from jaxserve.layers.adapter import NO_ADAPTER, Adapter
from jaxserve.sampling.penalties import PenaltyRow
from jaxserve.sampling.sampler import SampleMode

NUM_STOP_IDS = 8  # token ids by which a step of several tokens knows the end of a row
MULTI_STEP_MODES = (SampleMode.SAMPLE, SampleMode.PROCESSORS)
"""The sampler's modes in steps of several tokens; SAMPLE gives the tokens of GREEDY, too."""

RowUpdate: TypeAlias = tuple[int, int, int]
"""A newest token that the host has chosen for a row: (row, token, its position)."""


@dataclass(frozen=True, slots=True)
class Fork:
    """Another token sampled from a chunk's last logits, for the row of another choice of the same prompt.

    request_id          The choice's request.
    epoch               Its sequence's epoch.
    row                 Its row.
    sampling_S          int32 [S], its sampling parameters as columns (sampling/columns.py).
    mode                The sampler's mode that it needs.
    logprob_token_ids   The ids whose log-probabilities it asks for.
    """

    request_id: int
    epoch: int
    row: int
    sampling_S: np.ndarray
    mode: SampleMode
    logprob_token_ids: tuple[int, ...] = ()

    __eq__ = equal_values


@dataclass(frozen=True, slots=True)
class Chunk:
    """A chunk of one prompt to compute, and the token sampled after its last one.

    request_id            The request.
    epoch                 Its sequence's epoch.
    row                   Its row.
    start                 The position of the chunk's first token.
    token_ids             int32 [n], the chunk's tokens.
    page_tables_W         int32 [W] for each cache group: the pages of the first start + n tokens, then zeros.
    sampling_S            int32 [S], the sampling parameters as columns (sampling/columns.py).
    mode                  The sampler's mode that it needs.
    is_last               The prompt ends with this chunk: the sampled token counts. Else it only shows whether the
                          logits are finite.
    logprob_token_ids     The ids whose log-probabilities the request asks for at the sampled token.
    prompt_targets        int32 [m], m <= n: the next token of each position, if the request asks for prompt
                          log-probabilities.
    all_prompt_logprobs   These log-probabilities are needed for the whole vocabulary.
    forks                 Further tokens to sample from the last logits.
    adapter_slot          The slot of the request's adapter; NO_ADAPTER for none.
    second_start          The position at which the second of two texts begins, for an encoder; None: there is one text.
    """

    request_id: int
    epoch: int
    row: int
    start: int
    token_ids: np.ndarray
    page_tables_W: tuple[np.ndarray, ...]
    sampling_S: np.ndarray
    mode: SampleMode
    is_last: bool
    logprob_token_ids: tuple[int, ...] = ()
    prompt_targets: np.ndarray | None = None
    all_prompt_logprobs: bool = False
    forks: tuple[Fork, ...] = ()
    adapter_slot: int = NO_ADAPTER
    second_start: int | None = None

    __eq__ = equal_values

    @property
    def end(self) -> int:
        """The position after the chunk's last token."""
        return self.start + len(self.token_ids)


@dataclass(frozen=True, slots=True)
class DecodeBatch:
    """Rows that compute their newest token, which is on the device with its position, and sample the next one.

    request_ids, epochs   The requests, and the epochs of their sequences.
    row_B                 int32 [n], their rows.
    positions             The position of each newest token by the host's own account, for costs and checks.
    page_tables_BW        int32 [n, W] for each cache group: their page tables.
    sampling_BS           int32 [n, S], their sampling parameters as columns (sampling/columns.py).
    mode                  The sampler's mode that serves all of them.
    logprob_token_ids     Pairs (index in the batch, ids), for rows that ask for log-probabilities by id.
    max_tokens            The most tokens that a row gets in this step. If they are several, positions count as many for
                          each earlier step whose result is not known yet, and may be too high; no row has a mask or
                          asks for log-probabilities.
    adapter_slot_B        int32 [n], the slots of their adapters; None: no row has one.
    stops_BX              int32 [n, 1 + NUM_STOP_IDS], the number of tokens of prompt and output at which each row ends,
                          then ids that end it, filled up with NO_TOKEN. It may have more of them: the host knows all,
                          and drops what comes behind. None: max_tokens is 1.
    """

    request_ids: tuple[int, ...]
    epochs: tuple[int, ...]
    row_B: np.ndarray
    positions: tuple[int, ...]
    page_tables_BW: tuple[np.ndarray, ...]
    sampling_BS: np.ndarray
    mode: SampleMode
    logprob_token_ids: tuple[tuple[int, tuple[int, ...]], ...] = ()
    max_tokens: int = 1
    adapter_slot_B: np.ndarray | None = None
    stops_BX: np.ndarray | None = None

    __eq__ = equal_values

    def __len__(self) -> int:
        return len(self.request_ids)


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step. In this order: page copies and other small updates, decode rows, beams, prompt chunks.

    Each batch is one call of a compiled program, and as many chunks as fit are one.

    decode                  The decode rows.
    chunks                  The prompt chunks.
    page_copies             Triples (cache group, from, to) of pages.
    penalty_rows            Pairs (row, its penalty state), for rows of new sequences that need one, and for beams.
    row_updates             The newest token of each beam, which the host has chosen, and its position.
    beams                   One batch for each beam search.
    needs_previous_tokens   A mask of this step depends on the tokens of earlier steps: their results come first.
    adapters                Pairs (slot, adapter), for slots that get another adapter.
    """

    decode: DecodeBatch | None = None
    chunks: tuple[Chunk, ...] = ()
    page_copies: tuple[PageCopy, ...] = ()
    penalty_rows: tuple[tuple[int, PenaltyRow], ...] = ()
    row_updates: tuple[RowUpdate, ...] = ()
    beams: tuple[DecodeBatch, ...] = ()
    needs_previous_tokens: bool = False
    adapters: tuple[tuple[int, Adapter], ...] = ()

    __eq__ = equal_values

    def __bool__(self) -> bool:
        return self.decode is not None or bool(self.chunks) or bool(self.beams)

    @property
    def request_ids(self) -> set[int]:
        """The requests that something is computed for."""
        rows = [batch.request_ids for batch in (self.decode, *self.beams) if batch is not None]
        chunks = [(chunk, *chunk.forks) for chunk in self.chunks]
        return {*chain(*rows), *(each.request_id for each in chain(*chunks))}

    @property
    def num_rows(self) -> int:
        """The number of decode rows, beams included."""
        return (len(self.decode) if self.decode else 0) + sum(map(len, self.beams))

    @property
    def num_prompt_tokens(self) -> int:
        """The number of prompt tokens of all chunks."""
        return sum(len(chunk.token_ids) for chunk in self.chunks)

    @property
    def num_tokens(self) -> int:
        """The number of tokens that the step computes, of each decode row the first one."""
        return self.num_rows + self.num_prompt_tokens

    @property
    def max_tokens(self) -> int:
        """The most tokens that the step computes, all those of each decode row."""
        num_further = 0 if self.decode is None else len(self.decode) * (self.decode.max_tokens - 1)
        return self.num_tokens + num_further


@dataclass(frozen=True, slots=True)
class Mask:
    """The tokens that a row may sample, as bitmaps.

    allowed_M   uint32 [ceil(V / 32)], bit set = allowed.
    grammar_M   The same for the grammar alone, to which raw log-probabilities are restricted; None: no grammar.
    """

    allowed_M: np.ndarray
    grammar_M: np.ndarray | None = None

    __eq__ = equal_values


@dataclass(frozen=True, slots=True)
class StepMasks:
    """The masks of one plan. They are made after its forward pass has been enqueued.

    decode   Pairs (index in the batch, mask), for rows that have one.
    chunks   For each chunk its own mask, then those of its forks; empty if there are none.
    beams    For each batch of beams the same as for decode.
    """

    decode: tuple[tuple[int, Mask], ...] = ()
    chunks: tuple[tuple[Mask | None, ...], ...] = ()
    beams: tuple[tuple[tuple[int, Mask], ...], ...] = ()

    __eq__ = equal_values

    @property
    def num_grammar_masks(self) -> int:
        """The number of masks that come from a grammar."""
        indexed = chain(self.decode, *self.beams)
        masks = chain((mask for _, mask in indexed), *self.chunks)
        return sum(1 for mask in masks if mask is not None and mask.grammar_M is not None)


NO_MASKS = StepMasks()


@dataclass(frozen=True, slots=True)
class SampledTokens:
    """The sampled tokens of B rows in numpy, up to K for each. Fields that the mode does not compute are None.

    token_BK   int32. A row for which no token could be sampled has NO_TOKEN or NOTHING_ALLOWED as its last one.
    count_B    int32, the number of tokens of each row, at least 1; what is behind them has no meaning.

    The other fields are those of SamplerOutput, for each token, X of the most probable ones. A beam has candidates for
    one token.
    """

    token_BK: np.ndarray
    count_B: np.ndarray
    logprob_BK: np.ndarray | None = None
    rank_BK: np.ndarray | None = None
    top_id_BKX: np.ndarray | None = None
    top_logprob_BKX: np.ndarray | None = None
    requested_logprob_BKI: np.ndarray | None = None
    all_logprob_BKV: np.ndarray | None = None
    candidate_id_BC: np.ndarray | None = None
    candidate_logprob_BC: np.ndarray | None = None
    candidate_raw_logprob_BC: np.ndarray | None = None

    __eq__ = equal_values


@dataclass(frozen=True, slots=True)
class StepResult:
    """The results of one plan, in its order.

    decode            The decode rows' tokens.
    chunks            For each chunk its own token, then those of its forks.
    prompt_logprobs   For each chunk the log-probabilities of its prompt_targets, or None.
    beams             For each batch of beams its tokens and candidates.
    pooled            Of an engine that pools, which has only this: for each chunk float32 [X], or [n, X] with a vector
                      for each token.
    experts           Of an engine that returns the experts of tokens: of the decode rows, each batch of beams and each
                      chunk those of its tokens, [n, R, K] for R layers that have experts, of which each token has K.
    """

    decode: SampledTokens | None
    chunks: tuple[tuple[SampledTokens, ...], ...]
    prompt_logprobs: tuple[SampledTokens | None, ...]
    beams: tuple[SampledTokens, ...] = ()
    pooled: tuple[np.ndarray, ...] = ()
    experts: tuple[np.ndarray, ...] = ()

    __eq__ = equal_values
