"""scripts/device compile: what it reads in a program, and that it compiles for the CPU, which every machine has."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from jaxserve.parallel.targets import TARGETS
from scripts.device_checks import compile as device_compile
from scripts.device_checks import compile_budgets as budgets
from scripts.device_checks.compile import Options
from scripts.device_checks.compile_cases import DEFAULT_TARGETS, SHORT, Case
from scripts.device_checks.compile_checks import is_large, list_faults
from scripts.device_checks.compile_kernels import add_kernel, list_kernel_faults, split_entries
from scripts.device_checks.hlo import count_collectives, find_expanded, find_moves
from scripts.device_checks.shapes import COMPILED

SCRIPT = Path(__file__).parent.parent / "scripts" / "device"
PROGRAM = """
HloModule jit_forward, input_output_alias={ {0}: (0, {}, may-alias) }
ENTRY %main.5 (a: bf16[64,16,2]) -> bf16[64,16,2] {
  %a.1 = bf16[64,16,2]{2,1,0:T(8,128)(2,1)} parameter(0)
  %scatter.2 = bf16[64,16,2]{2,1,0} scatter(%a.1, %b, %c), to_apply=%add
  %copy.3 = bf16[1024,2]{1,0} copy(%scatter.2)
  %start.4 = (f32[8,512]{1,0}, f32[8,512]{1,0}) all-gather-start(%d), dimensions={0}
  %all.5 = f32[8,512]{1,0} all-reduce(%d), to_apply=%add
  ROOT %transpose.6 = bf16[2,16,64]{2,1,0} transpose(%copy.3)
}
"""


def test_moves_of_large_arrays_are_found_and_updates_in_place_are_not():
    moves = find_moves(PROGRAM, lambda shape: len(shape) > 0 and shape[0] != 8)
    assert moves == {"copy[1024, 2]": 1, "transpose[2, 16, 64]": 1}


def test_collectives_are_counted_with_the_bytes_of_their_results():
    assert count_collectives(PROGRAM) == {"all-gather": [1, 16384], "all-reduce": [1, 16384]}


EXPANDED = """
%fused (p: s8[64,512]) -> bf16[64,512] {
  %p.1 = s8[64,512]{1,0} parameter(0)
  ROOT %convert.1 = bf16[64,512]{1,0} convert(%p.1)
}

