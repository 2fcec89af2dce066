"""One contract, every backend: the same questions, held to a dense computation in numpy.

Every case has the same outer shapes (four rows, twenty pages each), so that few programs are compiled.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxserve.attention import BACKENDS, AttentionInputs, choose_backend
from jaxserve.attention.gpu import GpuAttention, KernelConfig
from jaxserve.errors import BadConfig
from jaxserve.native import library

PAGE, WIDTH, ROWS = 16, 20, 4
POOL, MOST = 41, 520  # pages there are, the null page included; tokens in one write
SMALL = KernelConfig(split_tokens=64, block_bytes=2048, tile_rows=32)  # several splits, blocks and tiles in short rows
HOW = ("scale", "window", "softcap")
tile_queries = jax.jit(AttentionInputs.tile_queries, static_argnums=1)


def dense(query_CNH, key_SKH, value_SKH, start, *, scale, window=None, softcap=None, sinks=None):
    """Queries at positions start, start + 1, … over one row's keys, float64, no pages."""
    columns, heads, _ = query_CNH.shape
    group = heads // key_SKH.shape[1]
    out = np.zeros(query_CNH.shape)
    for c in range(columns):
        low = 0 if window is None else max(0, start + c - window + 1)
        for n in range(heads):
            score = scale * key_SKH[low : start + c + 1, n // group].astype(float) @ query_CNH[c, n]
            if softcap is not None:
                score = softcap * np.tanh(score / softcap)
            weight = np.exp(score)
            total = weight.sum() + (0 if sinks is None else np.exp(sinks[n]))
            out[c, n] = weight / total @ value_SKH[low : start + c + 1, n // group]
    return out


class Backend:
    """A backend and its two functions, compiled once per shape for all tests, in a hurry: the cases are small.

    Kernels are interpreted on a CPU and compiled where their device is.
    """

    def __init__(self, plain):
        hurry = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
        self.make_pages = plain.make_pages
        self.write = jax.jit(plain.write, compiler_options=hurry)
        self.attend = jax.jit(plain.attend, static_argnames=HOW, compiler_options=hurry)


class Case:
    """Rows with given lengths in a pool of shuffled pages; every slot that nobody owns holds NaN.

    columns   The most queries of a row: its last tokens, as many as it has.
    counts    The queries of each row instead, in a batch of `tokens` tokens.
    """

    def __init__(
        self, backend, lengths, columns=1, *, counts=None, tokens=None, heads=4, kv_heads=2, head_dim=8, seed=0,
        dtype=np.float32,
    ):  # fmt: skip
        rng = np.random.default_rng(seed)
        self.lengths, self.dtype = [*lengths, *[0] * (ROWS - len(lengths))], dtype
        self.counts = [*counts, *[0] * (ROWS - len(counts))] if counts else [min(columns, n) for n in self.lengths]
        self.columns = tokens or columns
        self.start = np.concatenate([[0], np.cumsum(self.counts)]).astype(np.int32)

        def normal(*shape):
            return rng.normal(size=shape).astype(np.float32).astype(dtype)

        self.query = normal(tokens or ROWS * columns, heads, head_dim)
        self.keys = [normal(n, kv_heads, head_dim) for n in self.lengths]
        self.values = [normal(n, kv_heads, head_dim) for n in self.lengths]
        order = iter(rng.permutation(np.arange(1, POOL)))
        self.table = np.full((ROWS, WIDTH), POOL - 1, np.int32)  # beyond the length: another row's page
        for row, length in enumerate(self.lengths):
            count = -(-length // PAGE)
            self.table[row, :count] = [next(order) for _ in range(count)]
        pages = backend.make_pages(POOL, PAGE, kv_heads, head_dim, dtype)
        self.pages = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), pages)

    def slots(self, row, positions):
        return self.table[row, positions // PAGE] * PAGE + positions % PAGE

    def inputs(self):
        position = np.zeros(len(self.query), np.int32)
        slot = np.zeros_like(position)
        for row, (length, count) in enumerate(zip(self.lengths, self.counts, strict=True)):
            taken = slice(self.start[row], self.start[row + 1])
            position[taken] = np.arange(length - count, length)
            slot[taken] = self.slots(row, position[taken])
        return AttentionInputs(position, slot, self.table, np.array(self.lengths, np.int32), self.start, self.columns)

    def row_inputs(self, row, tokens):
        """One row's inputs alone, and its queries, in a batch of `tokens` tokens."""
        count, taken = self.counts[row], slice(self.start[row], self.start[row + 1])
        inputs, start = self.inputs(), np.array([0, count], np.int32)
        flat = [np.pad(facts[taken], (0, tokens - count)) for facts in (inputs.position_T, inputs.slot_T)]
        query = np.pad(self.query[taken], ((0, tokens - count), (0, 0), (0, 0)))
        one = slice(row, row + 1)
        return query, AttentionInputs(*flat, self.table[one], inputs.length_B[one], start, tokens)

    def write(self, backend):
        """The past of all rows, then this step's keys and values; both padded to one shape with NaN into page 0."""
        past = [length - count for length, count in zip(self.lengths, self.counts, strict=True)]
        pages = self._write(backend, self.pages, [range(n) for n in past])
        return self._write(backend, pages, [range(n, len(k)) for n, k in zip(past, self.keys, strict=True)])

    def _write(self, backend, pages, taken):
        def padded(rows):
            real = np.concatenate([row[list(at)] for row, at in zip(rows, taken, strict=True)])
            return np.concatenate([real, np.full((MOST - len(real), *real.shape[1:]), np.nan, self.dtype)])

        slot = np.zeros(MOST, np.int32)
        real = np.concatenate([self.slots(row, np.array(at, int)) for row, at in enumerate(taken)])
        slot[: len(real)] = real
        return backend.write(pages, padded(self.keys), padded(self.values), slot)

    def run(self, backend, **how):
        """[T, N, H]."""
        out = backend.attend(self.query, self.write(backend), self.inputs(), **how)
        assert out.dtype == self.dtype
        return np.asarray(out, np.float32)

    def expect(self, **how):
        out = np.zeros(self.query.shape)
        for row, (length, count) in enumerate(zip(self.lengths, self.counts, strict=True)):
            taken = slice(self.start[row], self.start[row + 1])
            out[taken] = dense(self.query[taken], self.keys[row], self.values[row], length - count, **how)
        return out

    def check(self, backend, *, atol=2e-6, **how):
        out = self.run(backend, **how)
        np.testing.assert_allclose(out, self.expect(**how), atol=atol)
        assert not out[self.start[-1] :].any()


@functools.cache
def backend_of(name):
    return Backend(GpuAttention(config=SMALL) if name == "gpu" else BACKENDS[name]())


@pytest.fixture(autouse=True)
def exact_products():
    """Accelerators would round the operands of float32 products."""
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture(params=sorted(BACKENDS.keys() - {"tpu"}))  # which has test_tpu.py
def backend(request):
    if request.param == "native" and library.find_compiler() is None:
        pytest.skip("no C compiler here")
    return backend_of(request.param)


@pytest.mark.parametrize("lengths", [[1], [15, 16, 17, 0], [63, 64, 65, 320], [1, 129, 128, 127]])
def test_decode_sees_every_live_token_and_no_other(backend, lengths):
    Case(backend, lengths, columns=1).check(backend, scale=0.3)


@pytest.mark.parametrize("lengths", [[8], [9, 15, 16, 24], [320, 1, 64, 7], [5, 0, 130]])
def test_a_chunk_attends_causally_behind_its_prefix(backend, lengths):
    Case(backend, lengths, columns=8).check(backend, scale=0.3)


def test_a_chunk_may_be_longer_than_a_tile_of_queries(backend):
    Case(backend, [300, 64, 40], columns=64).check(backend, scale=0.3)


@pytest.mark.parametrize(("window", "columns"), [(70, 1), (1, 8)])
def test_a_window_hides_what_is_further_back(backend, window, columns):
    Case(backend, [300, 71, 5], columns).check(backend, scale=0.3, window=window)


@pytest.mark.parametrize("columns", [1, 8])
def test_a_soft_cap_bends_the_scores_and_a_sink_takes_weight(backend, columns):
    case = Case(backend, [50, 200, 1, 0], columns)
    sinks = np.array([-3.0, 0.0, 2.0, 40.0], np.float32)
    case.check(backend, scale=2.0, softcap=5.0, sinks=sinks)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "columns"),
    [(16, 1, 64, 1), (6, 2, 80, 1), (3, 3, 96, 8), (8, 2, 128, 1), (5, 1, 192, 8), (2, 2, 256, 1)],
)
def test_any_grouping_of_heads_and_any_size(backend, heads, kv_heads, head_dim, columns):
    case = Case(backend, [70, 3], columns, heads=heads, kv_heads=kv_heads, head_dim=head_dim)
    case.check(backend, scale=0.1, atol=3e-6)


