"""The pages of all layers, as every backend makes them, and their size."""

import jax
import pytest

from jaxserve.attention import BACKENDS
from jaxserve.attention.native import NativeAttention
from jaxserve.cache.groups import make_groups
from jaxserve.cache.layer_cache import PagedKeysValues, PagedLatent, RecurrentState, StateArray
from jaxserve.cache.pages import CacheTypes, bytes_per_page, make_pages
from jaxserve.errors import BadConfig
from jaxserve.native import library

LAYERS = (PagedKeysValues(num_kv_heads=4, head_dim=64),) * 3
GROUPS = make_groups(LAYERS)
FLOAT32, BFLOAT16 = CacheTypes("float32", "float32"), CacheTypes("bfloat16", "bfloat16")


class ListBackend:
    """A backend whose pages are the arguments that they are made of."""

    stacks_layers = False

    def make_pages(self, *numbers):
        return [numbers]


class StackedPages(list):
    """The pages of some layers, and the one that is chosen."""

    layer = None

    def at_layer(self, layer):
        chosen = StackedPages(self)
        chosen.layer = layer
        return chosen

    def at_rest(self):
        return StackedPages(self)


class StackingBackend(ListBackend):
    """The same for all layers of a group."""

    stacks_layers = True

    def make_pages(self, *numbers, num_layers):
        return StackedPages([*numbers, num_layers])


def test_every_layer_gets_its_own_pages_in_the_backends_layout():
    groups = make_groups((LAYERS[0], PagedKeysValues(num_kv_heads=2, head_dim=8, window=4), LAYERS[0]))
    assert [(group.name, group.layers) for group in groups] == [("full attention", (0, 2)), ("window 4", (1,))]
    pages = make_pages(ListBackend(), groups, num_pages=[5, 3], page_size=16, types=FLOAT32)
    layers = [pages.get(layer) for layer in range(3)]
    assert layers == [[(5, 16, 4, 64, "float32")], [(3, 16, 2, 8, "float32")], [(5, 16, 4, 64, "float32")]]
    assert len({id(layer) for layer in layers}) == 3


def test_what_is_set_for_a_layer_is_what_it_has_and_others_keep_theirs():
    groups = make_groups((LAYERS[0], PagedKeysValues(num_kv_heads=2, head_dim=8, window=4), LAYERS[0]))
    pages = make_pages(ListBackend(), groups, num_pages=[5, 3], page_size=16, types=FLOAT32)
    written = pages.set(2, ["new"])
    assert [written.get(layer) for layer in range(3)] == [pages.get(0), pages.get(1), ["new"]]


def test_layers_of_a_group_share_arrays_where_the_backend_stacks_them():
    groups = make_groups((LAYERS[0], PagedKeysValues(num_kv_heads=2, head_dim=8, window=4), LAYERS[0]))
    pages = make_pages(StackingBackend(), groups, num_pages=[5, 3], page_size=16, types=FLOAT32)
    assert pages.groups == ([5, 16, 4, 64, "float32", 2], [3, 16, 2, 8, "float32", 1])
    assert [pages.get(layer).layer for layer in range(3)] == [0, 0, 1]
    written = pages.set(2, pages.get(2))
    assert written.groups == pages.groups and written.groups[0].layer is None


def backends():
    """List the backends that can be made here; shapes need no device of their kind."""
    return [name for name in BACKENDS if name != "native" or library.is_usable()]


@pytest.mark.parametrize("name", backends())
def test_a_page_costs_what_the_backend_really_makes_of_it(name):
    backend = BACKENDS[name]()
    pages = jax.eval_shape(lambda: make_pages(backend, GROUPS, num_pages=[7], page_size=16, types=FLOAT32))
    num_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(pages))
    assert 7 * bytes_per_page(backend, GROUPS[0], page_size=16, types=FLOAT32) == num_bytes


def test_a_page_of_plain_numbers_holds_keys_and_values_of_every_layer():
    [group] = make_groups((PagedKeysValues(num_kv_heads=3, head_dim=64),) * 30)
    assert bytes_per_page(BACKENDS["reference"](), group, page_size=16, types=FLOAT32) == 737_280


@pytest.mark.parametrize(("head_dim", "stored"), [(64, 128), (80, 128), (128, 128), (192, 256)])
def test_a_tpu_page_costs_whole_lanes(head_dim, stored):
    costs = [
        bytes_per_page(
            BACKENDS[name](),
            make_groups([PagedKeysValues(num_kv_heads=4, head_dim=size)])[0],
            page_size=16,
            types=BFLOAT16,
        )
        for name, size in (("tpu", head_dim), ("reference", stored))
    ]
    assert costs[0] == costs[1]


def test_what_a_backend_cannot_hold_is_refused_before_there_are_pages():
    with pytest.raises(BadConfig, match=r"'tpu'.*int8; try --kv-cache-dtype fp8"):
        bytes_per_page(BACKENDS["tpu"](), GROUPS[0], page_size=16, types=CacheTypes("int8", "bfloat16"))


@pytest.mark.parametrize("name", ["reference", "cpu"])
def test_latent_vectors_of_8_bits_are_refused_by_name(name):
    groups = make_groups([PagedLatent(latent_dim=16, rotary_dim=4)])
    with pytest.raises(BadConfig, match=r"latent vectors.*float8_e4m3fn.*try --kv-cache-dtype bfloat16"):
        bytes_per_page(BACKENDS[name](), groups[0], page_size=16, types=CacheTypes("float8_e4m3fn", "float32"))


@pytest.mark.parametrize("name", ["reference", "cpu", "native", "gpu"])
@pytest.mark.parametrize("page_type", ["int8", "float8_e4m3fn", "float8_e5m2"])
def test_a_token_of_8_bits_costs_its_numbers_and_two_scales_a_head(name, page_type):
    backend = object.__new__(NativeAttention) if name == "native" else BACKENDS[name]()  # needs no compiler for this
    costs = bytes_per_page(backend, GROUPS[0], page_size=16, types=CacheTypes(page_type, "float32"))
    assert costs == len(LAYERS) * 16 * 2 * 4 * (64 + 4)


@pytest.mark.parametrize("backend", [ListBackend(), StackingBackend()])
@pytest.mark.parametrize("types", [BFLOAT16, CacheTypes("int8", "bfloat16")])
def test_a_recurrent_layer_has_its_states_arrays_for_every_slot_whatever_the_backend(backend, types):
    state = RecurrentState(arrays=(StateArray((6, 3)), StateArray((2, 4, 4), "float32")))
    groups = make_groups((state, LAYERS[0], state))
    assert [(group.name, group.layers) for group in groups] == [("recurrent state", (0, 2)), ("full attention", (1,))]
    pages = make_pages(backend, groups, num_pages=[5, 7], page_size=16, types=types)
    for layer in (0, 2):
        shapes = [(array.shape, array.dtype.name, bool(array.any())) for array in pages.get(layer)]
        assert shapes == [((5, 6, 3), "bfloat16", False), ((5, 2, 4, 4), "float32", False)]
    assert bytes_per_page(backend, groups[0], page_size=16, types=types) == 2 * (2 * 18 + 4 * 32)
