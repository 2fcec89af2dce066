"""Experts: the feed-forward blocks of a mixture, of which every token passes through a few.

Tokens are sorted by expert. On CPUs native/experts.c multiplies the rows of each expert with its matrices, and reads
only experts that are chosen; on NVIDIA GPUs kernels do, for blocks of rows (experts_gpu.py, int4_gpu.py); elsewhere
`jax.lax.ragged_dot` does. Where no kernel can be compiled, and for packed weights that none multiplies, a loop runs
over blocks of a few rows each; it copies the matrices of a block's expert, and so takes 2.5 times as long for 8 tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax
from jax.typing import DTypeLike

from jaxserve.layers import quant
from jaxserve.layers.experts_gpu import ExpertWeight, expert_matmul
from jaxserve.layers.gpu_tiles import BlockExperts, Epilogue, choose_rows
from jaxserve.layers.int4_gpu import int4_expert_matmul
from jaxserve.layers.linear import matmul_precision, multiply
from jaxserve.layers.mlp import ACTIVATIONS, Activation, ClampedSwiGLU, apply_gate
from jaxserve.layers.scaled_weight import ScaledWeight, take_codes, take_expert
from jaxserve.native import library

# Rows of a block of the loop: of few tokens an expert rarely gets more than a handful; of many it fills the blocks.
FEW_TOKENS, ROWS_OF_FEW, ROWS_OF_MANY = 64, 8, 32
NATIVE_TYPES = (jnp.float32, jnp.bfloat16)
ExpertKernel: TypeAlias = Array | quant.PackedWeight | ScaledWeight


@dataclass(frozen=True, slots=True)
class ExpertBlocks:
    """Tokens sorted by expert in blocks of `rows` rows; A = tokens times experts a token.

    token_S      int32 [blocks * rows]: which token a row holds; rows that hold none repeat token 0
    expert_X     int32 [blocks]: each block's expert
    num_blocks   int32 []: how many blocks are filled; those behind them are not looked at
    row_A        int32 [A]: the row of each token's each expert, tokens first; row 0 for padding
    count_E      int32 [experts]: rows of each expert, whole blocks
    """

    token_S: Array
    expert_X: Array
    num_blocks: Array
    row_A: Array
    count_E: Array
    rows: int


def group_by_expert(index_TK: Array, num_experts: int, is_real_TK: Array, rows: int = 1) -> ExpertBlocks:
    """Return where each token's row lies for each of its experts index_TK; padding has no rows.

    is_real_TK: whether a choice has a row; [T, 1] for all choices of a token. rows: rows of a block; blocks of one row
    leave no row unused.
    """
    tokens, top_k = index_TK.shape
    expert_A, is_real_A = index_TK.reshape(-1), jnp.broadcast_to(is_real_TK, index_TK.shape).reshape(-1)
    chosen_AE = jax.nn.one_hot(expert_A, num_experts, dtype=jnp.int32) * is_real_A[:, None]
    rank_A = jnp.take_along_axis(jnp.cumsum(chosen_AE, axis=0), expert_A[:, None], axis=1)[:, 0] - 1
    blocks_E = -(-chosen_AE.sum(axis=0) // rows)
    last_E = jnp.cumsum(blocks_E)
    row_A = (last_E - blocks_E)[expert_A] * rows + rank_A
    most_blocks = tokens * top_k // rows + (min(num_experts, tokens * top_k) if rows > 1 else 0)
    place_A = jnp.where(is_real_A, row_A, most_blocks * rows)  # behind the end, where nothing is written
    token_S = jnp.zeros(most_blocks * rows, jnp.int32).at[place_A].set(jnp.arange(tokens * top_k) // top_k, mode="drop")
    expert_X = (last_E <= jnp.arange(most_blocks)[:, None]).sum(axis=1, dtype=jnp.int32)  # searchsorted is a loop
    return ExpertBlocks(
        token_S=token_S,
        expert_X=jnp.minimum(expert_X, num_experts - 1),
        num_blocks=last_E[-1],
        row_A=jnp.where(is_real_A, row_A, 0),
        count_E=blocks_E * rows,
        rows=rows,
    )


ExpertProducts: TypeAlias = Callable[..., tuple[Array, ...]]


class Experts(nnx.Module):
    """Kernels of all experts, [experts, in, out] each: down(activation(gate(x)) * up(x)) for each of them.

    num_experts: of all ranks together; the kernels are those of one.
    is_gated: False: there is no gate, and an expert is down(activation(up(x))).
    bias: gate, up and down add a bias each, [experts, out]. That of down is for the caller to add, once: ranks that
    have some of an expert's hidden numbers have this bias whole.
    """

    def __init__(
        self,
        num_experts: int,
        width: int,
        hidden: int,
        *,
        activation: Activation | ClampedSwiGLU,
        is_gated: bool,
        bias: bool,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ) -> None:
        self.activation: Activation | ClampedSwiGLU = activation
        self.num_experts = num_experts
        self.gate = nnx.Param(0.02 * rngs.params.normal((num_experts, width, hidden), dtype)) if is_gated else None
        self.up = nnx.Param(0.02 * rngs.params.normal((num_experts, width, hidden), dtype))
        self.down = nnx.Param(0.02 * rngs.params.normal((num_experts, hidden, width), dtype))
        self.gate_bias = nnx.Param(jnp.zeros((num_experts, hidden), dtype)) if bias and is_gated else None
        self.up_bias = nnx.Param(jnp.zeros((num_experts, hidden), dtype)) if bias else None
        self.down_bias = nnx.Param(jnp.zeros((num_experts, width), dtype)) if bias else None

    def __call__(self, x_TD: Array, index_TK: Array, is_real_TK: Array) -> Array:
        """Return the outputs [T, top_k, D] of each token's experts, without the bias of down.

        Those of padding hold any finite numbers.
        """
        layers = (self.up, self.down) if self.gate is None else (self.gate, self.up, self.down)
        kernels = tuple(layer.get_value() for layer in layers)
        ways = {name: partial(way, kernels=kernels) for name, way in self._choose_ways(kernels).items()}
        if len(ways) == 1:
            return ways["default"](x_TD, index_TK, is_real_TK)
        return lax.platform_dependent(x_TD, index_TK, is_real_TK, **ways)

    def _choose_ways(self, kernels: tuple[ExpertKernel, ...]) -> dict[str, Callable[..., Array]]:
        """Return the way to compute with such kernels by platform, as JAX calls it; "default" is that of all others."""
        packed = [kernel for kernel in kernels if isinstance(kernel, quant.PackedWeight)]
        if packed:
            return {"default": self._run_native if len(packed) == len(kernels) and packed[0].native else self._loop}
        cuda = {"cuda": self._run_blocks} if all(map(_has_gpu_product, kernels)) else {}
        if any(isinstance(kernel, ScaledWeight) for kernel in kernels):
            return {"default": self._loop, **cuda}  # ragged_dot would expand all experts
        dtypes = [kernel.dtype for kernel in kernels if isinstance(kernel, Array)]
        has_native = all(dtype in NATIVE_TYPES for dtype in dtypes) and library.is_usable()
        return {"cpu": self._run_native if has_native else self._loop, "default": self._run_ragged, **cuda}

    def _run_native(self, x_TD: Array, index_TK: Array, is_real_TK: Array, kernels: tuple) -> Array:
        return self._run_sorted(x_TD, index_TK, is_real_TK, kernels, native_products)

    def _run_ragged(self, x_TD: Array, index_TK: Array, is_real_TK: Array, kernels: tuple) -> Array:
        return self._run_sorted(x_TD, index_TK, is_real_TK, kernels, ragged_products)

    def _run_sorted(
        self, x_TD: Array, index_TK: Array, is_real_TK: Array, kernels: tuple, products: ExpertProducts
    ) -> Array:
        rows = group_by_expert(index_TK, _num_experts(kernels[0]), is_real_TK)
        *into_hidden, down = kernels
        hidden = products(x_TD[rows.token_S], rows.count_E, *into_hidden)
        (y_SD,) = products(self._epilogue.apply(hidden, rows.expert_X), rows.count_E, down)
        return y_SD[rows.row_A].reshape(*index_TK.shape, -1)

    def _run_blocks(
        self,
        x_TD: Array,
        index_TK: Array,
        is_real_TK: Array,
        kernels: tuple[ExpertKernel, ...],
        products: ExpertProducts | None = None,
    ) -> Array:
        """Run a product that takes blocks of rows of one expert: `multiply_blocks`, if none is given."""
        products = products or multiply_blocks
        num_rows = choose_rows(-(-index_TK.size // self.num_experts))  # index_TK has choices of all ranks' experts
        blocks = group_by_expert(index_TK, _num_experts(kernels[0]), is_real_TK, num_rows)
        places = BlockExperts(blocks.expert_X, blocks.num_blocks[None], blocks.token_S)
        *into_hidden, down = kernels
        (hidden_SF,) = products(x_TD, places, *into_hidden, rows=num_rows, epilogue=self._epilogue)
        (y_SD,) = products(hidden_SF, places._replace(row_S=None), down, rows=num_rows)
        return y_SD[blocks.row_A].reshape(*index_TK.shape, -1)

    def _loop(self, x_TD: Array, index_TK: Array, is_real_TK: Array, kernels: tuple) -> Array:
        tokens = len(x_TD)
        num_rows = min(ROWS_OF_FEW if tokens <= FEW_TOKENS else ROWS_OF_MANY, tokens)
        blocks = group_by_expert(index_TK, _num_experts(kernels[0]), is_real_TK, num_rows)
        x_SD = x_TD[blocks.token_S]

        def run_block(block: Array, out_SD: Array) -> Array:
            start, expert = block * blocks.rows, blocks.expert_X[block]
            *into_hidden, down = (_kernel_of(kernel, expert) for kernel in kernels)
            x_RD = lax.dynamic_slice_in_dim(x_SD, start, blocks.rows)
            (y_RD,) = multiply(self._epilogue.apply(multiply(x_RD, *into_hidden), expert), down)
            return lax.dynamic_update_slice_in_dim(out_SD, y_RD, start, axis=0)

        y_SD = lax.fori_loop(0, blocks.num_blocks, run_block, jnp.zeros_like(x_SD))
        return y_SD[blocks.row_A].reshape(*index_TK.shape, -1)

    @property
    def _epilogue(self) -> Epilogue:
        """What makes hidden numbers of the products of gate and up, or of up alone."""
        biases = tuple(bias[...] for bias in (self.gate_bias, self.up_bias) if bias is not None)
        return Epilogue(self._combine, biases, has_kernel=self.activation != "gelu")  # which is erf

    def _combine(self, first: Array, *others: Array) -> Array:
        if self.gate is not None:
            (up,) = others
            return apply_gate(first, up, self.activation)
        assert not isinstance(self.activation, ClampedSwiGLU)
        return ACTIVATIONS[self.activation](first)


def native_products(x_SI: Array, count_E: Array, *kernels: Array | quant.PackedWeight) -> tuple[Array, ...]:
    """Return the products [S, O] of rows sorted by expert, count_E of each, with the matrices of their experts.

    Only experts that have rows are read. The bits of a row depend on that row alone. Rows that are not counted give 0.
    """
    packed = [kernel for kernel in kernels if isinstance(kernel, quant.PackedWeight)]
    if packed:
        return quant.packed_expert_matmul(x_SI, count_E, *packed)
    plain = [kernel for kernel in kernels if not isinstance(kernel, quant.PackedWeight)]
    shapes = tuple(jax.ShapeDtypeStruct((len(x_SI), kernel.shape[-1]), jnp.float32) for kernel in plain)
    outputs = jax.ffi.ffi_call("jaxserve_experts", shapes)(x_SI.astype(jnp.float32), count_E, *plain)
    return tuple(y.astype(x_SI.dtype) for y in outputs)


def ragged_products(x_SI: Array, count_E: Array, *kernels: Array) -> tuple[Array, ...]:
    """Return what `native_products` does, on any device, for kernels that are not packed."""
    product = partial(lax.ragged_dot, group_sizes=count_E, precision=matmul_precision(x_SI.dtype))
    return tuple(product(x_SI, kernel_EIO).astype(x_SI.dtype) for kernel_EIO in kernels)


def multiply_blocks(
    x_TI: Array,
    blocks: BlockExperts,
    *kernels: Array | ScaledWeight,
    rows: int,
    epilogue: Epilogue | None = None,
    interpret: bool = False,
) -> tuple[Array, ...]:
    """Return the products [S, out] of blocks of `rows` rows with the weights of their experts, on NVIDIA GPUs.

    epilogue   What it makes of them is returned, one array.
    """
    options = {"rows": rows, "interpret": interpret}
    codes = [take_codes(kernel) for kernel in kernels if isinstance(kernel, ScaledWeight) and kernel.kind == "int4"]
    if not codes:
        weights = (
            ExpertWeight(kernel.data, kernel.scale) if isinstance(kernel, ScaledWeight) else ExpertWeight(kernel)
            for kernel in kernels
        )
        return expert_matmul(x_TI, blocks, *weights, epilogue=epilogue, **options)
    if len(codes) == len(kernels):
        products = int4_expert_matmul(x_TI, blocks, *codes, **options)
    else:
        products = tuple(multiply_blocks(x_TI, blocks, kernel, **options)[0] for kernel in kernels)
    return products if epilogue is None else (epilogue.apply(products, jnp.repeat(blocks.expert_X, rows)),)


def _has_gpu_product(kernel: ExpertKernel) -> bool:
    """Return whether `multiply_blocks` takes a kernel; gpu_tiles.py says which of 8 bits it does not."""
    if not isinstance(kernel, ScaledWeight):
        return not isinstance(kernel, quant.PackedWeight)
    return kernel.has_kernel if kernel.kind == "int4" else not 2**31 < kernel.data.size <= 2**32


def _num_experts(kernel_EIO: ExpertKernel) -> int:
    return (kernel_EIO.data if isinstance(kernel_EIO, quant.PackedWeight) else kernel_EIO).shape[0]


def _kernel_of(kernel_EIO: ExpertKernel, expert: Array) -> ExpertKernel:
    if isinstance(kernel_EIO, ScaledWeight):
        return take_expert(kernel_EIO, expert)
    if isinstance(kernel_EIO, quant.PackedWeight):
        return replace(kernel_EIO, data=lax.dynamic_index_in_dim(kernel_EIO.data, expert, keepdims=False))
    return lax.dynamic_index_in_dim(kernel_EIO, expert, keepdims=False)
