"""All that the scheduler says to the runner, and all that comes back. Frozen; prints well; can be replayed."""

from dataclasses import dataclass
from itertools import chain

import numpy as np

from jaxserve.sampling.penalties import PenaltyRow
from jaxserve.sampling.sampler import SampleMode


@dataclass(frozen=True, slots=True)
class Fork:
    """Another token drawn from a chunk's last logits, for a row that continues the same prompt."""

    request_id: int
    epoch: int
    row: int
    sampling_S: np.ndarray
    mode: SampleMode
    logprob_token_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Chunk:
    """A stretch of one request's tokens to compute, and one token to draw after its last.

    start            position of the first token
    token_ids        int32 [n]
    page_table_W     int32 [W], covers start + n tokens; the rest is 0
    sampling_S       int32 [S], packed as sampling/columns.py says
    is_last          the drawn token counts; otherwise it only tells whether the logits are finite
    logprob_token_ids       ids whose log-probabilities are asked for at the drawn token
    prompt_targets         int32 [m], m <= n: the tokens whose log-probabilities are wanted, one position on
    all_prompt_logprobs     these log-probabilities are wanted for the whole vocabulary
    forks            further draws from the last position
    """

    request_id: int
    epoch: int
    row: int
    start: int
    token_ids: np.ndarray
    page_table_W: np.ndarray
    sampling_S: np.ndarray
    mode: SampleMode
    is_last: bool
    logprob_token_ids: tuple[int, ...] = ()
    prompt_targets: np.ndarray | None = None
    all_prompt_logprobs: bool = False
    forks: tuple[Fork, ...] = ()

    @property
    def end(self) -> int:
        return self.start + len(self.token_ids)


@dataclass(frozen=True, slots=True)
class DecodeBatch:
    """Rows that compute their newest token, which lies on the device, and draw the next.

    position_B       int32 [n], position of that newest token
    logprob_token_ids       (place in the batch, ids whose log-probabilities are asked for), for rows that have such
    """

    request_ids: tuple[int, ...]
    epochs: tuple[int, ...]
    row_B: np.ndarray
    position_B: np.ndarray
    page_table_BW: np.ndarray
    sampling_BS: np.ndarray
    mode: SampleMode
    logprob_token_ids: tuple[tuple[int, tuple[int, ...]], ...] = ()

    def __len__(self) -> int:
        return len(self.request_ids)


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step: small moves, then decode rows, then beams, then prompt chunks, each a call of a compiled function.

    page_copies           (from, to) pages, copied before anything is computed
    penalty_rows            (row, its new line), for rows whose request has just come and needs one, and for beams
    last_tokens             (row, token), for beams: what the host has chosen is the row's newest token
    beams            one batch for each beam search that goes on
    needs_previous_tokens  a mask of this step depends on tokens of the steps before it: sampling waits for them
    """

    decode: DecodeBatch | None = None
    chunks: tuple[Chunk, ...] = ()
    page_copies: tuple[tuple[int, int], ...] = ()
    penalty_rows: tuple[tuple[int, PenaltyRow], ...] = ()
    last_tokens: tuple[tuple[int, int], ...] = ()
    beams: tuple[DecodeBatch, ...] = ()
    needs_previous_tokens: bool = False

    def __bool__(self) -> bool:
        return self.decode is not None or bool(self.chunks) or bool(self.beams)

    @property
    def num_rows(self) -> int:
        """Rows that decode, beams among them."""
        return (len(self.decode) if self.decode else 0) + sum(map(len, self.beams))

    @property
    def num_prompt_tokens(self) -> int:
        return sum(len(chunk.token_ids) for chunk in self.chunks)

    @property
    def num_tokens(self) -> int:
        return self.num_rows + self.num_prompt_tokens


@dataclass(frozen=True, slots=True)
class Mask:
    """What one draw may draw: uint32 [ceil(V / 32)], bit set = allowed.

    grammar_M        what the grammar alone allows, after which raw log-probabilities are taken; None: everything
    """

    allowed_M: np.ndarray
    grammar_M: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class StepMasks:
    """What the draws of a step may draw, told after its forward functions have been enqueued.

    decode           (place in the batch, mask), for rows that have one
    chunks           for each chunk its own draw's mask, then those of its forks; empty: nobody has one
    beams            for each batch of beams as for decode
    """

    decode: tuple[tuple[int, Mask], ...] = ()
    chunks: tuple[tuple[Mask | None, ...], ...] = ()
    beams: tuple[tuple[tuple[int, Mask], ...], ...] = ()

    @property
    def num_grammar_masks(self) -> int:
        """Draws under a grammar."""
        drawn = chain(self.decode, *self.beams)
        masks = chain((mask for _, mask in drawn), *self.chunks)
        return sum(1 for mask in masks if mask is not None and mask.grammar_M is not None)


NO_MASKS = StepMasks()


@dataclass(frozen=True, slots=True)
class SampledTokens:
    """What was drawn, in numpy: Sampled's fields, where those that were not computed are None."""

    token_B: np.ndarray
    logprob_B: np.ndarray | None = None
    rank_B: np.ndarray | None = None
    top_id_BK: np.ndarray | None = None
    top_logprob_BK: np.ndarray | None = None
    requested_logprob_BI: np.ndarray | None = None
    all_logprob_BV: np.ndarray | None = None
    candidate_id_BC: np.ndarray | None = None
    candidate_logprob_BC: np.ndarray | None = None
    candidate_raw_logprob_BC: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class StepResult:
    """Results in the plan's order.

    chunks           for each chunk its own sampled token, then those of its forks
    prompt_logprobs  for each chunk the log-probabilities of its prompt_targets
    """

    decode: SampledTokens | None
    chunks: tuple[tuple[SampledTokens, ...], ...]
    prompt_logprobs: tuple[SampledTokens | None, ...]
    beams: tuple[SampledTokens, ...] = ()
