"""Attention over paged keys and values: one protocol, several backends.

A backend owns the layout of its pages, because the layout decides its speed: on CPU a dot wants keys with
the position axis last, kernels on accelerators want a token's heads together. Nobody else looks inside.
"""

from typing import Any, Protocol

import jax.numpy as jnp
from jax import Array

from jaxserve.attention.cpu import CpuAttention
from jaxserve.attention.gpu import GpuAttention
from jaxserve.attention.gpu.pages import choose_config
from jaxserve.attention.inputs import AttentionCalls, AttentionInputs
from jaxserve.attention.mosaic import MosaicAttention
from jaxserve.attention.mosaic.vector_memory import VECTOR_BYTES, has_vector_memory
from jaxserve.attention.native import NativeAttention
from jaxserve.attention.reference import ReferenceAttention
from jaxserve.attention.tpu import TpuAttention
from jaxserve.errors import BadConfig
from jaxserve.native import library

LayerPages = Any  # a pytree of arrays: one layer's keys and values, in the backend's own layout


class LatentBackend(Protocol):
    """A way to store latent vectors in pages and to attend to them: one a token, with the rotated part of the key.

    It is one key head of C = latent_dim + rotary_dim numbers, whose value is the first latent_dim of them.
    """

    def check_calls(self, calls: AttentionCalls) -> None:
        """Raise BadConfig if such calls are not answered."""
        ...

    def make_pages(self, num_pages: int, page_size: int, latent_dim: int, rotary_dim: int, dtype: Any) -> LayerPages:
        """Return one layer's pages, all zeros, never stacked."""
        ...

    def write(self, pages: LayerPages, latent_TC: Array, slot_T: Array) -> LayerPages:
        """Return the pages with each token's numbers in its slot. Donate pages."""
        ...

    def attend(self, query_TNC: Array, pages: LayerPages, inputs: AttentionInputs, *, scale: float) -> Array:
        """Return softmax(scale * q.k) . v over what each query may see, [T, N, latent_dim] in the query's dtype.

        What holds for `AttentionBackend.attend` holds here.
        """
        ...


class AttentionBackend(Protocol):
    """A way to store keys and values in pages and to attend to them through a page table.

    stacks_layers   The pages of all layers of a cache group lie in the same arrays: make_pages takes `num_layers`, and
                    what it returns has two methods, `at_layer(index)`, which returns one layer's pages, and
                    `at_rest()`, which returns the group's pages again after the layer was written.
    """

    name: str
    stacks_layers: bool

    @property
    def latent(self) -> LatentBackend:
        """The way of layers that keep a latent vector instead of keys and values."""
        ...

    def default_page_size(self, num_rows: int, max_tokens: int, dtype: Any) -> int:
        """Return the number of tokens of a page for batches of num_rows rows of max_tokens tokens, a power of two.

        dtype   of the numbers in the pages: such pages are ones that make_pages accepts
        """
        ...

    def max_pages(self, page_size: int, kv_heads: int, head_dim: int, dtype: Any) -> int | None:
        """Return the most pages of this type that the backend can address in a layer; None: any number."""
        ...

    def check_calls(self, calls: AttentionCalls) -> None:
        """Raise BadConfig if such calls are not answered."""
        ...

    def make_pages(self, num_pages: int, page_size: int, kv_heads: int, head_dim: int, dtype: Any) -> LayerPages:
        """Return one layer's pages, all zeros: what is masked is multiplied by zero, and NaN would survive that.

        dtype   of the numbers; those of 8 bits have scales beside them, see page_types.py

        Raises BadConfig if the backend does not support such pages.
        """
        ...

    def write(self, pages: LayerPages, key_TKH: Array, value_TKH: Array, slot_T: Array) -> LayerPages:
        """Return the pages with each token's key and value in its slot, in the type of the pages. Donate pages.

        Slots outside page 0 are distinct; nothing checks that.
        """
        ...

    def attend(
        self,
        query_TNH: Array,
        pages: LayerPages,
        inputs: AttentionInputs,
        *,
        scale: float,
        window: int | None = None,
        softcap: float | None = None,
        sinks: Array | None = None,
    ) -> Array:
        """Return softmax(scale * q.k) . v over what each query may see, [T, N, H] in the query's dtype.

        window     a query sees only its last `window` positions, its own included
        softcap    scores are cap * tanh(score / cap) before the softmax
        sinks      [N], one more score per head, neither scaled nor capped: it takes weight and brings no value
        Scores and sums are float32. A query that sees nothing (padding) gets zeros. Slots beyond a row's
        length may hold anything, NaN included, and change nothing.
        """
        ...


BACKENDS: dict[str, type[AttentionBackend]] = {
    "reference": ReferenceAttention,
    "cpu": CpuAttention,
    "gpu": GpuAttention,
    "native": NativeAttention,
    "mosaic": MosaicAttention,
    "tpu": TpuAttention,
}


def list_backends(
    name: str, platform: str, dtype: Any = "float32", device_kind: str = "", compute_capability: float = 0.0
) -> list[AttentionBackend]:
    """Return the backend called `name`, or under "auto" those for a JAX platform and dtype, the best one first.

    The later ones hold pages that the first does not.

    device_kind          What JAX calls the devices, "NVIDIA H200" for example: some have sizes of their own, and old
                         TPUs no room for our kernels.
    compute_capability   That of NVIDIA GPUs; 0: unknown, and kernels take nothing for granted.

    Raises BadConfig if no backend has this name or if it does not run on the devices.
    """
    names = _auto_names(platform, dtype, device_kind) if name == "auto" else (name,)
    return [_make_backend(each, platform, device_kind, compute_capability) for each in names]


def _auto_names(platform: str, dtype: Any, device_kind: str) -> tuple[str, ...]:
    if platform == "cpu" and jnp.dtype(dtype) == jnp.float32 and library.is_usable():
        return ("native",)
    if platform == "tpu":
        return ("mosaic", "tpu") if has_vector_memory(device_kind) else ("tpu",)
    return (platform,) if platform in ("cpu", "gpu") else ("reference",)


def _make_backend(name: str, platform: str, device_kind: str, compute_capability: float) -> AttentionBackend:
    if name not in BACKENDS:
        raise BadConfig(f"attention_backend {name!r} is unknown; known: auto, {', '.join(BACKENDS)}.")
    if name in ("mosaic", "tpu") and platform != "tpu":
        raise BadConfig(f"attention_backend {name!r} needs a TPU, and this is a {platform}; try auto.")
    if name == "mosaic" and not has_vector_memory(device_kind):
        raise BadConfig(
            f"attention_backend 'mosaic' needs {VECTOR_BYTES >> 20} MiB of vector memory, and a core of a {device_kind}"
            " has 16 MiB; try --attention-backend tpu, or auto."
        )
    if name == "gpu":
        return GpuAttention(interpret=platform != "gpu", config=choose_config(device_kind, compute_capability))
    return BACKENDS[name]()


__all__ = [
    "BACKENDS",
    "AttentionBackend",
    "AttentionCalls",
    "AttentionInputs",
    "LatentBackend",
    "LayerPages",
    "list_backends",
]
