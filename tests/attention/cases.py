"""Cases of attention: rows in shuffled pages, and a dense computation in numpy that every backend is compared with.

Every case has the same outer shapes (four rows, twenty pages each), so that few programs are compiled.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxserve.attention import BACKENDS, AttentionInputs
from jaxserve.attention.gpu import GpuAttention, KernelConfig

PAGE, WIDTH, ROWS = 16, 20, 4
POOL, MOST = 41, 520  # pages there are, the null page included; tokens in one write
SMALL = KernelConfig(  # several splits, blocks and tiles in short rows, and few programs
    split_tokens=64,
    decode_programs=4,
    block_bytes=2048,
    prefill_block_bytes=2048,
    tile_rows=32,
    wide_tile_rows=32,
    prefill_split_tokens=64,
)
HOW = ("scale", "window", "softcap")


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


def stored(x_SKH, dtype, has_scales=True):
    """What pages of this type hold of keys or values."""
    if np.dtype(dtype).itemsize > 1 or not has_scales:
        return x_SKH.astype(dtype)
    largest = float(jnp.iinfo(dtype).max if dtype == np.int8 else jnp.finfo(dtype).max)
    x_SKH = x_SKH.astype(np.float32)
    scale_SK1 = np.abs(x_SKH).max(-1, keepdims=True, initial=0) / np.float32(largest)
    packed_SKH = x_SKH / scale_SK1
    return (np.rint(packed_SKH) if dtype == np.int8 else packed_SKH.astype(dtype).astype(np.float32)) * scale_SK1


def fill_with_nan(pages):
    """Pages with NaN in every place; integers, which know none, are as large as they can be: as bits, NaN again."""

    def fill(leaf):
        return jnp.full_like(leaf, jnp.nan if jnp.issubdtype(leaf.dtype, jnp.floating) else jnp.iinfo(leaf.dtype).max)

    return jax.tree.map(fill, pages)


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

    columns       The most queries of a row: its last tokens, as many as it has.
    counts        The queries of each row instead, in a batch of `tokens` tokens.
    pages_dtype   The type of the numbers in the pages, if it is not that of the queries. What is expected is then
                  computed from the keys and values that such pages hold.
    has_scales    8-bit numbers fill the range of their type.
    """

    def __init__(
        self, backend, lengths, columns=1, *, counts=None, tokens=None, heads=4, kv_heads=2, head_dim=8, seed=0,
        dtype=np.float32, pages_dtype=None, has_scales=True,
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
        self.has_scales = has_scales
        self.pages_dtype = np.dtype(pages_dtype or dtype)
        self.pages = fill_with_nan(backend.make_pages(POOL, PAGE, kv_heads, head_dim, self.pages_dtype))

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

    def free_behind(self, window):
        """Take the pages that no query of their row sees from the table, as if they were freed."""
        for row, (length, count) in enumerate(zip(self.lengths, self.counts, strict=True)):
            self.table[row, : max(0, length - count - window + 1) // PAGE] = 0

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
        hold = functools.partial(stored, dtype=self.pages_dtype, has_scales=self.has_scales)
        keys, values = [*map(hold, self.keys)], [*map(hold, self.values)]
        for row, (length, count) in enumerate(zip(self.lengths, self.counts, strict=True)):
            taken = slice(self.start[row], self.start[row + 1])
            out[taken] = dense(self.query[taken], keys[row], values[row], length - count, **how)
        return out

    def check(self, backend, *, atol=2e-6, **how):
        out = self.run(backend, **how)
        np.testing.assert_allclose(out, self.expect(**how), atol=atol)
        assert not out[self.start[-1] :].any()


@functools.cache
def backend_of(name):
    return Backend(GpuAttention(config=SMALL) if name == "gpu" else BACKENDS[name]())
