"""The inputs of the device programs as typed trees, and the one int32 buffer in which a call's inputs are transferred.

The layout of the buffer follows from the fields: a new input is one field, and the line that fills it (batch.py). A
field that is None takes no place in the buffer and leaves no trace in the program.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import jax
import numpy as np
from jax import Array

from jaxserve.engine.plan import NUM_STOP_IDS
from jaxserve.sampling.columns import NUM_COLUMNS

LAST_TOKEN = -1  # in place of a token id: the row's newest token and its position, which are on the device


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True)
class StepInputs:
    """The inputs of a forward pass of B rows, and what the sampler needs of them; numpy arrays on the host.

    row_B            int32, the rows; those of padding have the row behind the last one.
    page_tables_BW   int32 [B, W] for each cache group: the rows' page tables; in a recurrent group [B, 1], the rows'
                     slots, that of padding is 0.
    sampling_BS      int32, the rows' sampling parameters as columns (sampling/columns.py).
    token_T          int32 [T], the tokens of the rows one behind the other, then padding. None: one token for each row,
                     its newest one, which is on the device with its position.
    query_start_B1   int32 [B + 1]: row b has the tokens from query_start[b] up to query_start[b + 1]; None as above.
    start_B          int32, the position of each row's first token; None as above.
    adapter_slot_B   int32, the slot of each row's adapter, NO_ADAPTER (0) for none; None: no row has one.
    stops_BX         int32 [B, 1 + NUM_STOP_IDS], where rows that get several tokens end, as in DecodeBatch; None: a row
                     gets one token.
    """

    row_B: Array
    page_tables_BW: tuple[Array, ...]
    sampling_BS: Array
    token_T: Array | None = None
    query_start_B1: Array | None = None
    start_B: Array | None = None
    adapter_slot_B: Array | None = None
    stops_BX: Array | None = None


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True)
class SampleInputs:
    """The inputs of the sampler for B rows of logits, which a forward pass returns or the host makes.

    row_B                 int32, the row for which each token is sampled.
    position_B            int32, the position that it will have: the length of its row from then on.
    sampling_BS           int32, the sampling parameters as columns.
    mask_BM               uint32 [B, ceil(V / 32)], bit set = allowed; from mode PROCESSORS on, else None.
    logprob_token_id_BI   int32, tokens whose log-probabilities are asked for; from mode PROCESSORS on, else None.
    grammar_BM            uint32, the mask of the grammar alone; from mode LOGPROBS on, else None.
    """

    row_B: Array
    position_B: Array
    sampling_BS: Array
    mask_BM: Array | None = None
    logprob_token_id_BI: Array | None = None
    grammar_BM: Array | None = None


def step_shapes(
    num_rows: int,
    num_tokens: int | None,
    page_table_widths: Sequence[int],
    *,
    has_adapters: bool = False,
    has_stops: bool = False,
) -> StepInputs:
    """Return the shapes of a forward pass's inputs.

    num_rows            B.
    num_tokens          T; None: the newest token of each row.
    page_table_widths   W for each cache group.
    has_adapters        Rows may have adapters.
    has_stops           A row may get several tokens.
    """
    has_tokens = num_tokens is not None
    return StepInputs(
        row_B=_ints(num_rows),
        page_tables_BW=tuple(_ints(num_rows, width) for width in page_table_widths),
        sampling_BS=_ints(num_rows, NUM_COLUMNS),
        token_T=_ints(num_tokens) if has_tokens else None,
        query_start_B1=_ints(num_rows + 1) if has_tokens else None,
        start_B=_ints(num_rows) if has_tokens else None,
        adapter_slot_B=_ints(num_rows) if has_adapters else None,
        stops_BX=_ints(num_rows, 1 + NUM_STOP_IDS) if has_stops else None,
    )


_OPTIONAL_FIELDS = ("token_T", "query_start_B1", "start_B", "adapter_slot_B", "stops_BX")  # of StepInputs, in order


class InputLayout:
    """The places of inputs in one int32 buffer, which follow from their shapes.

    shapes   The shapes of the inputs.

    size     The length of the buffer.
    """

    def __init__(self, shapes: StepInputs) -> None:
        leaves = jax.tree.leaves(shapes)
        self._num_groups = len(shapes.page_tables_BW)
        self._optional = [name for name in _OPTIONAL_FIELDS if getattr(shapes, name) is not None]
        ends = np.cumsum([prod(leaf.shape) for leaf in leaves]).tolist()
        self.size: int = ends[-1]
        self._parts = [
            (slice(start, end), leaf.shape) for start, end, leaf in zip([0, *ends], ends, leaves, strict=False)
        ]

    def unpack(self, buffer_X: Any) -> StepInputs:
        """Return the inputs in a buffer: views of a numpy array, or arrays while a program is traced.

        jax.tree.unflatten would take longer than all the rest.
        """
        row_B, *others = [buffer_X[part].reshape(shape) for part, shape in self._parts]
        page_tables_BW, sampling_BS = tuple(others[: self._num_groups]), others[self._num_groups]
        optional = dict(zip(self._optional, others[self._num_groups + 1 :], strict=True))
        return StepInputs(row_B, page_tables_BW, sampling_BS, **optional)

    def make_empty(self, pad_row: int) -> tuple[np.ndarray, StepInputs]:
        """Return a new buffer, int32 [X], and the inputs in it, to be filled: no tokens, every row is padding."""
        buffer_X = np.zeros(self.size, np.int32)
        inputs = self.unpack(buffer_X)
        inputs.row_B[:] = pad_row  # pyright: ignore[reportIndexIssue]
        return buffer_X, inputs


def _ints(*shape: int) -> Any:
    return jax.ShapeDtypeStruct(shape, np.int32)
