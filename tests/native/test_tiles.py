"""Packed products on tiles: emulated they have the bits of those without, and compilers make the real instructions."""

import ctypes
import importlib.util
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxserve.layers import quant
from jaxserve.layers.block_forms import FORMS
from jaxserve.native import library
from tests.weights.block_rows import pack_rows, random_rows

COMPILERS = {"gcc": ("gcc",), "clang": ("clang",), "ziglang": (sys.executable, "-m", "ziglang", "cc")}
NATIVE = Path(library.__file__).parent
ROWS, WIDTH_IN, WIDTH_OUT = 150, 512, 37  # no whole tiles, nor whole groups
needs_compiler = pytest.mark.skipif(library.find_compiler() is None, reason="no C compiler here")


def compile_linear(command: tuple[str, ...], output: Path, *flags: str) -> None:
    usual = [flag for flag in library.FLAGS if not (flag.startswith("-march") and "-S" in flags)]
    words = [*command, *usual, f"-I{jax.ffi.include_dir()}", *flags, str(NATIVE / "linear.c"), "-o", str(output)]
    subprocess.run(words, check=True, timeout=library.COMPILE_TIMEOUT_S)


@pytest.fixture(scope="module")
def emulated(tmp_path_factory) -> ctypes.CDLL:
    """The kernel with emulated tiles, whose products are targets of other names."""
    file = tmp_path_factory.mktemp("tiles") / "linear.so"
    compiler = library.find_compiler()
    assert compiler
    compile_linear(compiler, file, "-DEMULATE_TILES=1")
    kernel = ctypes.CDLL(str(file))
    for name in ("jaxserve_linear", "jaxserve_packed_experts"):
        jax.ffi.register_ffi_target(f"tiles_{name}", jax.ffi.pycapsule(getattr(kernel, name)), platform="cpu")
    return kernel


def pack(kind, outputs: int, seed: int) -> quant.PackedWeight:
    return pack_rows(kind, random_rows(kind, outputs, WIDTH_IN, seed=seed), native=True)


def call(name: str, num_rows: int, *arguments, weights) -> list[np.ndarray]:
    shapes = [jax.ShapeDtypeStruct((num_rows, weight.width_out), jnp.float32) for weight in weights]
    return jax.ffi.ffi_call(name, shapes)(*arguments, forms=quant.form_attribute(weights))


@needs_compiler
@pytest.mark.parametrize("kind", FORMS)
def test_a_product_has_the_same_bits_with_tiles_and_without(kind, emulated):
    """Whole tiles, four of them and more, with rows and outputs behind them; two matrices in one call."""
    weights = [pack(kind, WIDTH_OUT, seed=1), pack("int8", 16, seed=2)]
    x_TI = np.random.default_rng(3).normal(size=(ROWS, WIDTH_IN)).astype(np.float32)
    x_TI[5, 40:70] = 0
    assert library.start_tiles(emulated)
    for num_rows in (1, 16, 17, 64, 81, ROWS):
        rows = jnp.asarray(x_TI[:num_rows])
        expected = call("jaxserve_linear", num_rows, rows, *(w.data for w in weights), weights=weights)
        found = call("tiles_jaxserve_linear", num_rows, rows, *(w.data for w in weights), weights=weights)
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))


@needs_compiler
def test_experts_have_the_same_bits_wherever_their_rows_begin_in_a_tile(emulated):
    experts = [pack("q4_k", WIDTH_OUT, seed=seed) for seed in range(4)]
    stack = [replace(experts[0], data=jnp.stack([each.data for each in experts]))]
    x_SI = jnp.asarray(np.random.default_rng(3).normal(size=(ROWS, WIDTH_IN)).astype(np.float32))
    assert library.start_tiles(emulated)
    for counts in ((0, 150, 0, 0), (7, 40, 3, 90), (16, 32, 15, 17)):
        arguments = x_SI, jnp.asarray(counts, jnp.int32), stack[0].data
        [expected] = call("jaxserve_packed_experts", ROWS, *arguments, weights=stack)
        [found] = call("tiles_jaxserve_packed_experts", ROWS, *arguments, weights=stack)
        np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))


@needs_compiler
def test_tiles_that_compute_something_else_are_not_used_and_a_line_says_so(tmp_path, caplog):
    compiler = library.find_compiler()
    assert compiler
    compile_linear(compiler, tmp_path / "linear.so", "-DEMULATE_TILES=2")
    assert not library.start_tiles(ctypes.CDLL(str(tmp_path / "linear.so")))
    assert "do not use the processor's tiles (AMX): they compute other numbers" in caplog.text


@pytest.mark.parametrize("name", COMPILERS)
def test_compilers_make_the_instructions_of_the_tiles(name, tmp_path):
    command = COMPILERS[name]
    found = shutil.which(name) if len(command) == 1 else importlib.util.find_spec("ziglang")
    if found is None:
        pytest.skip(f"no {name} here")
    target = "-target x86_64-linux-gnu -mcpu=x86_64_v4" if name == "ziglang" else "-march=x86-64-v4"
    if name != "ziglang" and "x86_64" not in subprocess.check_output([name, "-dumpmachine"], text=True):
        pytest.skip(f"{name} here compiles for another processor")
    compile_linear(command, tmp_path / "linear.s", *target.split(), "-S")
    text = (tmp_path / "linear.s").read_text()
    for instruction in ("ldtilecfg", "tileloadd", "tdpbsud", "tilestored", "tilerelease"):
        assert instruction in text
