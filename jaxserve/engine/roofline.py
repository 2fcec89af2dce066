"""What a step must move and compute, what this machine can, and so how near to its limits it runs.

Counted is what the plan asks for, whatever shape it is padded to: every call reads the weights once, and the live
keys and values of its rows. Norms, rotations and the sampler are left out; they are a percent or two.
"""

import json
import os
import re
import time
from collections import Counter
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
from jaxserve.models.spec import DecoderSpec, attention_projections, mlp_projections

PROBE_S = 0.25  # for both limits together
MIB = 1 << 20
# Large enough for the limit to show, small enough for a few runs within the probe's time.
_READ_BYTES = {"cpu": 128 * MIB}
_SQUARE = {"cpu": 1024}


@dataclass(frozen=True, slots=True)
class Limits:
    """What the device reads from memory, and multiplies, at its best."""

    bytes_per_s: float
    flops_per_s: float

    def __str__(self) -> str:
        return f"reads {self.bytes_per_s / 1e9:.1f} GB/s, multiplies {self.flops_per_s / 1e9:.0f} GFLOP/s"


@dataclass(frozen=True, slots=True)
class Work:
    """Bytes and floating-point operations, and the least seconds they take on a machine with the given limits."""

    num_bytes: float
    flops: float
    floor_s: float


class Roofline:
    """Counts the work of plans for one network on one machine."""

    def __init__(self, spec: DecoderSpec, itemsize: int, limits: Limits, quantization: Quantization = "none") -> None:
        self.limits = limits
        self._body = spec.num_layers * sum(
            a * b for _, a, b, _ in (*attention_projections(spec), *mlp_projections(spec))
        )
        self._head = spec.vocab_size * spec.width
        if quantization == "none":
            self._weight_bytes = float(itemsize * (self._body + self._head))
        else:
            self._weight_bytes = bytes_per_weight(quantization) * self._body + bytes_per_weight("int8") * self._head
        self._layers_by_window = tuple(Counter(spec.windows).items())
        self._bytes_a_position = 2 * spec.num_kv_heads * spec.head_dim * itemsize  # in one layer
        self._flops_a_position = 4 * spec.num_heads * spec.head_dim  # for one query in one layer

    def work(self, plan: StepPlan) -> Work:
        """All calls of a step together."""
        calls = [self._chunk(chunk) for chunk in plan.chunks] + [self._decode(batch) for batch in plan.beams]
        if plan.decode is not None:
            calls.append(self._decode(plan.decode))
        limits = self.limits
        return Work(
            num_bytes=sum(num_bytes for num_bytes, _ in calls),
            flops=sum(flops for _, flops in calls),
            floor_s=sum(max(num_bytes / limits.bytes_per_s, flops / limits.flops_per_s) for num_bytes, flops in calls),
        )

    def _decode(self, batch: DecodeBatch) -> tuple[float, float]:
        live_B = batch.position_B + 1
        seen = 0.0
        for window, layers in self._layers_by_window:
            seen += layers * float((live_B if window is None else np.minimum(live_B, window)).sum())
        return self._call(tokens=len(batch), drawn=len(batch), read=seen, seen=seen)

    def _chunk(self, chunk: Chunk) -> tuple[float, float]:
        start, end = chunk.start, chunk.end
        read = seen = 0.0
        for window, layers in self._layers_by_window:
            reach = end if window is None else window
            read += layers * (end - max(0, start + 1 - reach))
            seen += layers * (_ramp(end, reach) - _ramp(start, reach))
        return self._call(tokens=end - start, drawn=1, read=read, seen=seen)

    def _call(self, *, tokens: int, drawn: int, read: float, seen: float) -> tuple[float, float]:
        """read: positions read, by layer; seen: pairs of a query and a position it attends to, by layer."""
        num_bytes = self._weight_bytes + read * self._bytes_a_position
        flops = 2 * (self._body * tokens + self._head * drawn) + seen * self._flops_a_position
        return num_bytes, flops


def _ramp(end: int, reach: int) -> float:
    """Positions that the queries 0 .. end-1 see, when each sees itself and what is at most `reach` - 1 before it."""
    rising = min(end, reach)
    return rising * (rising + 1) / 2 + (end - rising) * reach


def limits_of(device: Any, dtype: np.dtype, quantization: Quantization = "none") -> Limits:
    """This machine's limits for these weights: measured once, then read from the user's cache directory."""
    kind = re.sub(r"[^A-Za-z0-9.]+", "-", device.device_kind)
    path = cache_dir("limits") / f"{machine_key()}-{kind}-{_num_cores()}-cores-{_weights(dtype, quantization)}.json"
    limits = _remembered(path)
    if limits is None:
        limits = measure(device, dtype, quantization=quantization)
        _remember(path, limits)
    return limits


def measure(device: Any, dtype: np.dtype, probe_s: float = PROBE_S, quantization: Quantization = "none") -> Limits:
    """The best of as many runs as fit into the time: a sum over a large array, and a square matrix product.

    With a quantization the product is one of packed weights, whose integers may be multiplied faster than floats.
    """
    num_bytes, side = _READ_BYTES.get(device.platform, 1024 * MIB), _SQUARE.get(device.platform, 8192)
    with jax.default_device(device):
        numbers, square = jnp.ones(num_bytes // dtype.itemsize, dtype), jnp.ones((side, side), dtype)
    total = jax.jit(lambda x: jnp.sum(x, dtype=jnp.float32))
    weight = square if quantization == "none" else _packed(quantization, side)
    product = jax.jit(lambda a, b: a @ b if quantization == "none" else quant.packed_matmul(a, b)[0])
    limits = Limits(
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


def _remembered(path: Path) -> Limits | None:
    try:
        limits = Limits(**json.loads(path.read_text()))
        return limits if limits.bytes_per_s > 0 and limits.flops_per_s > 0 else None
    except (OSError, ValueError, TypeError):
        return None


def _remember(path: Path, limits: Limits) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(limits)))
    except OSError:
        pass  # then it is measured again next time


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
