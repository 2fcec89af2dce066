"""The executor of an engine that pools: it owns weights and pages, and calls the programs of a PoolingTable."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import numpy as np
from jax import Array

from jaxserve.cache.pages import ModelPages
from jaxserve.engine.compile import ProgressCallback, compile_all
from jaxserve.engine.device_state import DeviceState, init_rows
from jaxserve.engine.pooling_table import PoolChunks, PoolingTable, PoolSequences
from jaxserve.engine.program_files import ProgramFiles
from jaxserve.engine.programs import Program, ProgramStore
from jaxserve.engine.step_inputs import StepInputs
from jaxserve.layers.quant import PackedWeight
from jaxserve.parallel.sharding import WHOLE


class PoolingExecutor:
    """The owner of weights and pages, and the caller of the programs.

    table       The programs.
    weights     The weights as model.weights packs them; or their shapes, and `place_weights` brings them later.
    make_pages  Makes the pages of every layer; an encoder has none.
    state       The pages, and the rows, of which no program keeps anything.
    programs    The compiled programs by their keys.
    """

    def __init__(
        self,
        table: PoolingTable,
        weights: Sequence[Array | PackedWeight | jax.ShapeDtypeStruct],
        make_pages: Callable[[], ModelPages],
    ) -> None:
        self.table, self.weights, self._make_pages = table, tuple(weights), make_pages
        self._layouts = {key: key.make_layout(table) for key in table.pools}
        sharding = table.placement.sharding(WHOLE)
        rows = jax.tree.map(lambda leaf: jax.device_put(leaf, sharding), init_rows(table.num_rows))
        self.state = DeviceState(make_pages(), rows, None)
        self.programs: dict[Hashable, Program] = {}

    def place_weights(self, weights: Sequence[Array | PackedWeight]) -> None:
        """Set the weights, which must have the shapes given before."""
        self.weights = tuple(weights)

    def compile(self, progress: ProgressCallback | None = None, files: ProgramFiles | None = None) -> int:
        """Load or compile all programs and return their number. Nothing can be compiled afterwards.

        progress   Called after every program.
        files      Those of the program store; None: nothing is loaded or saved.
        """
        store = ProgramStore(files, self.table.placement, self.table.fingerprint(self.weights, self.state))
        self.programs = compile_all(self.table.make_lowerings(self.weights, self.state), store, progress)
        return len(self.programs)

    def warm_up(self) -> None:
        """Run every program once on padding, so that no request has to wait for a first run."""
        outputs = [self.pool_chunks(key, self.empty_inputs(key)[0]) for key in self.table.pools]
        outputs += [self.pool_sequences(key, key.make_empty()) for key in self.table.encodes]
        jax.block_until_ready(outputs)

    def empty_inputs(self, key: PoolChunks) -> tuple[np.ndarray, StepInputs]:
        """Return a new buffer for a pass over chunks and the inputs in it, to be filled."""
        return self._layouts[key].make_empty(self.table.num_rows - 1)

    def pool_chunks(self, key: PoolChunks, buffer_X: np.ndarray) -> Array:
        """Enqueue a decoder's pass over prompt chunks; return what is pooled of each row."""
        state = self.state
        pages, pooled = self.programs[key](state.pages, self.weights, state.rows, buffer_X)
        self.state = DeviceState(pages, state.rows, None)
        return pooled

    def pool_sequences(self, key: PoolSequences, buffer_BX: np.ndarray) -> Array:
        """Enqueue an encoder's pass over whole sequences; return what is pooled of each."""
        return self.programs[key](self.weights, buffer_BX)

    def reset_state(self) -> None:
        """Make the pages anew, after a program that owned them has failed. Weights and programs stay."""
        _delete(self.state.pages)
        self.state = DeviceState(self._make_pages(), self.state.rows, None)

    def close(self) -> None:
        """Free the device memory: weights, pages and programs."""
        _delete((self.weights, self.state))
        self.programs = {}


def _delete(tree: Any) -> None:
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, Array) and not leaf.is_deleted():
            leaf.delete()
