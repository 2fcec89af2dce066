"""The decode batch as it stands: kept from step to step while nobody joins, leaves or changes its wishes.

Most steps decode the same rows one position on. Then there is nothing to decide for each of them, and a plan is
a few operations on whole arrays: 60 to 90 us for 256 rows on two shared cores, instead of 250 to 300.
"""

from dataclasses import dataclass

import numpy as np

from jaxserve.engine.plan import DecodeBatch
from jaxserve.engine.sequence import Sequence
from jaxserve.sampling.sampler import SampleMode


@dataclass(slots=True, eq=False)
class DecodeBatchCache:
    """Rows that decode together. The scheduler owns it, and drops it when a row joins or leaves.

    position_B   where each row's newest token goes in the next step
    end_B        the position at which a row has all its tokens
    capacity_B       the first position that a row has no page for
    masked_indices       places of rows that may not draw everything
    guided       rows that keep to a grammar or a budget
    needs_previous_tokens        such a mask depends on the tokens before
    has_rows_below_min_tokens       it will not always be so: some row has not reached its min_tokens yet
    """

    sequences: tuple[Sequence, ...]
    request_ids: tuple[int, ...]
    epochs: tuple[int, ...]
    row_B: np.ndarray
    position_B: np.ndarray
    end_B: np.ndarray
    capacity_B: np.ndarray
    page_table_BW: np.ndarray
    sampling_BS: np.ndarray
    mode: SampleMode
    logprob_token_ids: tuple[tuple[int, tuple[int, ...]], ...]
    masked_indices: tuple[int, ...]
    guided: tuple[Sequence, ...]
    needs_previous_tokens: bool
    has_rows_below_min_tokens: bool

    @classmethod
    def from_sequences(
        cls,
        sequences: list[Sequence],
        page_size: int,
        table_RW: np.ndarray,
        sampling_RS: np.ndarray,
        max_logprobs: int,
    ) -> "DecodeBatchCache":
        """Every member has a row, and room for its newest token."""
        row_B = np.array([one.row for one in sequences], np.int32)
        return cls(
            sequences=tuple(sequences),
            request_ids=tuple([one.request.request_id for one in sequences]),
            epochs=tuple([one.epoch for one in sequences]),
            row_B=row_B,
            position_B=np.array([one.num_computed for one in sequences], np.int32),
            end_B=np.array([one.request.max_total_tokens - 1 for one in sequences], np.int32),
            capacity_B=np.array([len(one.pages) * page_size for one in sequences], np.int32),
            page_table_BW=table_RW.take(row_B, axis=0),
            sampling_BS=sampling_RS.take(row_B, axis=0),
            mode=max([one.sample_mode(max_logprobs) for one in sequences]),
            logprob_token_ids=tuple(
                [
                    (at, one.request.params.logprob_token_ids)
                    for at, one in enumerate(sequences)
                    if one.request.params.logprob_token_ids
                ]
            ),
            masked_indices=tuple(
                [
                    at
                    for at, one in enumerate(sequences)
                    if one.restrictions.needs_mask or one.is_below_min_tokens or one.is_guided
                ]
            ),
            guided=tuple([one for one in sequences if one.is_guided]),
            needs_previous_tokens=any([one.restrictions.needs_previous_tokens or one.is_guided for one in sequences]),
            has_rows_below_min_tokens=any([one.is_below_min_tokens for one in sequences]),
        )

    def advance(self) -> DecodeBatch:
        """The next step of these rows, promised: each member is one token further afterwards."""
        batch = DecodeBatch(
            request_ids=self.request_ids,
            epochs=self.epochs,
            row_B=self.row_B,
            position_B=self.position_B,
            page_table_BW=self.page_table_BW,
            sampling_BS=self.sampling_BS,
            mode=self.mode,
            logprob_token_ids=self.logprob_token_ids,
        )
        self.position_B = self.position_B + 1  # a new array: plans are frozen
        for one in self.sequences:
            one.num_computed += 1
            one.num_pending += 1
        return batch
