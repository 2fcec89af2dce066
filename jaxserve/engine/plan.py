"""All that the scheduler says to the runner, and all that comes back. Frozen; prints well; can be replayed."""

from dataclasses import dataclass

import numpy as np

from jaxserve.sampling.sampler import SampleMode


@dataclass(frozen=True, slots=True)
class Chunk:
    """A stretch of one request's tokens to compute, and one token to draw after its last.

    start            position of the first token
    token_ids        int32 [n]
    page_table_W     int32 [W], covers start + n tokens; the rest is 0
    sampling_S       int32 [S], packed as sampling/rows.py says
    is_last          the drawn token counts; otherwise it only tells whether the logits are finite
    held_back_ids    ids that may not be drawn
    next_ids         int32 [m], m <= n: the tokens whose log-probabilities are wanted, one position on
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
    held_back_ids: tuple[int, ...] = ()
    next_ids: np.ndarray | None = None

    @property
    def end(self) -> int:
        return self.start + len(self.token_ids)


@dataclass(frozen=True, slots=True)
class DecodeBatch:
    """Rows that compute their newest token, which lies on the device, and draw the next.

    position_B       int32 [n], position of that newest token
    held_back        (index in the batch, ids that may not be drawn), for rows that have such
    """

    request_ids: tuple[int, ...]
    epochs: tuple[int, ...]
    row_B: np.ndarray
    position_B: np.ndarray
    page_table_BW: np.ndarray
    sampling_BS: np.ndarray
    mode: SampleMode
    held_back: tuple[tuple[int, tuple[int, ...]], ...] = ()

    def __len__(self) -> int:
        return len(self.request_ids)


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step: decode rows first, then prompt chunks, each a call of a compiled function."""

    decode: DecodeBatch | None = None
    chunks: tuple[Chunk, ...] = ()

    def __bool__(self) -> bool:
        return self.decode is not None or bool(self.chunks)

    @property
    def num_tokens(self) -> int:
        return (len(self.decode) if self.decode else 0) + sum(len(chunk.token_ids) for chunk in self.chunks)


@dataclass(frozen=True, slots=True)
class DrawnRows:
    """What was drawn, in numpy: token_B is -1 where the logits were not finite or nothing was allowed.

    The rest is there when the mode was FULL: raw logprob and rank of the token, and the best K of the row.
    """

    token_B: np.ndarray
    logprob_B: np.ndarray | None = None
    rank_B: np.ndarray | None = None
    top_id_BK: np.ndarray | None = None
    top_logprob_BK: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class StepResult:
    """Answers in the plan's order; scores[i] belongs to chunks[i].next_ids."""

    decode: DrawnRows | None
    chunks: tuple[DrawnRows, ...]
    scores: tuple[DrawnRows | None, ...]
