"""The roofline of a step: the bytes it must read, the operations it must compute, and the least time for them.

What the plan asks for is counted, without padding: every call of a program reads the weights once, and the keys and
values that its queries attend to. Norms, rotations and the sampler are left out; they are a percent or two.
Source: Williams, Waterman, Patterson, "Roofline: an insightful visual performance model" (2009).
"""

import json
import logging
import os
import re
import time
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxserve.attention.page_types import SCALE_DTYPE, has_scales
from jaxserve.config import Quantization, cache_dir
from jaxserve.engine.compile import machine_key
from jaxserve.engine.plan import Chunk, DecodeBatch, StepPlan
from jaxserve.layers import quant
from jaxserve.models.cost import AttentionCost, Cost
from jaxserve.private_files import NotPrivate, make_private_directory, write_private_file

log = logging.getLogger(__name__)

PROBE_S = 0.25  # for both measurements together
MIB = 1 << 20
# Large enough to reach the peak rate, small enough for a few runs within PROBE_S.
_READ_BYTES = {"cpu": 128 * MIB}
_MATMUL_SIDE = {"cpu": 1024}


@dataclass(frozen=True, slots=True)
class PeakRates:
    """The highest rates that a device reaches, or that those of a mesh reach together.

    bytes_per_s   Bytes read from memory per second.
    flops_per_s   Floating-point operations of a matrix product per second.
    """

    bytes_per_s: float
    flops_per_s: float

    def times(self, num_devices: int) -> "PeakRates":
        """Return the rates that several such devices reach together."""
        return PeakRates(num_devices * self.bytes_per_s, num_devices * self.flops_per_s)

    def __str__(self) -> str:
        return f"reads {self.bytes_per_s / 1e9:.1f} GB/s, multiplies {self.flops_per_s / 1e9:.0f} GFLOP/s"


@dataclass(frozen=True, slots=True)
class StepCost:
    """The bytes that a step must read, and the operations that it must compute.

    num_bytes    Bytes read from memory: weights, keys and values.
    flops        Floating-point operations.
    roofline_s   The least seconds that they take at the peak rates.
    """

    num_bytes: float
    flops: float
    roofline_s: float


class Roofline:
    """An estimator of the cost of plans, for one model on one mesh.

    cost           The model's weights and the work of its attention.
    itemsize       Bytes of a number of the activations.
    peak_rates     The rates of all its devices.
    quantization   How the weights are packed.
    packs_head     Whether those of the logits' product are, too.
    bytes_per_weight   Of packed weights, if `quantization` does not say it.
    page_type      The type of the numbers in pages; None: that of the activations.
    """

    def __init__(
        self,
        cost: Cost,
        itemsize: int,
        peak_rates: PeakRates,
        quantization: Quantization = "none",
        *,
        packs_head: bool = True,
        bytes_per_weight: float | None = None,
        page_type: np.dtype | None = None,
    ) -> None:
        self.peak_rates = peak_rates
        self._cost = cost
        if bytes_per_weight is None:
            assert quantization != "blocks", "their sizes differ"
            bytes_per_weight = itemsize if quantization == "none" else quant.bytes_per_weight(quantization)
        self._bytes_per_weight = bytes_per_weight
        is_plain = quantization == "none" or not packs_head
        head_bytes = cost.head * (itemsize if is_plain else quant.bytes_per_weight("int8"))
        body_bytes = self._bytes_per_weight * (cost.body - cost.unpacked) + itemsize * cost.unpacked
        self._weight_bytes = float(body_bytes + head_bytes)
        number_bytes = itemsize if page_type is None else page_type.itemsize
        scale_bytes = SCALE_DTYPE.dtype.itemsize if page_type is not None and has_scales(page_type) else 0

        def position_bytes(layers: AttentionCost) -> int:
            return layers.num_layers * (layers.cached_numbers * number_bytes + layers.cached_vectors * scale_bytes)

        self._attention = [
            (layers.window, position_bytes(layers), layers.num_layers * layers.flops) for layers in cost.attention
        ]  # window, bytes that a query reads for each position it sees, and operations

    def with_peak_rates(self, peak_rates: PeakRates) -> "Roofline":
        """Return an estimator of the same costs at other rates."""
        other = copy(self)
        other.peak_rates = peak_rates
        return other

    def estimate(self, plan: StepPlan) -> StepCost:
        """Return the cost of a step: the sum over its calls of compiled programs, all chunks in one.

        Each token of a row that may get several is a call, as if all rows got so many.
        """
        calls = [self._decode(batch, 0) for batch in plan.beams]
        if plan.chunks:
            calls.append(self._chunks(plan.chunks))
        if plan.decode is not None:
            calls += [self._decode(plan.decode, number) for number in range(plan.decode.max_tokens)]
        num_bytes = flops = roofline_s = 0.0
        for call_bytes, call_flops in calls:
            num_bytes += call_bytes
            flops += call_flops
            roofline_s += max(call_bytes / self.peak_rates.bytes_per_s, call_flops / self.peak_rates.flops_per_s)
        return StepCost(num_bytes, flops, roofline_s)

    def _decode(self, batch: DecodeBatch, number: int) -> tuple[float, float]:
        """Return bytes and operations of one token of each row, the one with this number, from 0."""
        num_bytes = flops = 0.0
        positions = [position + number for position in batch.positions]
        for window, position_bytes, position_flops in self._attention:
            before = positions if window is None else [min(position, window - 1) for position in positions]
            attended = len(positions) + sum(before)
            num_bytes += attended * position_bytes
            flops += attended * position_flops
        return self._call(tokens=len(batch), sampled=len(batch), attention_bytes=num_bytes, attention_flops=flops)

    def _chunks(self, chunks: Sequence[Chunk]) -> tuple[float, float]:
        num_bytes = flops = 0.0
        for chunk, (window, position_bytes, position_flops) in product(chunks, self._attention):
            start, end = chunk.start, chunk.end
            window = end if window is None else window
            num_bytes += (end - max(0, start + 1 - window)) * position_bytes
            flops += (_num_attended(end, window) - _num_attended(start, window)) * position_flops
        tokens = sum(len(chunk.token_ids) for chunk in chunks)
        return self._call(tokens=tokens, sampled=len(chunks), attention_bytes=num_bytes, attention_flops=flops)

    def _call(
        self, *, tokens: int, sampled: int, attention_bytes: float, attention_flops: float
    ) -> tuple[float, float]:
        """Return bytes and operations of one call: the weights, the products of its tokens, and their attention."""
        flops = 2 * (self._cost.body * tokens + self._cost.head * sampled) + attention_flops
        num_bytes = self._weight_bytes + attention_bytes + 2 * 4 * self._cost.states * sampled
        for layers in self._cost.experts:
            flops += 2 * layers.num_layers * layers.top_k * layers.weights * tokens
            num_bytes += layers.num_layers * layers.num_read(tokens) * layers.weights * self._bytes_per_weight
        return num_bytes, flops


