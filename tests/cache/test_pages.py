"""Every layer gets pages of its own from the backend."""

import jax
import pytest

from jaxserve.attention import BACKENDS
from jaxserve.attention.native import NativeAttention
from jaxserve.cache.pages import bytes_per_page, make_pages
from jaxserve.errors import BadConfig
from jaxserve.native import library


class Backend:
    def make_pages(self, *numbers):
        return [numbers]


def test_every_layer_gets_its_own_pages_in_the_backends_layout():
    pages = make_pages(Backend(), num_layers=3, num_pages=5, page_size=16, kv_heads=2, head_dim=8, dtype="float32")
    assert pages == ([(5, 16, 2, 8, "float32")],) * 3
    assert len({id(layer) for layer in pages}) == 3


NETWORK = {"num_layers": 3, "page_size": 16, "kv_heads": 4, "head_dim": 64, "dtype": "float32"}


def backends():
    """Every one that can be made here; shapes need no device of its kind."""
    return [name for name in BACKENDS if name != "native" or library.is_usable()]


@pytest.mark.parametrize("name", backends())
def test_a_page_costs_what_the_backend_really_makes_of_it(name):
    backend = BACKENDS[name]()
    pages = jax.eval_shape(lambda: make_pages(backend, num_pages=7, **NETWORK))
    made = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(pages))
    assert 7 * bytes_per_page(backend, **NETWORK) == made


def test_a_page_of_plain_numbers_holds_keys_and_values_of_every_layer():
    network = {"num_layers": 30, "page_size": 16, "kv_heads": 3, "head_dim": 64, "dtype": "float32"}
    assert bytes_per_page(BACKENDS["reference"](), **network) == 737_280


@pytest.mark.parametrize(("head_dim", "stored"), [(64, 128), (80, 128), (128, 128), (192, 256)])
def test_a_tpu_page_costs_whole_lanes(head_dim, stored):
    cost = bytes_per_page(BACKENDS["tpu"](), **NETWORK | {"head_dim": head_dim})
    assert cost == bytes_per_page(BACKENDS["reference"](), **NETWORK | {"head_dim": stored})


@pytest.mark.skipif(not library.is_usable(), reason="no C compiler")
def test_what_a_backend_cannot_hold_is_refused_before_there_are_pages():
    with pytest.raises(BadConfig, match="float32"):
        bytes_per_page(NativeAttention(), **NETWORK | {"dtype": "bfloat16"})
