"""What attention takes in a step besides queries, keys and values: a flat batch of tokens, cut into rows."""

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

PAGE_SIZE = 16  # tokens of a page, where a backend has no reason for more


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class AttentionInputs:
    """A flat batch of T tokens, one query each: the rows' new tokens one behind the other, then padding.

    position_T            int32 [T], the absolute position of every query. Padding may have any.
    slot_T                int32 [T], page * Z + offset where the query's own key and value are stored. Padding has slots
                          of page 0, which is never read. For a recurrent layer: the state slot of the token's row.
    page_table_BW         int32 [B, W], the row's pages in order. Entries beyond its length may be any page. Those of
                          pages that lie wholly behind the window of the row's first query may be, too; they are 0 as
                          soon as the page is freed. For a recurrent layer [B, 1], the state slot of each row; rows of
                          padding have slot 0.
    length_B              int32 [B], the row's number of tokens after this step; 0 for a row of padding.
    query_start_B1        int32 [B + 1]: row b owns tokens query_start[b] to query_start[b + 1] - 1, which are its last
                          ones. Tokens from query_start[B] on are padding. A row may own none; a row of padding does.
    max_queries_per_row   Static: no row owns more. If it is 1, then T = B and only the last rows may own none, so that
                          token t is the query of row t.

    A query attends to the positions of its own row up to and including its own.
    """

    position_T: Array
    slot_T: Array
    page_table_BW: Array
    length_B: Array
    query_start_B1: Array
    max_queries_per_row: int = field(metadata={"static": True})

    @property
    def is_real_T(self) -> Array:
        """Return bool [T]: False for tokens that are padding."""
        return jnp.arange(len(self.position_T)) < self.query_start_B1[-1]

    @property
    def row_T(self) -> Array:
        """Return int32 [T], the row that owns each token; the last row for padding."""
        token_T = jnp.arange(len(self.position_T), dtype=jnp.int32)
        if self.max_queries_per_row == 1:
            return token_T
        return (token_T[:, None] >= self.query_start_B1[1:-1]).sum(1, dtype=jnp.int32)

    def crop_to_window(self, window: int, page_size: int, multiple: int = 1) -> "AttentionInputs":
        """Return the inputs without the first pages of each row that none of its queries sees.

        Positions are counted from the first page that is left, and the page table is as narrow as a window allows. The
        slots to write to stay the same.

        multiple   The number of pages left out of a row is a multiple of it.
        """
        width = self.page_table_BW.shape[1]
        cropped_width = crop_width(width, window, self.max_queries_per_row, page_size, multiple)
        start_B1, length_B = jnp.asarray(self.query_start_B1), jnp.asarray(self.length_B)
        first_query_B = length_B - (start_B1[1:] - start_B1[:-1])
        first_token_B = jnp.maximum(first_query_B - window + 1, 0)
        first_page_B = first_token_B // (page_size * multiple) * multiple
        page_index_BW = jnp.minimum(first_page_B[:, None] + jnp.arange(cropped_width), width - 1)
        return replace(
            self,
            position_T=self.position_T - (first_page_B * page_size)[self.row_T],
            page_table_BW=jnp.take_along_axis(jnp.asarray(self.page_table_BW), page_index_BW, axis=1),
            length_B=length_B - first_page_B * page_size,
        )

    def tile_queries(self, size: int) -> "QueryTiles":
        """Cut the queries of each row, and the padding behind them as one row more, into tiles of at most `size`."""
        num_tokens, num_rows = len(self.position_T), len(self.length_B)
        start_R = jnp.asarray(self.query_start_B1)  # R = B + 1 rows: the last is the padding
        end_R = jnp.append(start_R[1:], jnp.int32(num_tokens))
        num_tiles_R = (end_R - start_R + size - 1) // size
        tile_end_R = jnp.cumsum(num_tiles_R, dtype=jnp.int32)
        tile_X = jnp.arange(min(num_tokens, num_tokens // size + num_rows + 1), dtype=jnp.int32)
        row_X = (tile_X[:, None] >= tile_end_R[:-1]).sum(1, dtype=jnp.int32)
        start_X = start_R[row_X] + (tile_X - (tile_end_R - num_tiles_R)[row_X]) * size
        return QueryTiles(row_X, start_X, jnp.minimum(start_X + size, end_R[row_X]), tile_end_R[-2])


def crop_width(width: int, window: int, max_queries_per_row: int, page_size: int, multiple: int = 1) -> int:
    """Return the width that `AttentionInputs.crop_to_window` leaves of a page table."""
    num_visible = window + max_queries_per_row - 1  # tokens that the queries of one row see together
    return min(width, (num_visible + page_size - 2) // page_size + multiple)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionCalls:
    """The calls of attention in some layers of a model, and the most that they ask for.

    rows        Rows of a decode batch.
    width       Pages of a row in the page table.
    page_size   Tokens of a page.
    window      Positions that a query sees, its own included; None: all.
    has_sinks   Whether heads have one more score, see `AttentionBackend.attend`.
    """

    rows: int
    width: int
    page_size: int
    window: int | None = None
    has_sinks: bool = False


class QueryTiles(NamedTuple):
    """Tiles of queries of one row each, in the order of the tokens.

    row_X            int32 [X], the tile's row; B for tiles of padding.
    start_X, end_X   int32 [X]: the tile has tokens start to end - 1, none if it is one of the surplus tiles at the end.
    num_real_tiles   int32 scalar, the number of tiles before those of padding.
    """

    row_X: Array
    start_X: Array
    end_X: Array
    num_real_tiles: Array
