"""Attention for NVIDIA GPUs (Hopper): our own Pallas kernels, lowered through Triton.

They lower for CUDA and hold the contract in interpret mode. Compiled offline for sm_90 (Triton 3.7, ptxas) the
prefill tile runs on wgmma, pages come in by 16-byte asynchronous copies, and nothing spills in bfloat16. On a
GPU they are unmeasured, and so are the defaults of `KernelConfig`.

Everything that Pallas might leave to a default is passed: without Triton's parameters a kernel would go to Mosaic
GPU, and grid sizes are plain Python numbers (jax#40847: `num_programs` is cached across grids). Pallas is
imported at the first use, because other platforms never need it.
"""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxserve.attention.gpu.pages import FP8_CAPABILITY, AttentionParams, GpuPages, KernelConfig, choose_block_tokens
from jaxserve.attention.inputs import PAGE_SIZE, AttentionCalls, AttentionInputs
from jaxserve.attention.latent import BlockLatentAttention
from jaxserve.attention.page_types import has_scales, make_scales
from jaxserve.errors import BadConfig

# From jax 0.11 on, every lowering of a Triton kernel warns that it will be removed.
warnings.filterwarnings("ignore", message="The Pallas Triton backend is deprecated", category=DeprecationWarning)


class GpuAttention:
    """Attention by Pallas kernels for NVIDIA GPUs.

    interpret   Run the kernels as plain XLA, slowly; None does so wherever no GPU is the default device.
    config      The sizes that the kernels are tuned by; None: those of an H200. `choose_config` knows other GPUs.
    """

    name = "gpu"
    stacks_layers = False
    latent = BlockLatentAttention()

    def __init__(self, interpret: bool | None = None, config: KernelConfig | None = None) -> None:
        self.interpret = jax.default_backend() != "gpu" if interpret is None else interpret
        self.config = config or KernelConfig()

    def default_page_size(self, num_rows: int, max_tokens: int, dtype: Any) -> int:
        """Return PAGE_SIZE."""
        return PAGE_SIZE

    def max_pages(self, page_size: int, kv_heads: int, head_dim: int, dtype: Any) -> int | None:
        """Return the most pages whose numbers Pallas counts right: in 32 signed bits if there are up to 4 GiB."""
        return 2**31 // (page_size * kv_heads * head_dim) if has_scales(dtype) else None

    def check_calls(self, calls: AttentionCalls) -> None:
        """Accept all calls."""

    def make_pages(self, num_pages: int, page_size: int, kv_heads: int, head_dim: int, dtype: Any) -> GpuPages:
        """Return one layer's pages, all zeros; those of 8-bit numbers with a scale for each token and head.

        Raises BadConfig if Pallas would address an 8-bit array of this size wrongly, or for floats of 8 bits that the
        GPU does not convert.
        """
        if not self.config.has_fp8 and has_scales(dtype) and jnp.issubdtype(dtype, jnp.floating):
            raise BadConfig(
                f"kv_cache_dtype {jnp.dtype(dtype).name} needs a GPU of compute capability {FP8_CAPABILITY} or later;"
                " try int8."
            )
        shape = (num_pages, page_size, kv_heads, head_dim)
        most = self.max_pages(page_size, kv_heads, head_dim, dtype)
        if most is not None and most < num_pages:
            raise BadConfig(
                f"attention_backend 'gpu' cannot address {num_pages} pages of {page_size} 8-bit tokens in a layer; try"
                f" --num-gpu-blocks-override {most}."
            )
        return GpuPages(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype), *make_scales(shape[:3], dtype))

    def write(self, pages: GpuPages, key_TKH: Array, value_TKH: Array, slot_T: Array) -> GpuPages:
        """Return the pages with the tokens in their slots. Donate pages."""
        from jaxserve.attention.gpu.write import write

        return write(pages, key_TKH, value_TKH, slot_T, interpret=self.interpret)

    def attend(
        self,
        query_TNH: Array,
        pages: GpuPages,
        inputs: AttentionInputs,
        *,
        scale: float,
        window: int | None = None,
        softcap: float | None = None,
        sinks: Array | None = None,
    ) -> Array:
        """Return softmax(scale * q.k) . v of every query, [T, N, H]; see `AttentionBackend`.

        A batch of one query a row is computed by the decode kernels, others by the prefill kernel.
        """
        from jaxserve.attention.gpu.decode import decode
        from jaxserve.attention.gpu.prefill import prefill

        num_tokens, num_heads, head_dim = query_TNH.shape
        _, page_size, kv_heads, _ = pages.key_PZKH.shape
        group = num_heads // kv_heads
        is_decode = inputs.max_queries_per_row == 1
        block = choose_block_tokens(head_dim, pages.key_PZKH.dtype.itemsize, self.config, is_decode=is_decode)
        params = AttentionParams(kv_heads, group, head_dim, page_size, block, scale, window, softcap, self.interpret)
        out = (decode if is_decode else prefill)(
            query_TNH.reshape(num_tokens, kv_heads, group, head_dim),
            pages,
            inputs,
            None if sinks is None else sinks.reshape(kv_heads, group),
            params=params,
            config=self.config,
        )
        return out.reshape(query_TNH.shape)
