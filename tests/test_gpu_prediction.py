"""What `scripts/device gpu_kernels` reads of machine code, on a listing written by hand; nothing is compiled."""

from collections import Counter

import pytest

from jaxserve.parallel.gpus import GPUS
from scripts.device_checks import gpu_products
from scripts.device_checks.gpu_code import (
    KernelCode,
    Launch,
    Resources,
    read_launches,
    read_loops,
    read_resources,
    split_functions,
)
from scripts.device_checks.gpu_kernels import CASES
from scripts.device_checks.gpu_prediction import alternate, blocks_of_tiles, deal, tensor_cycles

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


REPORT = """
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'paged_decode' for 'sm_90a'
ptxas info    : Function properties for paged_decode
    16 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 128 registers, used 1 barriers
ptxas info    : Compiling entry function 'paged_decode_combine' for 'sm_90a'
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 56 registers
"""


def test_registers_and_spills_are_those_of_the_kernel_that_ptxas_names_before():
    assert read_resources(REPORT) == {"paged_decode": Resources(128, 8), "paged_decode_combine": Resources(56, 0)}


def test_the_launch_of_a_kernel_is_in_the_dump(tmp_path):
    line = "001: kKernel paged_decode grid: [8,132,1] threads: [128,1,1] shared_memory: 38912 bytes\n"
    (tmp_path / "module_1.jit.thunk_sequence.txt").write_text(line)
    assert read_launches(tmp_path) == {"paged_decode": Launch((8, 132, 1), 128, 38912)}


def test_the_listing_of_a_kernel_begins_with_its_section():
    listing = "\n".join(f'\t.section\t.text.{name},"ax",@progbits\n{LISTING}' for name in ("paged_a", "paged_b"))
    functions = split_functions("// made by hand\n" + listing)
    assert list(functions) == ["paged_a", "paged_b"]
    assert all(read_loops(text) == read_loops(LISTING) for text in functions.values())


def test_two_warps_in_turns_hide_a_short_softmax_and_no_turn_beats_the_tensor_cores():
    assert alternate(1024, 400) == 1024 and alternate(1024, 0) == 1024
    assert 1024 < alternate(1024, 700) < 1024 + 700


def test_every_key_that_a_tile_sees_is_in_one_of_its_blocks():
    case = CASES["prefill Llama-3.1-8B, 2048"]
    blocks = blocks_of_tiles(case, 32, 128, None)
    assert len(blocks) == 64 and blocks[0] == (63, 1)  # the last queries: all of 8,192 keys, one block on the diagonal


def test_programs_go_to_the_processor_that_is_free_first():
    assert deal([3, 1, 1, 1], 2) == 3 and deal([1, 1, 1], 2) == 2


@pytest.mark.parametrize(("instructions", "limit"), [(100, "bytes_us"), (1000, "issue_us")])
def test_an_int4_product_is_as_fast_as_what_limits_it(instructions, limit):
    gpu, call = GPUS["h200"], gpu_products.CALLS["output"]
    loop = Counter({"HGMMA.64x16x16.F32.BF16": 16, "LOP3.LUT": instructions - 16})
    kernel = KernelCode("int4_matmul", Launch((1, 32, 4), 128, 40960), 108, 0, loop, (loop,))
    record = gpu_products.predict(kernel, call, 16, gpu)
    codes_and_scales = 4096 * 4096 * (0.5 + 4 / 128)
    assert record["needed_us"] == pytest.approx(1e6 * codes_and_scales / gpu.bytes_per_s)
    assert record[limit] == max(record[name] for name in ("bytes_us", "issue_us", "tensor_us"))
    assert record["share"] == pytest.approx(record["needed_us"] / record[limit])
    assert record["share_with_launch"] < record["share"] < 1


def test_many_rows_of_an_int4_product_are_compared_with_the_tensor_cores():
    loop = Counter({"HGMMA.64x128x16.F32.BF16": 8, "LOP3.LUT": 280})
    kernel = KernelCode("int4_matmul", Launch((16, 33, 1), 256, 114688), 200, 0, loop, (loop,))
    record = gpu_products.predict(kernel, gpu_products.Call(4096, (33 * 128,)), 2048, GPUS["h200"])
    assert record["share"] == pytest.approx(1), "528 programs are four for each multiprocessor"
    assert record["share_serial"] == pytest.approx(1024 / (1024 + 2 * 288))
