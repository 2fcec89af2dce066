"""Which rows decode in a step, and whether they all have a page for their newest token."""

import numpy as np

from jaxserve.engine.live import Live
from jaxserve.engine.plan import DecodeBatch
from jaxserve.engine.progress import Progress
from jaxserve.engine.standing import Standing


class Decoding:
    """Plans the decode batches.

    masked   of the newest batch: places of rows with masks,
    waits    and whether one of these depends on tokens that are not home yet
    """

    def __init__(self, live: Live, *, max_logprobs: int) -> None:
        self._live, self._max_logprobs = live, max_logprobs
        self.masked: tuple[int, ...] = ()
        self.waits = False

    def plan(self) -> DecodeBatch | None:
        standing = self._live.standing
        if standing is None or not self._goes_on(standing):
            standing = self._live.standing = self._gather()
        if standing is None:
            return None
        decode = standing.step()
        self.masked, self.waits = standing.masked, standing.waits
        if standing.passes:  # until when is counted in tokens, so look again next time
            self._live.standing = None
        return decode

    def _gather(self) -> Standing | None:
        """All rows that decode, looked at one by one."""
        members: list[Progress] = []
        for progress in tuple(self._live.running):
            decodes = progress.row is not None and progress.is_prefilled and progress.wants_more
            if decodes and not progress.request.is_search and self._live.make_room(progress):
                members.append(progress)
        if not members:
            return None
        rows = self._live.rows
        return Standing.of(members, self._live.page_size, rows.table_RW, rows.sampling_RS, self._max_logprobs)

    def _goes_on(self, standing: Standing) -> bool:
        """Whether the same rows decode again; sees to a page for those that need one."""
        if not all(one.is_guided for one in standing.guided):
            return False
        if (standing.position_B >= standing.end_B).any():
            return False
        needy = np.flatnonzero(standing.position_B >= standing.room_B)
        for at in needy.tolist():
            if not self._live.make_room(standing.members[at]) or self._live.standing is None:
                return False  # somebody was preempted
        if len(needy):
            standing.room_B[needy] += self._live.page_size
            standing.page_table_BW = self._live.rows.table_RW.take(standing.row_B, axis=0)
        return True
