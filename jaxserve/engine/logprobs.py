"""Numbers that came home → one position's log-probabilities."""

from collections.abc import Sequence

import numpy as np

from jaxserve.engine.plan import SampledTokens
from jaxserve.outputs import PositionLogprobs


def make_position_logprobs(
    drawn: SampledTokens, at: int, num_best: int, wanted_ids: Sequence[int] = ()
) -> PositionLogprobs:
    """Of the row at this place: its token, the num_best best ones, and those that were asked for by id."""
    assert drawn.logprob_B is not None and drawn.rank_B is not None
    wanted: tuple[tuple[int, float], ...] = ()
    if wanted_ids:
        assert drawn.requested_logprob_BI is not None
        wanted = tuple(zip(wanted_ids, drawn.requested_logprob_BI[at].tolist(), strict=False))
    return PositionLogprobs(
        token_id=int(drawn.token_B[at]),
        logprob=float(drawn.logprob_B[at]),
        rank=int(drawn.rank_B[at]),
        top=_best(drawn, at, num_best),
        requested=wanted,
    )


def make_candidate_logprobs(drawn: SampledTokens, at: int, place: int, num_best: int) -> PositionLogprobs:
    """The same for the row's continuation at this place, as if it had been drawn.

    Its rank is known if its logprob is among those that came home.
    """
    assert (
        drawn.candidate_id_BC is not None
        and drawn.candidate_raw_logprob_BC is not None
        and drawn.top_logprob_BK is not None
    )
    logprob = drawn.candidate_raw_logprob_BC[at, place]
    known_N = drawn.top_logprob_BK[at] if drawn.all_logprob_BV is None else drawn.all_logprob_BV[at]
    return PositionLogprobs(
        token_id=int(drawn.candidate_id_BC[at, place]),
        logprob=float(logprob),
        rank=1 + int((known_N > logprob).sum()) if logprob >= known_N.min() else None,
        top=_best(drawn, at, num_best),
    )


def _best(drawn: SampledTokens, at: int, num_best: int) -> tuple[tuple[int, float], ...]:
    assert drawn.top_id_BK is not None and drawn.top_logprob_BK is not None
    if num_best > drawn.top_id_BK.shape[1] and drawn.all_logprob_BV is not None:
        all_V = drawn.all_logprob_BV[at]
        id_K = np.argsort(-all_V, kind="stable")[:num_best]  # the lower id first among equals, as on the device
        return tuple(zip(id_K.tolist(), all_V[id_K].tolist(), strict=True))
    id_K, logprob_K = drawn.top_id_BK[at, :num_best], drawn.top_logprob_BK[at, :num_best]
    return tuple(zip(id_K.tolist(), logprob_K.tolist(), strict=True))
