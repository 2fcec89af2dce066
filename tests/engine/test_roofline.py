"""The work of a step is counted as by hand, the limits are measured once, and without a roofline nothing is counted."""

import math
import os
from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jaxserve.engine import roofline as module
from jaxserve.engine.engine import Engine
from jaxserve.engine.fault_injection import limit_disk
from jaxserve.engine.plan import Chunk, DecodeBatch, StepPlan
from jaxserve.engine.roofline import PeakRates, Roofline, StepCost, get_peak_rates, measure_peak_rates
from jaxserve.faults import Faults
from jaxserve.layers.norms import NormSpec
from jaxserve.layers.quant import bytes_per_weight
from jaxserve.layers.rope import RopeSpec
from jaxserve.models.cost import decoder_cost
from jaxserve.models.latent_spec import LatentAttentionSpec
from jaxserve.models.spec import AttentionSpec, DecoderSpec, LayerSpec, MLPSpec
from jaxserve.sampling.columns import empty_row
from jaxserve.sampling.sampler import SampleMode
from tests.models.specs import PLAIN_BASES

WEIGHTS = 3 * (8 * 8 * 2 + 8 * 4 * 2 + 3 * 8 * 20)  # query and output, key and value, and the feed-forward block
HEAD = 50 * 8
ONE = PeakRates(1.0, 1.0)


def cost(windows=(None, None, None)):
    attention = AttentionSpec(num_heads=4, num_kv_heads=2, head_dim=2, scale=1.0, rope=RopeSpec(theta=10_000.0))
    layers = (LayerSpec(attention=replace(attention, window=window), mlp=MLPSpec(hidden=20)) for window in windows)
    spec = DecoderSpec(
        architecture_name="Hand",
        vocab_size=50,
        width=8,
        max_position_embeddings=100,
        norm=NormSpec(1e-5),
        layers=tuple(layers),
    )
    return decoder_cost(spec)


def decode(*positions):
    n = len(positions)
    zeros = np.zeros((n, 4), np.int32)
    batch = DecodeBatch(tuple(range(n)), (0,) * n, np.arange(n), positions, zeros, zeros, mode=SampleMode.GREEDY)
    return StepPlan(decode=batch)


def chunk(start, end):
    ids = np.arange(start, end)
    return StepPlan(chunks=(Chunk(0, 0, 0, start, ids, np.zeros(4), empty_row(), SampleMode.GREEDY, is_last=True),))


def test_latents_are_read_once_for_keys_and_values_and_their_matrices_are_never_packed():
    spec = PLAIN_BASES[LatentAttentionSpec]
    attention, work = spec.layers[0].attention, decoder_cost(spec)
    own = sum(math.prod(array.shape) for array in attention.arrays())
    packed = bytes_per_weight("int8") * (work.body - own + work.head)
    estimate = Roofline(work, 4, ONE, "int8").estimate(decode(9))
    assert estimate.num_bytes == packed + 4 * own + 4 * 10 * (attention.latent_dim + attention.rotary_dim)


def test_a_decode_step_reads_the_weights_once_and_each_rows_positions():
    work = Roofline(cost(), 4, ONE).estimate(decode(9, 19))
    assert work.num_bytes == 4 * (WEIGHTS + HEAD + 3 * 30 * 2 * 2 * 2)
    assert work.flops == 2 * 2 * (WEIGHTS + HEAD) + 3 * 30 * 4 * 4 * 2
    assert work.roofline_s == max(work.num_bytes, work.flops)


def test_each_token_of_rows_that_get_several_is_a_call():
    work, several = Roofline(cost((None, 5, None)), 4, ONE), replace(decode(3, 19).decode, max_tokens=3)
    singles = [work.estimate(decode(3 + number, 19 + number)) for number in range(3)]
    estimate = work.estimate(StepPlan(decode=several))
    assert estimate.num_bytes == sum(single.num_bytes for single in singles)
    assert estimate.flops == sum(single.flops for single in singles)


def test_other_rates_change_the_time_alone():
    work, twice = Roofline(cost(), 4, ONE), Roofline(cost(), 4, ONE).with_peak_rates(PeakRates(2.0, 2.0))
    expected = work.estimate(decode(9))
    assert twice.estimate(decode(9)) == replace(expected, roofline_s=expected.roofline_s / 2)


