"""The products of int4 weights and of experts by kernels for GPUs, compiled on the device at hand and held to float32.

Used by scripts/device run and rehearse.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxserve.layers.experts_gpu import ExpertWeight, expert_matmul
from jaxserve.layers.gpu_tiles import BlockExperts
from jaxserve.layers.int4_gpu import Codes, int4_expert_matmul, int4_matmul
from scripts.device_checks.contract import TOLERANCE

GROUP = 128
BLOCK_ROWS = 16


@dataclass(frozen=True)
class Case:
    """Weights [in, out] that share an input.

    experts   So many weights are stacked, and each block of BLOCK_ROWS rows has one of them; 0: there is one.
    group     Inputs of a group of int4.
    kind      Of the numbers: int4, that of the activations (""), or a dtype of 8 bits.
    """

    rows: int
    width_in: int
    widths_out: tuple[int, ...]
    experts: int = 0
    group: int = GROUP
    kind: str = "int4"

    @property
    def name(self) -> str:
        """What the record is called."""
        experts = f", {self.experts} experts" if self.experts else ""
        return f"{self.rows} rows, {self.width_in} to {'+'.join(map(str, self.widths_out))}{experts}, {self.kind}"


CASES = (
    *(Case(rows, 4096, (4096, 1024, 1024)) for rows in (1, 8, 32, 64, 128, 2048)),
    Case(17, 2880, (4096, 2880), group=64),
    Case(300, 1024, (200,)),
    Case(64, 2048, (768, 768), experts=8),
    *(Case(64, 2880, (2880, 768), experts=8, kind=kind) for kind in ("", "int8", "float8_e4m3fn")),
    Case(2048, 1032, (200,), experts=8, kind=""),
)
TINY = (
    Case(5, 256, (200,)),
    Case(32, 128, (64,), experts=2),
    Case(32, 72, (40,), experts=2, kind=""),
    Case(32, 72, (40,), experts=2, kind="int8"),
)


def run(cases: tuple[Case, ...], platform: str, *, is_interpreted: bool = False) -> Iterator[dict[str, Any]]:
    """Yield a record for each dtype and case; on other platforms than GPUs only if it is interpreted."""
    about = {"kind": "contract", "backend": "products"}
    if platform != "gpu" and not is_interpreted:
        yield about | {"outcome": "skipped", "why": f"not made for {platform}"}
        return
    for dtype, tolerance in TOLERANCE.items():
        for case in cases:
            record = about | {"dtype": dtype, "case": case.name}
            try:
                error = compare(case, dtype, is_interpreted=is_interpreted)
            except Exception as error:  # one broken kernel must not hide what the others do
                yield record | {"outcome": "failed", "why": f"{type(error).__name__}: {error}"[:500]}
                continue
            outcome = "passed" if error <= tolerance else "failed"
            yield record | {"outcome": outcome, "error": error, "tolerance": tolerance}


def compare(case: Case, dtype: str, *, is_interpreted: bool) -> float:
    """Return the greatest difference from the products of the dequantised weights, which are about 1."""
    product, (x_TI, blocks, *weights) = prepare(case, dtype, is_interpreted=is_interpreted)
    outputs = product(x_TI, blocks, *weights)
    expert_T = np.zeros(case.rows, np.int32) if blocks is None else np.repeat(np.asarray(blocks.expert_X), BLOCK_ROWS)
    rows = np.asarray(x_TI, np.float32)
    errors = []
    for y_TO, weight in zip(outputs, weights, strict=True):
        value_EIO = dequantize(weight)
        for expert in np.unique(expert_T):
            is_its = expert_T == expert
            errors.append(np.abs(np.asarray(y_TO, np.float32)[is_its] - rows[is_its] @ value_EIO[expert]).max())
    return float(max(errors, key=lambda error: (np.isnan(error), error)))


def prepare(case: Case, dtype: str, *, is_interpreted: bool) -> tuple[Any, tuple[Any, ...]]:
    """Return a jitted product and its arguments: the activations, the experts of their blocks or None, the weights."""
    rng = np.random.default_rng(case.rows)
    x_TI = jnp.asarray(rng.standard_normal((case.rows, case.width_in), np.float32), dtype)
    weights = [draw_weight(rng, case, width_out, dtype) for width_out in case.widths_out]
    blocks = None
    if case.experts:
        expert_X = rng.integers(0, case.experts, case.rows // BLOCK_ROWS).astype(np.int32)
        blocks = BlockExperts(jnp.asarray(expert_X), jnp.asarray([len(expert_X)], jnp.int32))
    many: Any = int4_expert_matmul if case.kind == "int4" else expert_matmul

    def product(x_TI: Any, blocks: BlockExperts | None, *weights: Any) -> Any:
        if blocks is None:
            return int4_matmul(x_TI, *weights, interpret=is_interpreted)
        return many(x_TI, blocks, *weights, rows=BLOCK_ROWS, interpret=is_interpreted)

    return jax.jit(product), (x_TI, blocks, *weights)


def draw_weight(rng: np.random.Generator, case: Case, width_out: int, dtype: str) -> Codes | ExpertWeight:
    """Return a weight of any numbers. dtype: of the activations."""
    if case.kind != "int4":
        value_EIO = rng.uniform(-1, 1, (case.experts, case.width_in, width_out)).astype(np.float32)
        scale = np.float32(1.7 / case.width_in**0.5)
        if not case.kind:
            return ExpertWeight(jnp.asarray(value_EIO * scale, dtype))
        scale_EO = np.full((case.experts, width_out), scale / 100, np.float32)
        return ExpertWeight(jnp.asarray(100 * value_EIO).astype(case.kind), jnp.asarray(scale_EO))
    shape = (max(1, case.experts), case.width_in // case.group, width_out)
    scale = rng.uniform(0.5, 1.5, shape).astype(np.float32) / np.float32(4.6 * case.width_in**0.5)
    words = rng.integers(0, 2**16, (*shape, case.group // 4), np.uint16)
    return Codes(jnp.asarray(words), jnp.asarray(scale))


def dequantize(weight: Codes | ExpertWeight) -> np.ndarray:
    """Return the values [experts, in, out] on the host, as the classes document them."""
    if isinstance(weight, ExpertWeight):
        value_EIO = np.asarray(weight.data_EIO).astype(np.float32)
        return value_EIO if weight.scale_EO is None else value_EIO * np.asarray(weight.scale_EO)[:, None]
    word_EGOQ = np.asarray(weight.data_EGOQ)
    parts = [(word_EGOQ >> shift & 15).astype(np.float32) - 8 for shift in (0, 4, 8, 12)]
    value_EGOI = np.concatenate(parts, axis=-1) * np.asarray(weight.scale_EGO)[..., None]
    num_experts, _, width_out, _ = word_EGOQ.shape
    return value_EGOI.swapaxes(2, 3).reshape(num_experts, -1, width_out)
