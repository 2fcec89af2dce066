"""What attention must know about a step besides queries, keys and values."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class AttentionInputs:
    """A grid of B rows with C queries each, laid out row-major: row b owns queries b*C to b*C + C - 1.

    position_T      int32 [B*C], absolute position of every query; padding may carry any
    slot_T          int32 [B*C], page * Z + offset where the query's own key and value go; padding carries
                    slots of page 0, which nobody reads
    page_table_BW   int32 [B, W], the row's pages in order; entries beyond its length may be anything in range
    length_B        int32 [B], tokens of the row that exist after this step; 0 for a padding row

    A query attends to the positions of its own row up to and including its own.
    """

    position_T: Array
    slot_T: Array
    page_table_BW: Array
    length_B: Array

    @property
    def is_real_T(self) -> Array:
        """Return bool [B*C]: False for queries that are padding, which lie behind the ends of their rows."""
        queries = len(self.position_T) // len(self.length_B)
        return self.position_T < jnp.repeat(self.length_B, queries)
