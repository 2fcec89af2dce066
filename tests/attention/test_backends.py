"""One contract, every backend: the same questions, held to a dense computation in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxserve.attention import BACKENDS, AttentionInputs, choose_backend
from jaxserve.errors import BadConfig

PAGE = 16


def dense(query_CNH, key_SKH, value_SKH, start, *, scale, window=None, softcap=None):
    """Queries at positions start, start + 1, … over one row's keys, float64, no pages."""
    columns, heads, _ = query_CNH.shape
    group = heads // key_SKH.shape[1]
    out = np.zeros(query_CNH.shape)
    for c in range(columns):
        low = 0 if window is None else max(0, start + c - window + 1)
        for n in range(heads):
            score = scale * key_SKH[low : start + c + 1, n // group] @ query_CNH[c, n]
            if softcap is not None:
                score = softcap * np.tanh(score / softcap)
            weight = np.exp(score - score.max())
            out[c, n] = weight / weight.sum() @ value_SKH[low : start + c + 1, n // group]
    return out


class Case:
    """Rows with given lengths in a pool of shuffled pages; every slot that nobody owns holds NaN."""

    def __init__(self, backend, lengths, columns, *, heads=4, kv_heads=2, head_dim=8, seed=0, width=None):
        rng = np.random.default_rng(seed)
        self.lengths, self.columns = lengths, columns
        self.query = rng.normal(size=(len(lengths), columns, heads, head_dim)).astype(np.float32)
        self.keys = [rng.normal(size=(n, kv_heads, head_dim)).astype(np.float32) for n in lengths]
        self.values = [rng.normal(size=(n, kv_heads, head_dim)).astype(np.float32) for n in lengths]
        needed = [-(-n // PAGE) for n in lengths]
        order = iter(rng.permutation(np.arange(1, sum(needed) + 1)))
        self.table = np.zeros((len(lengths), width or max(needed)), np.int32)
        for row, count in enumerate(needed):
            self.table[row, :count] = [next(order) for _ in range(count)]
        pages = backend.make_pages(sum(needed) + 1, PAGE, kv_heads, head_dim, jnp.float32)
        self.pages = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), pages)

    def slots(self, row, positions):
        return self.table[row, positions // PAGE] * PAGE + positions % PAGE

    def inputs(self):
        """The last `columns` tokens of every row are this step's; rows with fewer begin with padding queries."""
        position = np.zeros((len(self.lengths), self.columns), np.int32)
        slot = np.zeros_like(position)
        for row, length in enumerate(self.lengths):
            if length:
                position[row] = np.arange(length - self.columns, length)
                slot[row] = self.slots(row, position[row])
        return AttentionInputs(position.ravel(), slot.ravel(), self.table, np.array(self.lengths, np.int32))

    def run(self, backend, **how):
        """Writes the past, then this step's keys and values, as two calls; answers [rows, columns, N, H]."""
        inputs = self.inputs()
        for row, length in enumerate(self.lengths):
            past = np.arange(max(0, length - self.columns))
            if past.size:
                self.pages = backend.write(
                    self.pages, self.keys[row][past], self.values[row][past], self.slots(row, past)
                )
        blank = np.zeros((self.columns, *self.pages_heads()), np.float32)
        new_key = np.concatenate([k[-self.columns :] if len(k) else blank for k in self.keys])
        new_value = np.concatenate([v[-self.columns :] if len(v) else blank for v in self.values])
        pages = jax.jit(backend.write)(self.pages, new_key, new_value, inputs.slot_T)
        query = self.query.reshape(-1, *self.query.shape[2:])
        out = jax.jit(lambda q, p, i: backend.attend(q, p, i, **how))(query, pages, inputs)
        return np.asarray(out).reshape(self.query.shape)

    def pages_heads(self):
        return self.keys[0].shape[1:]

    def expect(self, row, **how):
        return dense(self.query[row], self.keys[row], self.values[row], self.lengths[row] - self.columns, **how)


@pytest.fixture(params=sorted(BACKENDS))
def backend(request):
    return BACKENDS[request.param]()


@pytest.mark.parametrize("lengths", [[1], [15, 16, 17], [1, 129, 128, 127, 300]])
def test_decode_sees_every_live_token_and_no_other(backend, lengths):
    case = Case(backend, lengths, columns=1)
    out = case.run(backend, scale=0.3)
    for row in range(len(lengths)):
        np.testing.assert_allclose(out[row], case.expect(row, scale=0.3), atol=2e-6)


@pytest.mark.parametrize(("length", "columns"), [(16, 16), (40, 8), (300, 64), (33, 1)])
def test_a_chunk_attends_causally_behind_its_prefix(backend, length, columns):
    case = Case(backend, [length], columns)
    np.testing.assert_allclose(case.run(backend, scale=0.3)[0], case.expect(0, scale=0.3), atol=2e-6)


@pytest.mark.parametrize("window", [1, 7, 16, 200])
def test_a_window_hides_what_is_further_back(backend, window):
    case = Case(backend, [300, 20, 5], columns=4)
    out = case.run(backend, scale=0.3, window=window)
    for row in range(3):
        np.testing.assert_allclose(out[row], case.expect(row, scale=0.3, window=window), atol=2e-6)


def test_a_soft_cap_bends_the_scores(backend):
    case = Case(backend, [50], columns=2)
    out = case.run(backend, scale=2.0, softcap=5.0)
    np.testing.assert_allclose(out[0], case.expect(0, scale=2.0, softcap=5.0), atol=2e-6)


@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (4, 4), (6, 2), (16, 1)])
@pytest.mark.parametrize("head_dim", [64, 80])
def test_any_grouping_of_heads(backend, heads, kv_heads, head_dim):
    case = Case(backend, [70, 3], columns=1, heads=heads, kv_heads=kv_heads, head_dim=head_dim)
    out = case.run(backend, scale=0.1)
    for row in range(2):
        np.testing.assert_allclose(out[row], case.expect(row, scale=0.1), atol=3e-6)


def test_a_padding_row_gives_zeros_and_harms_nobody(backend):
    case = Case(backend, [40, 0], columns=1)
    out = case.run(backend, scale=0.3)
    np.testing.assert_allclose(out[0], case.expect(0, scale=0.3), atol=2e-6)
    assert not out[1].any()


def test_alone_is_as_in_a_crowd(backend):
    crowd = Case(backend, [37, 400, 5], columns=1)
    together = crowd.run(backend, scale=0.3)
    alone = Case(backend, [37, 400, 5], columns=1)
    inputs = alone.inputs()
    crowd_pages = crowd.pages
    pages = backend.write(
        crowd_pages,
        np.concatenate([k[-1:] for k in crowd.keys]),
        np.concatenate([v[-1:] for v in crowd.values]),
        inputs.slot_T,
    )
    one = AttentionInputs(inputs.position_T[:1], inputs.slot_T[:1], inputs.page_table_BW[:1], inputs.length_B[:1])
    out = backend.attend(jnp.asarray(crowd.query[0]), pages, one, scale=0.3)
    np.testing.assert_allclose(np.asarray(out), together[0], atol=1e-6)


def test_auto_chooses_by_platform_and_a_strange_name_is_refused():
    assert choose_backend("auto", "cpu").name == "cpu"
    assert choose_backend("auto", "gpu").name == "reference"
    with pytest.raises(BadConfig, match=r"flash9.*reference"):
        choose_backend("flash9", "cpu")
