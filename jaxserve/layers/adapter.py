"""Adapter: low-rank changes of a model's matrices, on the host (LoRA, arXiv 2106.09685).

Every adapted matrix W [in, out] becomes W + down @ up, where down is [in, rank] and up is [rank, out]. PEFT calls their
transposes A and B; the scale of an adapter is multiplied into `up` when it is read.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from jaxserve.layers.param_spec import ParamPath

NO_ADAPTER = 0
"""The slot of tokens that are computed with the model's own weights."""
NOT_ADAPTED = ("router", "shared_gate")
"""Projections whose outputs choose or weight experts: adapters of these are not served."""


class LowRankFactors(NamedTuple):
    """The change down @ up of one matrix [in, out].

    down_IR   float32 [in, rank].
    up_RO     float32 [rank, out], the scale included.
    """

    down_IR: np.ndarray
    up_RO: np.ndarray


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter. Two with the same key are equal, whatever they are called: they change the model alike.

    name      Its name, as metrics tell it.
    key       A hash of its files.
    rank      The largest rank of a change.
    factors   The changes, by the path of the matrix.
    """

    name: str = field(compare=False)
    key: str
    rank: int = field(compare=False)
    factors: Mapping[ParamPath, LowRankFactors] = field(compare=False, repr=False)


def is_adaptable(path: ParamPath) -> bool:
    """Whether the weight at this path is a matrix that an adapter may change: a projection of a layer."""
    return path[0] == "layers" and path[-1] == "kernel" and path[-2] not in NOT_ADAPTED
