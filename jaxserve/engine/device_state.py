"""The arrays that a replica's programs hand on from call to call. A program that changes a part of them owns it."""

from dataclasses import dataclass

import jax
import numpy as np
from jax import Array

from jaxserve.cache.pages import ModelPages
from jaxserve.sampling.penalties import PenaltyState


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True)
class RowState:
    """The state of R rows, one more than the batch has: padding writes into the last one.

    last_token_R   int32, the newest token of each row, whose key and value are not computed yet.
    length_R       int32, the number of tokens before it, whose keys and values are in the pages.
    """

    last_token_R: Array
    length_R: Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True)
class DeviceState:
    """All that a step leaves to the next one on the device.

    pages       The pages of every layer.
    rows        The newest token and the length of each row.
    penalties   The penalty state of each row; None in an engine that samples nothing.
    """

    pages: ModelPages
    rows: RowState
    penalties: PenaltyState | None


def init_rows(num_rows: int) -> RowState:
    """Return the state of rows without tokens, as numpy arrays."""
    return RowState(np.zeros(num_rows, np.int32), np.zeros(num_rows, np.int32))  # pyright: ignore[reportArgumentType]


def set_rows(rows: RowState, row_N: Array, token_N: Array, length_N: Array) -> RowState:
    """Set newest tokens and lengths that the host has chosen. Donate rows."""
    return RowState(rows.last_token_R.at[row_N].set(token_N), rows.length_R.at[row_N].set(length_N))