ENTRY %main.5 (w: s8[64,512], x: bf16[64,512]) -> bf16[64,512] {
  %w.1 = s8[64,512]{1,0} parameter(0)
  %x.1 = bf16[64,512]{1,0} parameter(1)
  %fusion.1 = bf16[8,4096]{1,0} fusion(%w.1), kind=kLoop, calls=%fused
  %add.1 = bf16[64,512]{1,0} add(%x.1, %x.1)
  %rows.1 = s8[64,512]{1,0} gather(%t.1, %i.1)
  %convert.3 = bf16[64,512]{1,0} convert(%rows.1)
  %fusion.2 = bf16[512,64]{1,0} fusion(%w.1, %x.1), kind=kCustom, calls=%product
  ROOT %dot.1 = f32[8,16]{1,0} dot(%x.1, %fusion.1)
}
"""
PRODUCT = """
%product (q: s8[64,512], y: bf16[64,512]) -> bf16[512,64] {
  %convert.2 = bf16[64,512]{1,0} convert(%q.1)
  ROOT %dot.2 = bf16[512,64]{1,0} dot(%convert.2, %y.1)
}
"""


def test_a_weight_that_is_stored_in_wide_floats_is_found():
    """And neither one that a fusion reads, nor activations or rows of a table of that size, nor a product of it."""
    assert find_expanded(PRODUCT + EXPANDED, {64 * 512: {64 * 512}}) == {"bf16[8, 4096] by fusion": 1}
    assert find_expanded(PRODUCT + EXPANDED, {64 * 512: {16 * 512}, 8 * 16: {8 * 16}}) == {}


@pytest.mark.parametrize(
    ("shape", "is_wanted"), [((64, 16, 2), True), ((32, 512), True), ((512, 32), False), ((), False)]
)
def test_pages_of_a_layer_and_all_logits_are_large(shape, is_wanted):
    assert is_large(shape, layer_sizes={2048}, rows=32, vocab_sizes={512}) == is_wanted


KERNEL = {"registers": 96, "spill_bytes": 0, "shared_bytes": 39168, "wgmma": 0, "mma": 32, "async_copies": 16}
RECORD = {
    **{"target": "v5e-1", "model": "Qwen3-0.6B", "layers": 2, "program": "decode 128", "outcome": "passed"},
    **{"kv_cache_dtype": "auto", "quantization": "none", "code_bytes": 9_000_000, "temporary_bytes": 5_000_000},
    **{"result_bytes": 100, "collectives": {"all-reduce": [4, 4096]}, "is_in_place": True, "large_moves": {}},
    **{"expanded_weights": {}, "argument_bytes": 10_000_000, "planned_bytes": 10_000_000},
    "kernels": {"paged_decode": KERNEL},
}


@pytest.mark.parametrize(
    ("change", "num_faults"),
    [
        ({}, 0),
        ({"temporary_bytes": 5_100_000}, 0),
        ({"temporary_bytes": 6_000_000}, 1),
        ({"temporary_bytes": 1}, 0),
        ({"collectives": {"all-reduce": [5, 4096], "all-gather": [1, 8]}}, 2),
        ({"kernels": {"paged_decode": KERNEL | {"registers": 128}}}, 1),
        ({"kernels": {"paged_decode": KERNEL, "page_write": KERNEL}}, 0),
        ({"kernels": {"decode": KERNEL}}, 1),
        ({"kernels": {}}, 1),
        ({"outcome": "refused", "why": "no attention sinks"}, 1),
    ],
)
def test_what_has_grown_by_more_than_a_twentieth_is_a_fault(tmp_path, monkeypatch, change, num_faults):
    monkeypatch.setattr(budgets, "FILE", tmp_path / "compiled.json")
    budgets.save([RECORD], "cpu")
    recorded = budgets.load()
    assert recorded["versions"]["cpu"] == budgets.list_versions("cpu")
    assert len(budgets.compare(RECORD | change, recorded["programs"][budgets.key_of(RECORD)])) == num_faults


def test_a_program_that_is_not_recorded_fails_and_one_that_was_refused_may_compile():
    assert "--record" in budgets.compare(RECORD, None)[0]
    assert budgets.compare(RECORD, {"refused": "no attention sinks"}) == []


REFUSED = {name: RECORD[name] for name in ("target", "model", "layers", "kv_cache_dtype", "quantization")}
REFUSED |= {"program": "plan", "outcome": "refused", "why": "no attention sinks"}


@pytest.mark.parametrize(("recorded", "outcome"), [({}, "failed"), ({"refused": "no attention sinks"}, "refused")])
@pytest.mark.parametrize("jax", ["0.1", budgets.list_versions("cpu")["jax"]])
def test_a_program_that_is_refused_fails_with_any_compiler_unless_that_is_recorded(monkeypatch, jax, recorded, outcome):
    programs = {budgets.key_of(REFUSED): recorded} if recorded else {}
    monkeypatch.setattr(device_compile, "compile_model", lambda *_: iter([REFUSED]))
    monkeypatch.setattr(budgets, "load", lambda: {"versions": {"cpu": {"jax": jax}}, "programs": programs})
    records = device_compile.run([Case("cpu", "Qwen3-0.6B")], Options(), has_budgets=True, record=False)
    assert [record["outcome"] for record in records] == [outcome]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"is_in_place": False}, "in place"),
        ({"large_moves": {"copy[8, 512]": 2}}, "2 copy[8, 512]"),
        ({"argument_bytes": 10_900_000}, "planned"),
    ],
)
def test_faults_are_told_in_words(change, fault):
    assert list_faults(RECORD) == []
    assert fault in list_faults(RECORD | change)[0]


@pytest.mark.parametrize(
    ("name", "change", "num_faults"),
    [
        ("paged_decode", {}, 0),
        ("paged_decode", {"spill_bytes": 8}, 1),
        ("paged_decode", {"mma": 0, "async_copies": 0}, 2),
        ("page_write", {"mma": 0, "async_copies": 0}, 0),
    ],
)
def test_kernels_multiply_on_tensor_cores_copy_in_16_bytes_and_do_not_spill(name, change, num_faults):
    assert len(list_kernel_faults({name: KERNEL | change}, "bfloat16")) == num_faults


PTX = """
.visible .entry paged_decode_combine(.param .u64 a)
{ ex2.approx.f32; }
.visible .entry paged_decode (.param .u64 a)
{ mma.sync.aligned; }
.visible .entry page_write(.param .u64 a)
{ st.global; }
"""


def test_the_text_of_a_kernel_ends_where_the_next_begins_and_is_found_by_its_whole_name():
    bodies = split_entries(PTX)
    assert list(bodies) == ["paged_decode_combine", "paged_decode", "page_write"]
    assert [name for name, body in bodies.items() if "mma.sync" in body] == ["paged_decode"]
    assert split_entries("// XLA has written nothing else") == {}


@pytest.mark.parametrize("order", [1, -1])
def test_of_kernels_that_share_a_name_the_worst_is_kept(order):
    spilling, large = KERNEL | {"spill_bytes": 8}, KERNEL | {"registers": 255}
    kernels = {}
    for number, kernel in list(enumerate((KERNEL, large, spilling)))[::order]:
        add_kernel(kernels, f"paged_prefill_{number}", kernel)
    add_kernel(kernels, "paged_prefill_combine", large)
    assert kernels == {"paged_prefill": spilling, "paged_prefill_combine": large}


def test_the_short_form_is_of_targets_and_models_that_there_are():
    assert {case.target for case in SHORT} <= set(DEFAULT_TARGETS) <= set(TARGETS)
    assert {case.model for case in SHORT} <= set(COMPILED)
    assert {TARGETS[case.target].platform for case in SHORT} == {"tpu", "gpu"}
    recorded = [key.split(", ") for key in budgets.load()["programs"]]

    def is_recorded(target, model, word):
        return any(key[:2] == [target, model] and key[3].startswith(word) for key in recorded)

    wanted = [(case.target, case.model, word) for case in SHORT for word in case.programs]
    assert [each for each in wanted if not is_recorded(*each)] == []


def test_programs_of_a_model_with_windows_compile_for_a_cpu(tmp_path):
    words = [
        str(SCRIPT),
        "compile",
        "cpu",
        "--tiny",
        "--model",
        "Gemma-3-1B",
        "--json",
        str(tmp_path / "records.json"),
    ]
    words += ["--programs", "decode 32", "prefill", "sample 32 GREEDY", "copy", "score"]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    records = json.loads((tmp_path / "records.json").read_text())
    assert [record["outcome"] for record in records] == ["passed"] * 5
    assert all(record["is_in_place"] and not record["large_moves"] for record in records)
    assert "Predicted" in done.stdout


def test_a_word_with_which_no_program_begins_fails():
    options = Options(programs=("copy p", "decode 31"), tiny=True)
    records = list(device_compile.compile_model(TARGETS["cpu"], "Qwen3-0.6B", options))
    assert [(each["program"], each["outcome"]) for each in records] == [
        ("decode 31", "failed"),
        ("copy pages", "passed"),
    ]
    assert "FAILED no program" in device_compile.line_of(records[0])


def test_a_run_that_compiles_nothing_fails(monkeypatch, capsys):
    monkeypatch.setattr(device_compile, "find_spec", lambda _: None)
    assert device_compile.main(["--short"]) == 1
    assert "Nothing was compiled" in capsys.readouterr().out


@pytest.mark.parametrize(("layers", "expected"), [(0, 26), (2, 6), (12, 12)])
def test_a_model_of_five_windows_and_one_without_has_six_layers_or_more(layers, expected):
    assert device_compile.choose_config("Gemma-3-1B", Options(layers=layers))["num_hidden_layers"] == expected


def test_an_unknown_target_is_refused_by_name(capsys):
    with pytest.raises(SystemExit):
        device_compile.main(["abacus"])
    assert "abacus" in capsys.readouterr().err
