"""scripts/device compile: what it reads in a program, and that it compiles for the CPU, which every machine has."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.device_checks import compile as device_compile
from scripts.device_checks.hlo import count_collectives, find_expanded, find_moves

SCRIPT = Path(__file__).parent.parent / "scripts" / "device"
PROGRAM = """
HloModule jit_forward, input_output_alias={ {0}: (0, {}, may-alias) }
ENTRY %main.5 (a: bf16[64,16,2]) -> bf16[64,16,2] {
  %a.1 = bf16[64,16,2]{2,1,0:T(8,128)(2,1)} parameter(0)
  %scatter.2 = bf16[64,16,2]{2,1,0} scatter(%a.1, %b, %c), to_apply=%add
  %copy.3 = bf16[1024,2]{1,0} copy(%scatter.2)
  %start.4 = (f32[8,512]{1,0}, f32[8,512]{1,0}) all-reduce-start(%d), to_apply=%add
  %all.5 = f32[8,512]{1,0} all-reduce(%d), to_apply=%add
  ROOT %transpose.6 = bf16[2,16,64]{2,1,0} transpose(%copy.3)
}
"""


def test_moves_of_large_arrays_are_found_and_updates_in_place_are_not():
    moves = find_moves(PROGRAM, lambda shape: len(shape) > 0 and shape[0] != 8)
    assert moves == {"copy[1024, 2]": 1, "transpose[2, 16, 64]": 1}


def test_collectives_are_counted_whether_they_are_split_in_two_or_not():
    assert count_collectives(PROGRAM) == {"all-reduce": 2}


EXPANDED = """
%fused (p: s8[64,512]) -> bf16[64,512] {
  %p.1 = s8[64,512]{1,0} parameter(0)
  ROOT %convert.1 = bf16[64,512]{1,0} convert(%p.1)
}

ENTRY %main.5 (w: s8[64,512], x: bf16[64,512]) -> bf16[64,512] {
  %w.1 = s8[64,512]{1,0} parameter(0)
  %x.1 = bf16[64,512]{1,0} parameter(1)
  %fusion.1 = bf16[8,4096]{1,0} fusion(%w.1), kind=kLoop, calls=%fused
  ROOT %dot.1 = f32[8,16]{1,0} dot(%x.1, %fusion.1)
}
"""


def test_a_weight_that_is_stored_in_wide_floats_is_found_and_one_that_a_fusion_reads_is_not():
    assert find_expanded(EXPANDED, {64 * 512}) == {"bf16[8, 4096] by fusion": 1}
    assert find_expanded(EXPANDED, {8 * 16}) == {"f32[8, 16] by dot": 1}


@pytest.mark.parametrize(
    ("shape", "is_large"), [((64, 16, 2), True), ((32, 512), True), ((512, 32), False), ((), False)]
)
def test_pages_of_a_layer_and_all_logits_are_large(shape, is_large):
    assert device_compile._is_large(shape, layer_sizes={2048}, rows=32, vocab_sizes={512}) == is_large


def test_all_programs_of_a_model_with_windows_compile_for_a_cpu(tmp_path):
    words = [str(SCRIPT), "compile", "cpu", "--tiny", "--model", "Gemma-3-1B", "--json", str(tmp_path / "records.json")]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    records = json.loads((tmp_path / "records.json").read_text())
    assert [record["outcome"] for record in records] == ["passed"] * 4
    assert all(record["is_in_place"] and not record["large_moves"] for record in records)
    assert "Predicted" in done.stdout


def test_an_unknown_target_is_refused_by_name(capsys):
    with pytest.raises(SystemExit):
        device_compile.main(["abacus"])
    assert "abacus" in capsys.readouterr().err
