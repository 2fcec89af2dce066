"""What `scripts.device_checks.gpu_kernels` reads of machine code, on a listing written by hand; nothing is compiled."""

from collections import Counter

import pytest

from scripts.device_checks.gpu_code import read_loops
from scripts.device_checks.gpu_kernels import CASES
from scripts.device_checks.gpu_prediction import GPUS, alternate, blocks_of_tiles, deal, tensor_cycles

LISTING = """
.L_x_1:
        /*0000*/                   MOV R1, c[0x0][0x28] ;
.L_x_2:
        /*0010*/                   HGMMA.64x128x16.F32.BF16 R24, gdesc[UR12], R24 ;
        /*0020*/              @!P0 FMUL R10, R10, R10 ;
        /*0030*/               @P0 BRA `(.L_x_2) ;
.L_x_3:
        /*0040*/                   FADD R1, R1, R2 ;
        /*0050*/               @P1 BRA `(.L_x_3) ;
        /*0060*/               @P2 BRA `(.L_x_1) ;
        /*0070*/                   EXIT ;
"""


def test_the_innermost_loops_with_products_are_found():
    counts, loops = read_loops(LISTING)
    assert counts["EXIT"] == 1 and sum(counts.values()) == 8
    assert loops == [Counter({"HGMMA.64x128x16.F32.BF16": 1, "FMUL": 1, "BRA": 1})]


@pytest.mark.parametrize(
    ("gpu", "name", "cycles"), [("h200", "HGMMA.64x128x16.F32.BF16", 64), ("a100", "HMMA.16816", 8)]
)
def test_products_take_the_time_that_the_data_sheet_says(gpu, name, cycles):
    assert tensor_cycles(Counter({name: 1, "FADD": 9}), GPUS[gpu]) == cycles


@pytest.mark.parametrize("gpu", GPUS.values(), ids=GPUS.keys())
def test_the_facts_of_a_gpu_give_its_published_rate(gpu):
    published = {"h200": 989, "h100": 989, "b200": 2250, "a100": 312, "l4": 121}[gpu.name]
    assert gpu.processors * gpu.products * 2 * gpu.clock_ghz / 1000 == pytest.approx(published, rel=0.01)


def test_two_warps_in_turns_hide_a_short_softmax_and_no_turn_beats_the_tensor_cores():
    assert alternate(1024, 400) == 1024 and alternate(1024, 0) == 1024
    assert 1024 < alternate(1024, 700) < 1024 + 700


def test_every_key_that_a_tile_sees_is_in_one_of_its_blocks():
    case = CASES["prefill Llama-3.1-8B, 2048"]
    blocks = blocks_of_tiles(case, 32, 128, None)
    assert len(blocks) == 64 and blocks[0] == (63, 1)  # the last queries: all of 8,192 keys, one block on the diagonal


def test_programs_go_to_the_processor_that_is_free_first():
    assert deal([3, 1, 1, 1], 2) == 3 and deal([1, 1, 1], 2) == 2
