"""One contract, every backend: the same questions, held to a dense computation in numpy.

Every case has the same outer shapes (four rows, twenty pages each), so that few programs are compiled.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxserve.attention import BACKENDS, AttentionInputs, choose_backend
from jaxserve.attention.gpu import GpuAttention, KernelConfig
from jaxserve.errors import BadConfig
from jaxserve.native import library

PAGE, WIDTH, ROWS = 16, 20, 4
POOL, MOST = 41, 520  # pages there are, the null page included; tokens in one write
SMALL = KernelConfig(split_tokens=64, block_bytes=2048, tile_rows=32)  # several splits, blocks and tiles in short rows
HOW = ("scale", "window", "softcap")


def dense(query_CNH, key_SKH, value_SKH, start, *, scale, window=None, softcap=None, sinks=None):
    """Queries at positions start, start + 1, … over one row's keys, float64, no pages."""
    columns, heads, _ = query_CNH.shape
    group = heads // key_SKH.shape[1]
    out = np.zeros(query_CNH.shape)
    for c in range(max(0, -start), columns):
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
    """Rows with given lengths in a pool of shuffled pages; every slot that nobody owns holds NaN."""

    def __init__(self, backend, lengths, columns, *, heads=4, kv_heads=2, head_dim=8, seed=0, dtype=np.float32):
        rng = np.random.default_rng(seed)
        self.lengths, self.columns, self.dtype = [*lengths, *[0] * (ROWS - len(lengths))], columns, dtype

        def normal(*shape):
            return rng.normal(size=shape).astype(np.float32).astype(dtype)

        self.query = normal(ROWS, columns, heads, head_dim)
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
        """The last `columns` tokens of every row are this step's; rows with fewer begin with padding queries."""
        position = np.zeros((ROWS, self.columns), np.int32)
        slot = np.zeros_like(position)
        for row, length in enumerate(self.lengths):
            if length:
                position[row] = np.arange(length - self.columns, length)
                real = position[row] >= 0
                slot[row, real] = self.slots(row, position[row, real])
        return AttentionInputs(position.ravel(), slot.ravel(), self.table, np.array(self.lengths, np.int32))

    def write(self, backend):
        """The past of all rows, then this step's keys and values; both padded to one shape with NaN into page 0."""
        past = [max(0, length - self.columns) for length in self.lengths]
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
        """[rows, columns, N, H]."""
        query = self.query.reshape(-1, *self.query.shape[2:])
        out = backend.attend(query, self.write(backend), self.inputs(), **how)
        assert out.dtype == self.dtype
        return np.asarray(out, np.float32).reshape(self.query.shape)

    def expect(self, **how):
        whole = [self.query, self.keys, self.values, self.lengths]
        return np.stack([dense(q, k, v, n - self.columns, **how) for q, k, v, n in zip(*whole, strict=True)])

    def check(self, backend, *, atol=2e-6, **how):
        out = self.run(backend, **how)
        np.testing.assert_allclose(out, self.expect(**how), atol=atol)
        assert not out[np.array(self.lengths) == 0].any()


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
    case = Case(backend, [50, 200, 0, 1], columns)
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


def test_alone_is_as_in_a_crowd(backend):
    case = Case(backend, [37, 300, 5], columns=1)
    pages, inputs = case.write(backend), case.inputs()
    together = backend.attend(case.query[:, 0], pages, inputs, scale=0.3)
    row = slice(1, 2)
    one = AttentionInputs(inputs.position_T[row], inputs.slot_T[row], inputs.page_table_BW[row], inputs.length_B[row])
    alone = backend.attend(case.query[row, 0], pages, one, scale=0.3)
    np.testing.assert_allclose(alone[0], together[1], atol=1e-6)


def test_padding_lies_behind_the_ends_of_its_rows():
    position_T, length_B = np.array([3, 4, 5, 0, 1, 2], np.int32), np.array([5, 0], np.int32)
    inputs = AttentionInputs(position_T, np.zeros(6, np.int32), np.zeros((2, 1), np.int32), length_B)
    assert inputs.is_real_T.tolist() == [True, True, False, False, False, False]


def test_auto_chooses_by_platform_and_a_strange_name_is_refused():
    assert choose_backend("auto", "cpu").name == ("native" if library.find_compiler() else "cpu")
    assert choose_backend("auto", "cpu", "bfloat16").name == "cpu"
    assert choose_backend("auto", "gpu").name == "gpu"
    assert choose_backend("auto", "rocket").name == "reference"
    with pytest.raises(BadConfig, match=r"flash9.*reference"):
        choose_backend("flash9", "cpu")
