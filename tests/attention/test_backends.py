"""One contract, every backend: the same questions, held to a dense computation in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxserve.attention import AttentionInputs, list_backends
from jaxserve.errors import BadConfig
from jaxserve.native import library
from tests.attention import cases
from tests.attention.cases import ROWS, Case

tile_queries = jax.jit(AttentionInputs.tile_queries, static_argnums=1)


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
def test_bfloat16_loses_no_more_than_its_own_rounding(backend, columns):
    case = Case(backend, [200, 3, 65], columns, head_dim=64, dtype=jnp.bfloat16)
    case.check(backend, scale=0.125, atol=0.02)


@pytest.mark.parametrize("page", [1, 4, 64])
def test_any_page_size(backend, page, monkeypatch):
    monkeypatch.setattr(cases, "PAGE", page)
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
    assert list_backends("auto", "cpu")[0].name == ("native" if library.find_compiler() else "cpu")
    assert list_backends("auto", "cpu", "bfloat16")[0].name == "cpu"
    assert list_backends("auto", "gpu")[0].name == "gpu"
    assert [backend.name for backend in list_backends("auto", "tpu")] == ["mosaic", "tpu"]
    assert list_backends("auto", "rocket")[0].name == "reference"
    with pytest.raises(BadConfig, match=r"flash9.*reference"):
        list_backends("flash9", "cpu")


@pytest.mark.parametrize("kind", ["TPU v2", "TPU v3", "TPU v4", "TPU v4 lite"])
def test_tpus_with_little_vector_memory_have_jaxs_kernel(kind):
    assert [backend.name for backend in list_backends("auto", "tpu", device_kind=kind)] == ["tpu"]
    with pytest.raises(BadConfig, match=f"'mosaic' needs 64 MiB of vector memory, and a core of a {kind} has .* tpu"):
        list_backends("mosaic", "tpu", device_kind=kind)


@pytest.mark.parametrize("kind", ["TPU v5 lite", "TPU v5", "TPU v5p", "TPU v6 lite", "TPU7x", "TPU v7", ""])
def test_later_tpus_have_our_kernels(kind):
    assert [backend.name for backend in list_backends("auto", "tpu", device_kind=kind)] == ["mosaic", "tpu"]
    assert [backend.name for backend in list_backends("mosaic", "tpu", device_kind=kind)] == ["mosaic"]
