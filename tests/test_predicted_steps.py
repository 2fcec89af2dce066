"""`scripts/device compile --steps`: how a step's time is read from a program's text; nothing is compiled."""

import json
from dataclasses import astuple
from pathlib import Path
from types import SimpleNamespace

import pytest

from jaxserve.engine.roofline import PeakRates, Roofline
from jaxserve.models.cost import decoder_cost
from jaxserve.models.registry import find_architecture
from jaxserve.parallel.targets import TARGETS
from scripts.device_checks import predict_steps
from scripts.device_checks.compile_cases import STEP_MODELS, STEP_TARGETS
from scripts.device_checks.gpu_kernels import Case
from scripts.device_checks.shapes import COMPILED
from scripts.device_checks.step_costs import COLLECTIVE_S, Costs, list_operations, read_costs
from scripts.device_checks.step_table import PARTS, Attention, judge_step, merge, predict_step, show_steps

MEASUREMENTS = Path(__file__).parent.parent / "scripts" / "measurements"
V6E, H200 = TARGETS["v6e-8"], TARGETS["h200x8"]
TPU_PROGRAM = """
%fused_gather (p.1: bf16[1000,64], p.2: s32[8]) -> bf16[8,64] {
  ROOT %gather.9 = bf16[8,64]{1,0} gather(%p.1, %p.2), offset_dims={1}
}

ENTRY %main (w: bf16[64,64], t: bf16[1000,64]) -> bf16[8,64] {
  %w = bf16[64,64]{1,0:T(8,128)(2,1)} parameter(0)
  %t = bf16[1000,64]{1,0} parameter(1)
  %ids = s32[8]{0:T(128)S(1)} parameter(2)
  %copy-start.0 = (bf16[64,64]{1,0:S(1)}, bf16[64,64]{1,0}, u32[]{:S(2)}) copy-start(%w), cross_program_prefetch_index=0
  %copy-start = (bf16[64,64]{1,0:S(1)}, bf16[64,64]{1,0}, u32[]{:S(2)}) copy-start(%w)
  %copy-done = bf16[64,64]{1,0:S(1)} copy-done(%copy-start)
  %rows = bf16[8,64]{1,0} fusion(%t, %ids), kind=kCustom, calls=%fused_gather, metadata={op_name="jit(f)/embed"}
  %product = bf16[8,64]{1,0:S(1)} fusion(%rows, %copy-done), metadata={op_name="jit(f)/_run_layer/dot"}, CLASSIC
  %norm = bf16[8,64]{1,0} fusion(%product), metadata={op_name="jit(f)/_run_layer/mul"}, INVALID
  %kernel = bf16[8,64]{1,0} custom-call(%norm), custom_call_target="tpu_custom_call"
  %sum = bf16[8,64]{1,0} all-reduce(%kernel), to_apply=%add, metadata={op_name="jit(f)/_run_layer/psum"}
  ROOT %out = (bf16[8,64]{1,0}) tuple(%sum)
}
"""
for _kind, _cycles in (("CLASSIC", 1750), ("INVALID", 99999)):
    _estimate = f'"estimated_cycles":"{_cycles}","cost_model_type":"COST_MODEL_TYPE_{_kind}"'
    TPU_PROGRAM = TPU_PROGRAM.replace(f", {_kind}", f", backend_config={{{_estimate}}}")


def test_each_instruction_of_a_tpu_program_costs_what_its_part_says():
    layers, outside = read_costs(TPU_PROGRAM, V6E)
    array = 8 * 64 * 2
    assert layers.matmul_s == pytest.approx(1e-6)  # 1,750 cycles of 1.75 GHz
    assert layers.prefetch_bytes == 64 * 64 * 2  # not that of the step before
    assert layers.operation_bytes == array  # the norm writes to memory, and reads what is near
    assert layers.collective_s == pytest.approx(2 * 7 / 8 * array / V6E.link_bytes_per_s + COLLECTIVE_S["tpu"])
    assert layers.idle_s == pytest.approx(1e-6 - array / V6E.bytes_per_s)
    assert outside == Costs(operation_bytes=2 * array, num_operations=1)  # rows of the table, not all of it