def test_small_numbers_and_their_scales_are_read_and_weights_as_before():
    work = Roofline(cost(), 4, ONE, page_type=np.dtype("int8")).estimate(decode(9, 19))
    assert work.num_bytes == 4 * (WEIGHTS + HEAD) + 3 * 30 * 2 * 2 * (2 + 4)
    assert Roofline(cost(), 4, ONE, page_type=np.dtype("float16")).estimate(decode(9)).num_bytes == (
        4 * (WEIGHTS + HEAD) + 3 * 10 * 2 * 2 * 2 * 2
    )


@pytest.mark.parametrize("windows", [(None,) * 3, (5, None, 3), (40, 40, 40)])
def test_a_chunk_attends_as_its_tokens_one_by_one(windows):
    counted = Roofline(cost(windows), 4, ONE)
    singles = [counted.estimate(decode(at)).flops for at in range(7, 23)]
    assert counted.estimate(chunk(7, 23)).flops == sum(singles) - 15 * 2 * HEAD
    assert counted.estimate(chunk(22, 23)) == counted.estimate(decode(22))


def test_every_call_has_its_own_floor():
    both = StepPlan(decode(9).decode, chunk(0, 16).chunks)
    counted = Roofline(cost(), 2, PeakRates(1000.0, 10.0))
    apart = [counted.estimate(plan) for plan in (decode(9), chunk(0, 16))]
    assert counted.estimate(both).roofline_s == pytest.approx(sum(one.roofline_s for one in apart))


def test_the_limits_are_measured_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    asked = []
    monkeypatch.setattr(
        module, "measure_peak_rates", lambda device, dtype, quantization: asked.append(dtype) or PeakRates(2.0, 3.0)
    )
    device, dtype = jax.devices()[:1], np.dtype(np.float32)
    assert get_peak_rates(device, dtype) == get_peak_rates(device, dtype) == PeakRates(2.0, 3.0)
    assert len(asked) == 1
    (file,) = (tmp_path / "jaxserve" / "limits").iterdir()
    file.write_text("half a fi")
    assert get_peak_rates(device, dtype) == PeakRates(2.0, 3.0)
    assert len(asked) == 2


def test_limits_that_cannot_be_kept_cost_a_warning(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(module, "measure_peak_rates", lambda *_, **__: PeakRates(2.0, 3.0))
    monkeypatch.setattr(os, "replace", os.replace)
    limit_disk(Faults(["disk_full@1"]))
    assert get_peak_rates(jax.devices()[:1], np.dtype(np.float32)) == PeakRates(2.0, 3.0)
    assert caplog.text.count("measured at every start") == caplog.text.count("No space left") == 1
    assert not list((tmp_path / "jaxserve" / "limits").iterdir())


@pytest.mark.parametrize(("platform", "times"), [("gpu", 4), ("cpu", 1)])
def test_accelerators_add_up_and_the_devices_of_a_cpu_are_one(platform, times, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(module, "measure_peak_rates", lambda *_, **__: PeakRates(2.0, 3.0))
    devices = [SimpleNamespace(platform=platform, device_kind="a kind")] * 4
    assert get_peak_rates(devices, np.dtype(np.float32)) == PeakRates(2.0 * times, 3.0 * times)


def test_a_probe_finds_positive_limits(monkeypatch):
    monkeypatch.setattr(module, "_READ_BYTES", {"cpu": module.MIB})
    monkeypatch.setattr(module, "_MATMUL_SIDE", {"cpu": 64})
    limits = measure_peak_rates(jax.devices()[0], np.dtype(np.float32), probe_s=0.0)
    assert limits.bytes_per_s > 0 and limits.flops_per_s > 0
    assert "GB/s" in str(limits)


def test_steps_are_counted_with_a_roofline_and_not_without(bench, built):
    some = bench()
    some.add(1, list(range(20)), tokens=4)
    some.run()
    assert [some.counter(f"step_{what}") for what in ("bytes", "flops", "device_seconds")] == [0, 0, 0]

    class OneEach:
        def estimate(self, plan):
            return StepCost(1.0, 2.0, 0.25)

    some = bench()
    some.engine = Engine(some.scheduler, built.engine.runner, overlap=False, roofline=OneEach())
    some.add(1, list(range(20)), tokens=4)
    some.run()
    assert some.counter("step_bytes") == some.counter("engine_steps") == 4
    assert (some.counter("step_flops"), some.counter("step_roofline_seconds")) == (8, 1)
    assert some.counter("step_device_seconds") > 0


def test_the_table_at_the_start_names_the_limits(built):
    assert "GFLOP/s" in built.description["limits"]