def _num_attended(end: int, window: int) -> float:
    """Return the number of (query, position) pairs of queries 0 .. end-1 under causal attention with this window."""
    growing = min(end, window)  # queries that still attend to everything before them
    return growing * (growing + 1) / 2 + (end - growing) * window


def get_peak_rates(devices: Sequence[Any], dtype: np.dtype, quantization: Quantization = "none") -> PeakRates:
    """Return the peak rates that the devices of a mesh reach together, for weights of this kind.

    Those of one device are measured once, then read from the user's cache directory. Several devices of a CPU share its
    cores and its memory, and are as fast as one.
    """
    device = devices[0]
    kind = re.sub(r"[^A-Za-z0-9.]+", "-", device.device_kind)
    path = cache_dir("limits") / f"{machine_key()}-{kind}-{_num_cores()}-cores-{_weights(dtype, quantization)}.json"
    peak_rates = _load(path)
    if peak_rates is None:
        peak_rates = measure_peak_rates(device, dtype, quantization=quantization)
        _save(path, peak_rates)
    return peak_rates if device.platform == "cpu" else peak_rates.times(len(devices))


def measure_peak_rates(
    device: Any, dtype: np.dtype, probe_s: float = PROBE_S, quantization: Quantization = "none"
) -> PeakRates:
    """Measure a device's peak rates: the best of as many runs as fit into probe_s seconds.

    The bytes are those of a sum over a large array, the operations those of a square matrix product; with a
    quantization the product is one of packed weights on CPUs, whose integers may be multiplied faster than floats.
    """
    is_packed = quantization != "none" and device.platform == "cpu"
    num_bytes, side = _READ_BYTES.get(device.platform, 1024 * MIB), _MATMUL_SIDE.get(device.platform, 8192)
    with jax.default_device(device):
        numbers, square = jnp.ones(num_bytes // dtype.itemsize, dtype), jnp.ones((side, side), dtype)
    total = jax.jit(lambda x: jnp.sum(x, dtype=jnp.float32))
    weight = _packed(quantization, side) if is_packed else square
    matmul = jax.jit(lambda a, b: quant.packed_matmul(a, b)[0] if is_packed else a @ b)
    peak_rates = PeakRates(
        bytes_per_s=num_bytes / _best_s(lambda: total(numbers), probe_s / 2),
        flops_per_s=2 * side**3 / _best_s(lambda: matmul(square, weight), probe_s / 2),
    )
    numbers.delete()
    square.delete()
    return peak_rates


def _packed(quantization: Quantization, side: int) -> quant.PackedWeight:
    kind = "int4" if quantization == "blocks" else quantization  # all kinds of blocks are multiplied about as fast
    assert kind == "int8" or kind == "int4", "a CPU packs no others"
    weight = quant.abstract_packed(kind, side, side)
    return replace(weight, data=jnp.zeros(weight.data.shape, weight.data.dtype))


def _weights(dtype: np.dtype, quantization: Quantization) -> str:
    return str(dtype) if quantization == "none" else f"{dtype}-{quantization}"


def _best_s(run: Callable[[], Any], for_s: float) -> float:
    jax.block_until_ready(run())  # compiles
    best, started = float("inf"), time.perf_counter()
    while best == float("inf") or time.perf_counter() - started < for_s:
        run_started = time.perf_counter()
        jax.block_until_ready(run())
        best = min(best, time.perf_counter() - run_started)
    return best


def _load(path: Path) -> PeakRates | None:
    try:
        peak_rates = PeakRates(**json.loads(path.read_text()))
        return peak_rates if peak_rates.bytes_per_s > 0 and peak_rates.flops_per_s > 0 else None
    except (OSError, ValueError, TypeError):
        return None


def _save(path: Path, peak_rates: PeakRates) -> None:
    try:
        make_private_directory(path.parent)
        write_private_file(path, json.dumps(asdict(peak_rates)).encode())
    except (OSError, NotPrivate) as error:
        log.warning("the limits of this machine cannot be kept and are measured at every start: %s", error)


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
