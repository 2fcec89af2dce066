"""Random rows of blocks as GGUF files hold them, of every type that has a packed form."""

import gguf
import jax.numpy as jnp
import numpy as np

from jaxserve.layers import quant
from jaxserve.layers.block_forms import PackedKind
from jaxserve.weights.gguf_blocks import BLOCK_TYPES, split_blocks

FLOATS: dict[PackedKind, tuple[int, ...]] = {
    **{kind: (0,) for kind in ("int8", "q4_0", "q5_0", "iq4_nl", "iq4_xs")},
    **{kind: (0, 2) for kind in ("int4", "q5_1", "q4_k", "q5_k")},
    **{"q2_k": (80, 82), "q3_k": (108,), "q6_k": (208,)},
}
"""Where a block has numbers in float16."""


def random_rows(
    kind: PackedKind, width_out: int, width_in: int, *, seed: int = 0, scale: float = 0.02, byte: int | None = None
) -> np.ndarray:
    """Return uint8 [out, bytes of a row]. Any bytes are a block; its scales and minima are of about this size.

    byte   What all others are, instead of random ones.
    """
    rng = np.random.default_rng(seed)
    values, size = gguf.GGML_QUANT_SIZES[BLOCK_TYPES[kind]]
    block = rng.integers(0, 256, (width_out, width_in // values, size), np.uint8)
    if byte is not None:
        block[:] = byte
    for start in FLOATS[kind]:
        number = rng.normal(size=(*block.shape[:2], 1)) * scale
        block[..., start : start + 2] = number.astype(np.float16).view(np.uint8)
    return block.reshape(width_out, -1)


def pack_rows(kind: PackedKind, rows: np.ndarray, native: bool = False) -> quant.PackedWeight:
    """Return the packed weight [in, out] that holds the blocks of rows."""
    values, size = gguf.GGML_QUANT_SIZES[BLOCK_TYPES[kind]]
    announced = quant.abstract_packed(kind, rows.shape[1] // size * values, len(rows), native)
    data = np.full(announced.data.shape, 77, np.uint8)
    quant.pack_blocks(split_blocks(rows, kind), data)
    return quant.PackedWeight(jnp.asarray(data), kind, announced.width_in, announced.width_out, native)


def read_rows(kind: PackedKind, rows: np.ndarray) -> np.ndarray:
    """Return the values float32 [out, in] as the package reads them."""
    return gguf.dequantize(rows, BLOCK_TYPES[kind]).reshape(len(rows), -1)