GPU_PROGRAM = """
%gemm_fusion_dot.1_computation (p.1: bf16[32,4096], p.2: bf16[4096,1024]) -> f32[32,1024] {
  %p.1 = bf16[32,4096]{1,0} parameter(0)
  %p.2 = bf16[4096,1024]{1,0} parameter(1)
  ROOT %dot.1 = f32[32,1024]{1,0} dot(%p.1, %p.2), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

ENTRY %main (x: bf16[ROWS,4096], w: bf16[4096,1024]) -> f32[ROWS,1024] {
  %x = bf16[32,4096]{1,0} parameter(0)
  %w = bf16[4096,1024]{1,0} parameter(1)
  ROOT %y = f32[32,1024]{1,0} fusion(%x, %w), calls=%gemm_fusion_dot.1_computation, metadata={op_name="_run_layer/dot"}
}
"""


EXPERTS = """
ENTRY %main (x: bf16[32,64], gate: bf16[8,64,256]) -> bf16[1,176,256] {
  %x = bf16[32,64]{1,0} parameter(0)
  %gate = bf16[8,64,256]{2,1,0} parameter(1)
  %up = bf16[8,64,256]{2,1,0} parameter(2)
  %i = s32[11]{0} parameter(3)
  %num = s32[1]{0} parameter(4)
  %row = s32[176]{0} parameter(5)
  ROOT %y = bf16[1,176,256]{2,1,0} custom-call(%x, %gate, %up, %i, %num, /*index=5*/%row), custom_call_target="t", \
operand_layout_constraints={bf16[32,64]{1,0}, bf16[8,64,256]{2,1,0}, bf16[8,64,256]{2,1,0}, s32[11]{0}, s32[1]{0}, \
s32[176]{0}}, metadata={op_name="_run_layer/mlp/expert_matmul/pallas_call"}
}
"""


@pytest.mark.parametrize("is_slow", [False, True])
def test_experts_on_a_gpu_take_the_time_of_their_bytes_or_of_their_rows_products(is_slow):
    target = SimpleNamespace(platform="gpu", bytes_per_s=1.0, flops_per_s=1.0 if is_slow else 1e9)
    layers, _ = read_costs(EXPERTS, target)
    num_bytes = 2 * (32 * 64 + 2 * 8 * 64 * 256 + 176 * 256) + 4 * (11 + 1 + 176)
    assert layers == Costs(matmul_s=2 * 176 * 2 * 64 * 256 if is_slow else num_bytes, num_operations=1)


@pytest.mark.parametrize("rows", [32, 32768])
def test_a_product_of_a_gpu_takes_the_time_of_its_bytes_or_of_what_it_multiplies(rows):
    text = GPU_PROGRAM.replace("[32,", f"[{rows},")
    (operation,) = list_operations(text)
    assert operation.flops == 2 * rows * 4096 * 1024
    num_bytes = 2 * rows * 4096 + 2 * 4096 * 1024 + 4 * rows * 1024
    expected = max(num_bytes / H200.bytes_per_s, operation.flops / H200.flops_per_s)
    assert astuple(read_costs(text, H200)[0]) == pytest.approx(astuple(Costs(matmul_s=expected, num_operations=1)))


def test_costs_are_added_and_multiplied_field_by_field():
    costs = Costs(1, 2, 3, 4, 5, 6)
    assert costs.times(2) == costs + costs
    assert astuple(costs + Costs()) == (1, 2, 3, 4, 5, 6)


def test_weights_are_fetched_while_something_else_leaves_the_memory_idle_and_cost_time_else():
    costs = Costs(matmul_s=1.0, idle_s=0.25, prefetch_bytes=V6E.bytes_per_s, num_operations=1000)
    reading, computing = (predict_step(costs, Attention(0.5, is_computing), V6E) for is_computing in (False, True))
    assert reading["matmuls"] == 1.75 and computing["matmuls"] == 1.25
    assert reading["launches"] == 0 and predict_step(costs, Attention(0, False), H200)["launches"] > 0


