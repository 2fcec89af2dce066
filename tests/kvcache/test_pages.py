"""Every layer gets pages of its own from the backend."""

from jaxserve.kvcache.pages import make_pages


class Backend:
    def make_pages(self, *numbers):
        return [numbers]


def test_every_layer_gets_its_own_pages_in_the_backends_layout():
    pages = make_pages(Backend(), num_layers=3, num_pages=5, page_size=16, kv_heads=2, head_dim=8, dtype="float32")
    assert pages == ([(5, 16, 2, 8, "float32")],) * 3
    assert len({id(layer) for layer in pages}) == 3
