"""The log-probabilities of one position, from the arrays of a step."""

from collections.abc import Sequence

import numpy as np

from jaxserve.engine.plan import SampledTokens
from jaxserve.outputs import PositionLogprobs


def make_position_logprobs(
    sampled: SampledTokens, index: tuple[int, int], num_top: int, requested_ids: Sequence[int] = ()
) -> PositionLogprobs:
    """Return the log-probabilities of a sampled token.

    sampled         The results of the rows.
    index           The index of the row, and that of the token in it.
    num_top         The number of most likely tokens to return.
    requested_ids   The ids that the request asks for.
    """
    assert sampled.logprob_BK is not None and sampled.rank_BK is not None
    requested: tuple[tuple[int, float], ...] = ()
    if requested_ids:
        assert sampled.requested_logprob_BKI is not None
        requested = tuple(zip(requested_ids, sampled.requested_logprob_BKI[index].tolist(), strict=False))
    return PositionLogprobs(
        token_id=int(sampled.token_BK[index]),
        logprob=float(sampled.logprob_BK[index]),
        rank=int(sampled.rank_BK[index]),
        top=_top(sampled, index, num_top),
        requested=requested,
    )


def make_candidate_logprobs(sampled: SampledTokens, index: int, candidate: int, num_top: int) -> PositionLogprobs:
    """Return the log-probabilities of a beam's candidate, as if it had been sampled.

    Its rank is None if it is not among the log-probabilities of the step.

    sampled     The results of the beams.
    index       The index of the beam.
    candidate   The index of the candidate.
    num_top     The number of most likely tokens to return.
    """
    assert (
        sampled.candidate_id_BC is not None
        and sampled.candidate_raw_logprob_BC is not None
        and sampled.top_logprob_BKX is not None
    )
    logprob = sampled.candidate_raw_logprob_BC[index, candidate]
    known_N = (
        sampled.top_logprob_BKX[index, 0] if sampled.all_logprob_BKV is None else sampled.all_logprob_BKV[index, 0]
    )
    return PositionLogprobs(
        token_id=int(sampled.candidate_id_BC[index, candidate]),
        logprob=float(logprob),
        rank=1 + int((known_N > logprob).sum()) if logprob >= known_N.min() else None,
        top=_top(sampled, (index, 0), num_top),
    )


def _top(sampled: SampledTokens, index: tuple[int, int], num_top: int) -> tuple[tuple[int, float], ...]:
    assert sampled.top_id_BKX is not None and sampled.top_logprob_BKX is not None
    id_X, logprob_X = sampled.top_id_BKX[index], sampled.top_logprob_BKX[index]
    if num_top > len(id_X) and sampled.all_logprob_BKV is not None:
        all_V = sampled.all_logprob_BKV[index]
        id_X = np.argsort(-all_V, kind="stable")[:num_top]  # the lower id first among equals, as on the device
        return tuple(zip(id_X.tolist(), all_V[id_X].tolist(), strict=True))
    return tuple(zip(id_X[:num_top].tolist(), logprob_X[:num_top].tolist(), strict=True))