@pytest.mark.parametrize("columns", [1, 8])
def test_bfloat16_loses_no_more_than_its_own_rounding(request, backend, columns):
    if request.node.callspec.params["backend"] == "native":  # says so, and auto does not choose it then
        with pytest.raises(BadConfig, match="float32"):
            Case(backend, [200], columns, head_dim=64, dtype=jnp.bfloat16)
        return
    case = Case(backend, [200, 3, 65], columns, head_dim=64, dtype=jnp.bfloat16)
    case.check(backend, scale=0.125, atol=0.02)


@pytest.mark.parametrize("page", [1, 4, 64])
def test_any_page_size(backend, page, monkeypatch):
    monkeypatch.setitem(globals(), "PAGE", page)
    Case(backend, [17, 3, 0], columns=2).check(backend, scale=0.3, window=9)


@pytest.mark.parametrize(
    ("lengths", "counts", "how"),
    [
        ([70, 33, 90], [17, 5, 10], {}),
        ([0, 40, 300, 9], [0, 20, 0, 9], {"window": 30}),
        ([65, 200, 1, 64], [1, 28, 1, 1], {"softcap": 5.0, "sinks": np.array([-3.0, 0.0, 2.0, 9.0], np.float32)}),
        ([40, 0, 300], [0, 0, 0], {}),
    ],
    ids=["chunks of three prompts", "rows without queries", "a chunk between single tokens", "padding alone"],
)
def test_rows_own_as_many_queries_as_they_like(backend, lengths, counts, how):
    Case(backend, lengths, counts=counts, tokens=32).check(backend, scale=0.5, **how)


