"""What a step must move and compute, what this machine can, and so how near to its limits it runs.

Counted is what the plan asks for, whatever shape it is padded to: every call reads the weights once, and the live
keys and values of its rows. Norms, rotations and the sampler are left out; they are a percent or two.
"""

import json
import os
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxserve.config import Quantization, cache_dir
from jaxserve.engine.compile import machine_key
from jaxserve.engine.plan import Chunk, DecodeBatch, StepPlan
from jaxserve.layers import quant
from jaxserve.layers.quant import bytes_per_weight
from jaxserve.models.cost import Cost

PROBE_S = 0.25  # for both limits together
MIB = 1 << 20
# Large enough for the limit to show, small enough for a few runs within the probe's time.
_READ_BYTES = {"cpu": 128 * MIB}
_MATMUL_SIDE = {"cpu": 1024}


@dataclass(frozen=True, slots=True)
class PeakRates:
    """What the device reads from memory, and multiplies, at its best."""

    bytes_per_s: float
    flops_per_s: float

    def __str__(self) -> str:
        return f"reads {self.bytes_per_s / 1e9:.1f} GB/s, multiplies {self.flops_per_s / 1e9:.0f} GFLOP/s"


@dataclass(frozen=True, slots=True)
class StepCost:
    """Bytes and floating-point operations, and the least seconds they take on a machine with the given limits."""

    num_bytes: float
    flops: float
    roofline_s: float


class Roofline:
    """Counts the work of plans for one network on one machine."""

    def __init__(self, cost: Cost, itemsize: int, peak_rates: PeakRates, quantization: Quantization = "none") -> None:
        self.peak_rates = peak_rates
        self._cost, self._itemsize = cost, itemsize
        self._bytes_per_weight = itemsize if quantization == "none" else bytes_per_weight(quantization)
        head_bytes = cost.head * (itemsize if quantization == "none" else bytes_per_weight("int8"))
        self._weight_bytes = float(self._bytes_per_weight * cost.body + head_bytes)

    def estimate(self, plan: StepPlan) -> StepCost:
        """All calls of a step together."""
        calls = [self._chunk(chunk) for chunk in plan.chunks] + [self._decode(batch) for batch in plan.beams]
        if plan.decode is not None:
            calls.append(self._decode(plan.decode))
        peak_rates = self.peak_rates
        return StepCost(
            num_bytes=sum(num_bytes for num_bytes, _ in calls),
            flops=sum(flops for _, flops in calls),
            roofline_s=sum(
                max(num_bytes / peak_rates.bytes_per_s, flops / peak_rates.flops_per_s) for num_bytes, flops in calls
            ),
        )

    def _decode(self, batch: DecodeBatch) -> tuple[float, float]:
        live_B = batch.position_B + 1
        num_bytes = flops = 0.0
        for layers in self._cost.attention:
            seen = float((live_B if layers.window is None else np.minimum(live_B, layers.window)).sum())
            num_bytes += layers.num_layers * seen * layers.cached_numbers * self._itemsize
            flops += layers.num_layers * seen * layers.flops
        return self._call(tokens=len(batch), drawn=len(batch), attention_bytes=num_bytes, attention_flops=flops)

    def _chunk(self, chunk: Chunk) -> tuple[float, float]:
        start, end = chunk.start, chunk.end
        num_bytes = flops = 0.0
        for layers in self._cost.attention:
            reach = end if layers.window is None else layers.window
            read = end - max(0, start + 1 - reach)
            num_bytes += layers.num_layers * read * layers.cached_numbers * self._itemsize
            flops += layers.num_layers * (_ramp(end, reach) - _ramp(start, reach)) * layers.flops
        return self._call(tokens=end - start, drawn=1, attention_bytes=num_bytes, attention_flops=flops)

    def _call(self, *, tokens: int, drawn: int, attention_bytes: float, attention_flops: float) -> tuple[float, float]:
        """Bytes and operations of one call of a program: its weights, its tokens, and their attention."""
        flops = 2 * (self._cost.body * tokens + self._cost.head * drawn) + attention_flops
        num_bytes = self._weight_bytes + attention_bytes
        for layers in self._cost.experts:
            flops += 2 * layers.num_layers * layers.top_k * layers.weights * tokens
            num_bytes += layers.num_layers * layers.num_read(tokens) * layers.weights * self._bytes_per_weight
        return num_bytes, flops


def _ramp(end: int, reach: int) -> float:
    """Positions that the queries 0 .. end-1 see, when each sees itself and what is at most `reach` - 1 before it."""
    rising = min(end, reach)
    return rising * (rising + 1) / 2 + (end - rising) * reach


def get_peak_rates(device: Any, dtype: np.dtype, quantization: Quantization = "none") -> PeakRates:
    """This machine's limits for these weights: measured once, then read from the user's cache directory."""
    kind = re.sub(r"[^A-Za-z0-9.]+", "-", device.device_kind)
    path = cache_dir("limits") / f"{machine_key()}-{kind}-{_num_cores()}-cores-{_weights(dtype, quantization)}.json"
    limits = _load(path)
    if limits is None:
        limits = measure_peak_rates(device, dtype, quantization=quantization)
        _save(path, limits)
    return limits


def measure_peak_rates(
    device: Any, dtype: np.dtype, probe_s: float = PROBE_S, quantization: Quantization = "none"
) -> PeakRates:
    """The best of as many runs as fit into the time: a sum over a large array, and a square matrix product.

    With a quantization the product is one of packed weights, whose integers may be multiplied faster than floats.
    """
    num_bytes, side = _READ_BYTES.get(device.platform, 1024 * MIB), _MATMUL_SIDE.get(device.platform, 8192)
    with jax.default_device(device):
        numbers, square = jnp.ones(num_bytes // dtype.itemsize, dtype), jnp.ones((side, side), dtype)
    total = jax.jit(lambda x: jnp.sum(x, dtype=jnp.float32))
    weight = square if quantization == "none" else _packed(quantization, side)
    product = jax.jit(lambda a, b: a @ b if quantization == "none" else quant.packed_matmul(a, b)[0])
    limits = PeakRates(
        bytes_per_s=num_bytes / _best_s(lambda: total(numbers), probe_s / 2),
        flops_per_s=2 * side**3 / _best_s(lambda: product(square, weight), probe_s / 2),
    )
    numbers.delete()
    square.delete()
    return limits


def _packed(kind: quant.PackedKind, side: int) -> quant.PackedWeight:
    weight = quant.abstract_packed(kind, side, side)
    return replace(weight, data=jnp.zeros(weight.data.shape, weight.data.dtype))


def _weights(dtype: np.dtype, quantization: Quantization) -> str:
    return str(dtype) if quantization == "none" else f"{dtype}-{quantization}"


def _best_s(work: Callable[[], Any], for_s: float) -> float:
    jax.block_until_ready(work())  # compiles
    best, began = float("inf"), time.perf_counter()
    while best == float("inf") or time.perf_counter() - began < for_s:
        started = time.perf_counter()
        jax.block_until_ready(work())
        best = min(best, time.perf_counter() - started)
    return best


def _load(path: Path) -> PeakRates | None:
    try:
        limits = PeakRates(**json.loads(path.read_text()))
        return limits if limits.bytes_per_s > 0 and limits.flops_per_s > 0 else None
    except (OSError, ValueError, TypeError):
        return None


def _save(path: Path, peak_rates: PeakRates) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(peak_rates)))
    except OSError:
        pass  # then it is measured again next time


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
