"""The experts that tokens were routed to, kept in host memory beside the keys and values that they belong to.

They have the page ids and offsets of the tokens' keys and values in the group with full attention, and steps are
applied in the order in which the device runs them: so what a prefix hit or a fork finds in a page is what was chosen
when the page was written.
"""

from collections.abc import Sequence

import numpy as np

from jaxserve.cache.groups import CacheGroup, GroupSize
from jaxserve.engine.plan import StepPlan
from jaxserve.engine.sequence import Sequence as RequestSequence
from jaxserve.errors import BadConfig
from jaxserve.models.routing import RoutedLayers


class RoutedExperts:
    """The chosen experts of all tokens in the cache. Owned by the output processor.

    layers      The layers that have experts.
    sizes       The cache groups, one of which has full attention.
    page_size   The number of tokens of a page.

    group       The index of the cache group whose pages are followed.
    """

    def __init__(self, layers: RoutedLayers, sizes: Sequence[GroupSize], page_size: int) -> None:
        self.group = find_full_group(sizes)
        self._layers, self._page_size = layers, page_size
        shape = (sizes[self.group].num_pages, page_size, len(layers.layers), layers.top_k)
        self._expert_PZRK = np.zeros(shape, layers.dtype)  # a page takes memory when it is first written

    def apply(self, plan: StepPlan, experts: Sequence[np.ndarray]) -> None:
        """Keep the results of the oldest plan.

        experts   As in StepResult.
        """
        for group, source, target in plan.page_copies:
            if group == self.group:
                self._expert_PZRK[target] = self._expert_PZRK[source]
        batches = [batch for batch in (plan.decode, *plan.beams) if batch is not None]
        for batch, expert_BRK in zip(batches, experts, strict=False):
            position_B, page_table_BW = np.array(batch.positions), batch.page_tables_BW[self.group]
            page_B = page_table_BW[np.arange(len(batch)), position_B // self._page_size]
            self._expert_PZRK[page_B, position_B % self._page_size] = expert_BRK
        for chunk, expert_TRK in zip(plan.chunks, experts[len(batches) :], strict=True):
            self._expert_PZRK[self._find(chunk.page_tables_W, chunk.start, chunk.end)] = expert_TRK

    def take(self, sequence: RequestSequence, page_tables_W: Sequence[np.ndarray], end: int) -> np.ndarray | None:
        """Return the experts [n, L, K] of the tokens before `end` that no output of the sequence has had yet.

        page_tables_W   By cache group the pages of the tokens in the step that is being applied: the sequence may have
                        lost them since.

        None if its request asks for none.
        """
        start = sequence.return_experts(end)
        if start is None:
            return None
        return self._layers.expand(self._expert_PZRK[self._find(page_tables_W, start, end)])

    def _find(self, page_tables_W: Sequence[np.ndarray], start: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the pages and the offsets of the positions from start up to end."""
        position_T = np.arange(start, end)
        return page_tables_W[self.group][position_T // self._page_size], position_T % self._page_size


def find_full_group(groups: Sequence[CacheGroup] | Sequence[GroupSize]) -> int:
    """Return the index of the cache group that keeps all tokens of a sequence.

    Raises BadConfig if there is none.
    """
    for index, group in enumerate(groups):
        if not group.is_recurrent and group.window is None:
            return index
    raise BadConfig(
        "enable_return_routed_experts needs a layer that attends to all tokens, and this model has none; leave it out."
    )