@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    layout=st.lists(st.tuples(st.integers(0, 32), st.integers(0, 120)), max_size=ROWS), window=st.sampled_from([0, 9])
)
def test_any_layout_of_rows(backend, layout, window):
    """As many queries of each row as fit behind those before it."""
    counts, lengths = [], []
    for count, past in layout:
        counts.append(min(count, 32 - sum(counts)))
        lengths.append(counts[-1] + past)
    Case(backend, lengths, counts=counts or [0], tokens=32, seed=len(layout)).check(
        backend, scale=0.5, window=window or None
    )


def test_alone_is_as_in_a_crowd(backend):
    case = Case(backend, [37, 300, 5], columns=1)
    pages = case.write(backend)
    together = backend.attend(case.query, pages, case.inputs(), scale=0.3)
    alone = backend.attend(*(part := case.row_inputs(1, tokens=1))[:1], pages, part[1], scale=0.3)
    np.testing.assert_allclose(alone[0], together[1], atol=1e-6)


@pytest.mark.parametrize("row", [0, 1, 2])
def test_a_packed_chunk_is_as_it_would_be_alone(request, backend, row):
    """Bit for bit on CPUs, whatever shares the batch."""
    case = Case(backend, [70, 133, 20], counts=[17, 9, 6], tokens=32)
    pages = case.write(backend)
    packed = backend.attend(case.query, pages, case.inputs(), scale=0.3)[case.start[row] : case.start[row + 1]]
    query, inputs = case.row_inputs(row, tokens=24)
    alone = backend.attend(query, pages, inputs, scale=0.3)[: case.counts[row]]
    is_exact = request.node.callspec.params["backend"] in ("cpu", "native")
    np.testing.assert_allclose(alone, packed, rtol=0, atol=0 if is_exact else 1e-6)


def test_padding_lies_behind_the_queries_of_the_last_row():
    ints, start_B1 = np.zeros(6, np.int32), np.array([0, 2, 2, 4], np.int32)
    inputs = AttentionInputs(ints, ints, np.zeros((3, 1), np.int32), np.array([5, 7, 2], np.int32), start_B1, 6)
    assert inputs.is_real_T.tolist() == [True] * 4 + [False] * 2
    assert inputs.row_T.tolist() == [0, 0, 2, 2, 2, 2]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 21), min_size=3, max_size=3), st.sampled_from([1, 5, 16]))
def test_tiles_cut_every_row_and_the_padding(counts, size):
    start, ints = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32), np.zeros(64, np.int32)
    inputs = AttentionInputs(ints, ints, np.zeros((3, 1), np.int32), ints[:3], start, 64)
    tiles = tile_queries(inputs, size)
    bounds = [*start, 64]  # the padding is one row more
    wanted = [
        (row, first, min(first + size, bounds[row + 1]))
        for row in range(4)
        for first in range(bounds[row], bounds[row + 1], size)
    ]
    assert [tile for tile in zip(*(tiles[:3]), strict=True) if tile[1] < tile[2]] == wanted
    assert tiles.num_real_tiles == sum(row < 3 for row, _, _ in wanted)


def test_auto_chooses_by_platform_and_a_strange_name_is_refused():
    assert choose_backend("auto", "cpu").name == ("native" if library.find_compiler() else "cpu")
    assert choose_backend("auto", "cpu", "bfloat16").name == "cpu"
    assert choose_backend("auto", "gpu").name == "gpu"
    assert choose_backend("auto", "rocket").name == "reference"
    with pytest.raises(BadConfig, match=r"flash9.*reference"):
        choose_backend("flash9", "cpu")
