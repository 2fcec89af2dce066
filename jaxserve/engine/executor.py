"""The executor, which owns the arrays of one replica on its devices and runs the compiled programs that change them.

Arrays are donated to programs, so nothing else may keep one.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax import Array
from jax.sharding import PartitionSpec

from jaxserve.cache.pages import ModelPages
from jaxserve.engine import batch
from jaxserve.engine.compile import ProgressCallback, compile_all
from jaxserve.engine.device_state import DeviceState, RowState, init_rows
from jaxserve.engine.host_states import HostStates, divide_copies
from jaxserve.engine.plan import Chunk, Fork, Mask, PageCopy, RowUpdate
from jaxserve.engine.program_files import ProgramFiles
from jaxserve.engine.program_table import (
    COPIES_PER_CALL,
    CopyPages,
    Forward,
    InitPenalties,
    MultiStep,
    ProgramTable,
    PromptLogprobs,
    ReadState,
    SetAdapter,
    SetPenaltyRow,
    SetRows,
    WriteState,
)
from jaxserve.engine.programs import Program, ProgramStore
from jaxserve.engine.step_inputs import SampleInputs, StepInputs
from jaxserve.layers.adapted import FactorStacks
from jaxserve.layers.adapter import Adapter
from jaxserve.layers.quant import PackedWeight
from jaxserve.parallel.sharding import BY_VOCAB, WHOLE
from jaxserve.sampling import penalties
from jaxserve.sampling.packed_output import Columns, PackedOutput
from jaxserve.sampling.penalties import PenaltyRow, pad_row
from jaxserve.sampling.sampler import SampleMode

Key = TypeVar("Key", Forward, MultiStep)


@dataclass(frozen=True, slots=True)
class Logits:
    """The logits of one call of a forward program.

    logits_BV   float32, on the device.
    inputs      The inputs of their sampler.
    hidden_TD   The hidden states of all tokens.
    expert_TRK  The chosen experts of all tokens; None: the program returns none.
    """

    logits_BV: Array
    inputs: SampleInputs
    hidden_TD: Array
    expert_TRK: Array | None = None


class Output(NamedTuple):
    """The output of a sampler or of prompt log-probabilities, on the device, and the columns of its array."""

    packed: PackedOutput
    columns: Columns


class Executor:
    """The owner of weights and device state, and the caller of the programs.

    table       The programs.
    weights     The weights as model.weights packs them; or their shapes, and `place_weights` brings them later.
    make_pages  Makes the pages of every layer, as the attention backend wants them. It must not compile.
    state       The rest of what is on the device.
    adapters    The factors of the adapters in all slots; empty if there are none.
    programs    The compiled programs by their keys.
    """

    def __init__(
        self,
        table: ProgramTable,
        weights: Sequence[Array | PackedWeight | jax.ShapeDtypeStruct],
        make_pages: Callable[[], ModelPages],
    ) -> None:
        self.table, self.weights, self._make_pages = table, tuple(weights), make_pages
        self._pad_row = table.num_rows - 1  # padding writes into it
        self._host_states = HostStates(table.placement) if table.first_host_pages else None
        self._layouts = {key: key.make_layout(table) for key in (*table.forwards, *table.multi_steps)}
        with_output = (*table.samples, *table.multi_steps, *table.prompt_logprobs)
        self._columns = {key: key.list_columns(table) for key in with_output}
        penalty_shapes = jax.eval_shape(partial(penalties.init, table.num_rows, table.padded_vocab_size))
        self.state = DeviceState(make_pages(), self._make_rows(), penalty_shapes)
        self.adapters = self._make_adapters()
        counts = {key.rows for key in table.samples}
        allow_all = {rows: batch.allow_all(rows, table.padded_vocab_size) for rows in counts}
        self._allow_all = {rows: self._put(mask, BY_VOCAB) for rows, mask in allow_all.items()}
        self._no_logprob_token_ids = {rows: self._put(batch.scatter_logprob_token_ids((), rows)) for rows in counts}
        self.programs: dict[Hashable, Program] = {}
        self._loaded_keys: set[Hashable] = set()

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
        self._loaded_keys = store.loaded_keys
        self.state = replace(self.state, penalties=self.programs[InitPenalties()]())
        return len(self.programs)

    def reset_state(self) -> None:
        """Make the state anew, after a program that owned a part of it has failed. Weights and programs stay."""
        _delete(self.state)
        if self._host_states is not None:
            self._host_states.clear()
        self.state = DeviceState(self._make_pages(), self._make_rows(), self.programs[InitPenalties()]())
        _delete(self.adapters)
        self.adapters = self._make_adapters()

    def _make_rows(self) -> RowState:
        return jax.tree.map(self._put, init_rows(self.table.num_rows))

    def _make_adapters(self) -> tuple[FactorStacks, ...]:
        layout = self.table.model.adapters
        if layout is None:
            return ()
        return jax.tree.map(lambda leaf: jax.device_put(np.zeros(leaf.shape, leaf.dtype), leaf.sharding), layout.stacks)

    def warm_up(self) -> None:
        """Run programs once on padding, so that no request has to wait for a first run.

        On a CPU the first run of a program that was loaded costs no more than later ones: if all came from the store,
        the smallest sizes are enough there.
        """
        table, sampled = self.table, None
        for key in self._warm_up_sizes(table.prefills):
            logits = self.forward(key, self.empty_inputs(key)[0])
            for program in table.prompt_logprobs:
                if program.tokens == key.num_tokens:
                    self.compute_prompt_logprobs(program, logits, ())
            sampled = self.sample(logits, SampleMode.GREEDY)
        for key in self._warm_up_sizes(table.decodes):
            logits = self.forward(key, self.empty_inputs(key)[0])
            for mode in table.modes:
                sampled = self.sample(logits, mode)
        for key in self._warm_up_sizes(table.multi_steps):
            sampled = self.decode_steps(key, self.empty_inputs(key)[0])
        if table.model.adapters is not None:
            for key in self._warm_up_sizes([key for key in table.forwards if key.has_adapters]):
                self.forward(key, self.empty_inputs(key)[0])
        self.copy_pages([(0, 0, 0)])
        for group, first in table.first_host_pages.items():  # slot 0 is nobody's
            self.copy_pages([(group, 0, first)])
            self.copy_pages([(group, first, 0)])
        self.set_rows([])
        jax.block_until_ready((sampled, self.state))

    def _warm_up_sizes(self, keys: Sequence[Key]) -> list[Key]:
        ran_before = self.table.placement.platform == "cpu" and self._loaded_keys == self.programs.keys()
        return list(keys[:1] if ran_before else keys)

    def empty_inputs(self, key: Forward | MultiStep) -> tuple[np.ndarray, StepInputs]:
        """Return a new buffer for a forward pass and the inputs in it, to be filled."""
        return self._layouts[key].make_empty(self._pad_row)

    def forward(self, key: Forward, buffer_X: np.ndarray) -> Logits:
        """Enqueue a forward pass.

        The program transfers the numpy array itself: jax.device_put, in Python, costs 0.2 ms more.
        """
        state, stacks = self.state, (self.adapters,) if key.has_adapters else ()
        outputs = self.programs[key](state.pages, self.weights, state.rows, buffer_X, *stacks)
        pages, logits_BV, inputs, hidden_TD, *experts = outputs
        self.state = DeviceState(pages, state.rows, state.penalties)
        return Logits(logits_BV, inputs, hidden_TD, *experts)

    def decode_steps(self, key: MultiStep, buffer_X: np.ndarray) -> Output:
        """Enqueue the decode steps of rows that get several tokens."""
        state, stacks = self.state, (self.adapters,) if key.has_adapters else ()
        penalty_state = state.penalties if key.mode >= SampleMode.PROCESSORS else None
        outputs = self.programs[key](state.pages, self.weights, state.rows, penalty_state, buffer_X, *stacks)
        pages, rows, penalty_state, packed = outputs
        self.state = DeviceState(pages, rows, state.penalties if penalty_state is None else penalty_state)
        return Output(packed, self._columns[key])

    def compute_prompt_logprobs(
        self, key: PromptLogprobs, logits: Logits, targets: Sequence[tuple[int, np.ndarray]]
    ) -> Output:
        """Enqueue the log-probabilities of next tokens.

        targets   Pairs (start, ids): the next tokens of the positions from `start` on.
        """
        packed = self.programs[key](self.weights, logits.hidden_TD, batch.scatter_targets(targets, key.tokens))
        return Output(packed, self._columns[key])

    def sample(
        self,
        logits: Logits,
        mode: SampleMode,
        masks: Sequence[tuple[int, Mask]] = (),
        logprob_token_ids: Sequence[tuple[int, tuple[int, ...]]] = (),
    ) -> Output:
        """Enqueue the sampling of a token for each row of logits.

        mode                The sampler's mode; masks raise it to the lowest one that applies masks.
        masks               Pairs (line, mask).
        logprob_token_ids   Pairs (line, ids), for rows that ask for log-probabilities by id.
        """
        rows, state = logits.logits_BV.shape[0], self.state
        key = self.table.find_sample(rows, max(mode, SampleMode.PROCESSORS) if masks else mode)
        if key.mode < SampleMode.PROCESSORS:
            assert not logprob_token_ids, mode
            new_rows, _, sampled = self.programs[key](state.rows, None, logits.logits_BV, logits.inputs)
            self.state = DeviceState(state.pages, new_rows, state.penalties)
            return Output(sampled, self._columns[key])
        ids: Any = self._no_logprob_token_ids[rows]
        if logprob_token_ids:
            ids = batch.scatter_logprob_token_ids(logprob_token_ids, rows)
        mask: Any = self._scatter_masks([(line, mask.allowed_M) for line, mask in masks], rows)
        grammar: Any = None
        if key.mode >= SampleMode.LOGPROBS:
            grammar = self._scatter_masks(
                [(line, mask.grammar_M) for line, mask in masks if mask.grammar_M is not None], rows
            )
        inputs = replace(logits.inputs, mask_BM=mask, logprob_token_id_BI=ids, grammar_BM=grammar)
        new_rows, penalty_state, sampled = self.programs[key](state.rows, state.penalties, logits.logits_BV, inputs)
        self.state = DeviceState(state.pages, new_rows, penalty_state)
        return Output(sampled, self._columns[key])

    def _scatter_masks(self, masks: Sequence[tuple[int, np.ndarray]], rows: int) -> Array | np.ndarray:
        """Return masks with a line for each row; without any, the array that is on the device already."""
        return batch.scatter_masks(masks, rows, self.table.padded_vocab_size) if masks else self._allow_all[rows]

    def with_forks(self, logits: Logits, forks: Iterable[tuple[int, int, Chunk | Fork]]) -> Logits:
        """Return logits whose tokens are sampled for forks: triples (line, position of the token, fork)."""
        return replace(logits, inputs=batch.fork_inputs(forks, logits.logits_BV.shape[0], self._pad_row))

    def copy_pages(self, copies: Sequence[PageCopy]) -> None:
        """Enqueue copies of pages, each of what its source holds before all of them.

        Without host memory none is of what one before it writes (cache/page_copies.py).
        """
        if self._host_states is None:
            self._copy_device_pages(copies)
        else:
            self._copy_states(self._host_states, copies)

    def _copy_states(self, host: HostStates, copies: Sequence[PageCopy]) -> None:
        """Enqueue copies of pages, some of which are in host memory; all are read before they are written."""
        divided = divide_copies(copies, self.table.first_host_pages)
        states = [(group, host.get(group, source), slot) for group, source, slot in divided.reloaded]
        states += [(group, self._read_state(group, source), slot) for group, source, slot in divided.exchanged]
        host.copy(divided.on_host)
        for group, slot, target in divided.offloaded:
            host.put(group, target, self._read_state(group, slot))
        if divided.on_device:
            self._copy_device_pages(divided.on_device)
        for group, state, slot in states:
            pages = self.programs[WriteState(group)](self.state.pages, state, np.int32(slot))
            self.state = replace(self.state, pages=pages)

    def _read_state(self, group: int, slot: int) -> tuple[Array, ...]:
        return self.programs[ReadState(group)](self.state.pages, np.int32(slot))

    def _copy_device_pages(self, copies: Sequence[PageCopy]) -> None:
        num_groups = len(self.table.model.groups)
        by_group = [[copy[1:] for copy in copies if copy[0] == group] for group in range(num_groups)]
        for first in range(0, max(map(len, by_group)), COPIES_PER_CALL):
            pairs = [group[first : first + COPIES_PER_CALL] for group in by_group]
            columns = [batch.pack_tuples(group, COPIES_PER_CALL, (0, 0)) for group in pairs]
            from_GN, to_GN = zip(*columns, strict=True)
            self.state = replace(self.state, pages=self.programs[CopyPages()](self.state.pages, from_GN, to_GN))

    def set_rows(self, updates: Sequence[RowUpdate]) -> None:
        """Enqueue the update of rows' newest tokens and lengths."""
        columns = batch.pack_tuples(updates, self.table.num_rows, (self._pad_row, 0, 0))
        self.state = replace(self.state, rows=self.programs[SetRows()](self.state.rows, *columns))

    def set_adapter(self, slot: int, adapter: Adapter) -> None:
        """Enqueue the writing of an adapter into a slot."""
        factors = self.table.adapters.fill_up(adapter)
        self.adapters = self.programs[SetAdapter()](self.adapters, np.int32(slot), factors)

    def set_penalty_row(self, row: int, values: PenaltyRow) -> None:
        """Enqueue the update of one row's penalty state."""
        padded = pad_row(values, self.table.padded_vocab_size)
        penalty_state = self.programs[SetPenaltyRow()](self.state.penalties, np.int32(row), padded)
        self.state = replace(self.state, penalties=penalty_state)

    def close(self) -> None:
        """Free the device memory: weights, state and programs."""
        _delete((self.weights, self.state, self.adapters, self._allow_all, self._no_logprob_token_ids))
        self.programs = {}

    def _put(self, array: np.ndarray, spec: PartitionSpec = WHOLE) -> Array:
        return jax.device_put(array, self.table.placement.sharding(spec))


def _delete(tree: Any) -> None:
    """Free the device memory of all arrays that are not deleted yet."""
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, Array) and not leaf.is_deleted():
            leaf.delete()