def test_the_share_of_the_roofline_is_of_the_sum_of_all_parts():
    record = judge_step({part: 1.0 for part in PARTS}, 2.0)
    assert record["predicted_s"] == len(PARTS) and record["share"] == 2.0 / len(PARTS)


@pytest.mark.parametrize(
    ("rows", "tokens", "window", "cycles"), [(32, None, None, 110), (32, None, 128, 11), (1, 2048, 7, 5)]
)
def test_cycles_of_attention_are_of_the_rows_and_of_what_they_see(rows, tokens, window, cycles):
    records = [
        {"kind": "decode", "rows": 32, "context": 1024, "cycles": 100},
        {"kind": "write", "rows": 32, "context": 1024, "cycles": 10},
        {"kind": "decode", "rows": 32, "context": 128, "cycles": 11},
        {"kind": "prefill", "tokens": 2048, "cycles": 5},
    ]
    assert predict_steps.sum_cycles(records, rows, tokens, window) == cycles
    with pytest.raises(ValueError, match="512 rows are not predicted: out of memory"):
        predict_steps.sum_cycles([{"kind": "decode", "why": "out of memory"}], 512, None, None)


def test_seconds_of_a_gpus_attention_follow_from_its_shares():
    gpu = SimpleNamespace(bytes_per_s=100.0, flops_per_s=8.0)
    decode = {"needed_bytes": 50, "share_with_launches": 0.5}
    assert predict_steps.seconds_of_gpu(decode, Case(1, 1, 1, 1, 1), gpu) == 1.0
    prompt = Case(1, 2, 1, 1, 2, context=2)  # three pairs of a query and a key, of 4 * 2 operations
    prefill = {"share_serial": 0.5, "share_alternating": 1.0}
    assert predict_steps.seconds_of_gpu(prefill, prompt, gpu) == 4.5


def test_the_roofline_of_a_step_is_the_engines():
    config = COMPILED["Llama-3.1-8B"]
    cost = decoder_cost(find_architecture(config).spec(config))
    roofline = Roofline(cost, 2, PeakRates(1.0, 1e30))
    context = 32 * 1024 * 32 * 2 * 8 * 128 * 2
    assert roofline.estimate(predict_steps.plan_decode(32, 1024)).roofline_s == 2 * (cost.body + cost.head) + context
    computing = Roofline(cost, 2, PeakRates(1e30, 1.0)).estimate(predict_steps.plan_prefill(2)).roofline_s
    assert computing == pytest.approx(2 * (2 * cost.body + cost.head) + 3 * 32 * cost.attention[0].flops, rel=1e-6)


def test_new_records_replace_those_of_the_same_model_and_target():
    old = [{"model": "a", "target": target, "step": "plan", "why": "small"} for target in ("x", "y")]
    new = [{"model": "a", "target": "x", "step": "decode 32", **judge_step({part: 1.0 for part in PARTS}, 1.0)}]
    merged = merge(old, new)
    assert merged == [*new, old[1]]
    assert "| a | x | decode 32 |" in show_steps(merged) and "a on y: plan | small" in show_steps(merged)


def test_the_committed_table_is_of_its_records_and_labelled_as_predicted():
    recorded = json.loads((MEASUREMENTS / "2026-12-01-predicted-steps.json").read_text())
    assert recorded["about"]["is_predicted"] is True
    pairs = {(record["model"], record["target"]) for record in recorded["records"]}
    assert {("Llama-3.1-8B", "v6e-1"), ("Llama-3.1-8B", "h200x1")} <= pairs
    assert pairs <= {(model, target) for model in STEP_MODELS for target in STEP_TARGETS}
    shown = (MEASUREMENTS / "2026-12-01-predicted-steps.md").read_text()
    assert "predicted" in shown and show_steps(recorded["records"]) in shown
