"""Packed weights: rounding keeps its bounds, the kernel is the plain product, and a row's bits are its own."""

import ctypes
import os
import platform
import subprocess
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxserve.layers import quant
from jaxserve.layers.block_forms import BLOCK_SIZE, FORMS, PackedKind
from jaxserve.native import library
from tests.weights.block_rows import pack_rows, random_rows, read_rows

KINDS = ("int8", "int4")
needs_compiler = pytest.mark.skipif(library.find_compiler() is None, reason="no C compiler here")
SIZES = st.sampled_from([(1, 1), (32, 16), (70, 37), (150, 16), (64, 70)])  # (in, out); every new one is compiled
SEEDS = st.integers(0, 9999)

products, unpacked, columns = (jax.jit(f) for f in (quant.packed_matmul, quant.unpack, quant.embedding_rows))
rounded_activations = jax.jit(quant.round_activations)


def draw(*shape: int, seed: int = 0, size: float = 1.0) -> np.ndarray:
    return (size * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def pack(weight_OI: np.ndarray, kind: PackedKind, native: bool = False) -> quant.PackedWeight:
    announced = quant.abstract_packed(kind, weight_OI.shape[1], weight_OI.shape[0], native)
    data = np.full(announced.data.shape, 77, np.uint8)
    quant.pack_blocks(quant.quantize(weight_OI, kind), data)
    return replace(announced, data=jnp.asarray(data))


class TestPacking:
    @pytest.mark.parametrize("kind", KINDS)
    @settings(max_examples=60, deadline=None, derandomize=True)
    @given(sizes=SIZES, seed=SEEDS, size=st.sampled_from([1e-9, 1e-5, 0.02, 1.0, 1e4]))
    def test_a_weight_is_within_half_a_scale(self, kind, sizes, seed, size):
        inputs, outputs = sizes
        weight_OI = draw(outputs, inputs, seed=seed, size=size)
        weight_OI[0] = 3 * size  # blocks of one value, and of zeros
        weight_OI[-1] = 0
        read_IO = np.asarray(unpacked(pack(weight_OI, kind)))
        assert read_IO.shape == (inputs, outputs)
        scale_OB = quant.quantize(weight_OI, kind).scale_OB.astype(np.float32)
        half_OI = np.repeat(scale_OB / 2, BLOCK_SIZE, axis=1)[:, :inputs]
        slack = 2e-6 * np.abs(weight_OI).max()  # float32's own rounding
        assert (np.abs(read_IO.T - weight_OI) <= half_OI + slack).all()

    @pytest.mark.parametrize("kind", KINDS)
    def test_scales_are_as_small_as_float16_lets_them_be(self, kind):
        weight_OI = draw(40, 96)
        blocks = weight_OI.reshape(40, 3, 32)
        spread = np.abs(blocks).max(-1) / 127 if kind == "int8" else (blocks.max(-1) - blocks.min(-1)) / 15
        scale_OB = quant.quantize(weight_OI, kind).scale_OB.astype(np.float32)
        assert (scale_OB <= spread * (1 + 2**-9)).all()

    def test_what_codes_can_say_comes_out_as_it_was(self):
        rng = np.random.default_rng(1)
        code = rng.integers(-127, 128, (32, 3, 32)).astype(np.float32)
        code[..., 0] = 127
        weight_OI = (code * rng.uniform(0.001, 0.1, (32, 3, 1)).astype(np.float16).astype(np.float32)).reshape(32, 96)
        np.testing.assert_array_equal(np.asarray(unpacked(pack(weight_OI, "int8"))).T, weight_OI)

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 3e38])
    def test_what_float16_cannot_scale_is_not_hidden(self, kind, wrong):
        weight_OI = draw(16, 64)
        weight_OI[3, 40] = wrong
        read_OI = np.asarray(unpacked(pack(weight_OI, kind))).T
        assert not np.isfinite(read_OI[3, 32:]).all()
        assert np.isfinite(np.delete(read_OI, 3, axis=0)).all()

    @pytest.mark.parametrize(("kind", "size"), [("int8", 1.0625), ("int4", 0.625)])
    def test_the_size_is_stated(self, kind, size):
        assert quant.bytes_per_weight(kind) == size
        assert pack(draw(64, 96), kind).data.nbytes == size * 64 * 96

    @pytest.mark.parametrize("kind", KINDS)
    @settings(max_examples=20, deadline=None, derandomize=True)
    @given(sizes=SIZES, indices=st.lists(st.integers(0, 69), min_size=7, max_size=7))
    def test_a_lookup_reads_single_outputs(self, kind, sizes, indices):
        inputs, outputs = sizes
        weight = pack(draw(outputs, inputs), kind)
        index_T = np.minimum(indices, outputs - 1)
        expected = np.asarray(unpacked(weight)).T[index_T]
        np.testing.assert_array_equal(np.asarray(columns(weight, jnp.asarray(indices))), expected)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30, deadline=None, derandomize=True)
@given(sizes=SIZES, rows=st.sampled_from([1, 5]), size=st.sampled_from([1e-3, 1.0, 300.0]))
def test_a_plain_product_errs_by_half_a_step_of_each_activation(kind, sizes, rows, size):
    inputs, outputs = sizes
    x_TI, weight = draw(rows, inputs, size=size), pack(draw(outputs, inputs, seed=1), kind)
    read_IO = np.asarray(unpacked(weight), np.float64)
    padded = np.pad(np.abs(x_TI), ((0, 0), (0, -inputs % BLOCK_SIZE))).reshape(rows, -1, BLOCK_SIZE)
    step_TI = np.repeat(padded.max(-1) / 254, BLOCK_SIZE, axis=1)[:, :inputs]
    bound = step_TI @ np.abs(read_IO) * 1.001 + 1e-5 * np.abs(x_TI) @ np.abs(read_IO)
    (y_TO,) = products(jnp.asarray(x_TI), weight)
    assert (np.abs(np.asarray(y_TO) - x_TI.astype(np.float64) @ read_IO) <= bound).all()


@needs_compiler
class TestKernel:
    @pytest.mark.parametrize("kind", KINDS)
    @settings(max_examples=60, deadline=None, derandomize=True)
    @given(sizes=SIZES, rows=st.sampled_from([1, 2, 7, 40]), seed=SEEDS, size=st.sampled_from([1e-4, 1.0, 1e4]))
    def test_is_the_plain_product_within_rounding(self, kind, sizes, rows, seed, size):
        inputs, outputs = sizes
        x_TI = jnp.asarray(draw(rows, inputs, seed=seed, size=size)).at[0].set(0)
        weight = pack(draw(outputs, inputs, seed=seed + 1), kind, native=True)
        (native,), (plain,) = products(x_TI, weight), products(x_TI, replace(weight, native=False))
        terms = np.abs(np.asarray(rounded_activations(x_TI))) @ np.abs(np.asarray(unpacked(weight)))
        least = np.abs(np.asarray(x_TI)).sum(-1, keepdims=True) * 15  # int4 adds minima and codes apart
        assert (np.abs(np.asarray(plain) - np.asarray(native)) <= 1e-6 * (terms + least)).all()

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_rows_bits_depend_on_nothing_but_the_row(self, kind):
        """Alone, in a chunk, between other neighbours, at another place of a tile."""
        weight, x_TI = pack(draw(200, 576), kind, native=True), draw(70, 576)
        alone = [np.asarray(products(jnp.asarray(x_TI[i : i + 1]), weight)[0])[0] for i in range(70)]
        for rows in (*range(2, 20), 31, 32, 33, 47, 64, 70):
            for start in (0, 70 - rows):
                (y_TO,) = products(jnp.asarray(x_TI[start : start + rows]), weight)
                np.testing.assert_array_equal(np.asarray(y_TO), alone[start : start + rows])

    @pytest.mark.parametrize("kinds", [("int8",) * 3, ("int4", "int8", "int4")])
    def test_several_weights_in_one_call_are_each_alone(self, kinds):
        x_TI = jnp.asarray(draw(5, 100))
        weights = [pack(draw(n, 100, seed=n), kind, native=True) for n, kind in zip((33, 16, 7), kinds, strict=True)]
        for together, weight in zip(products(x_TI, *weights), weights, strict=True):
            np.testing.assert_array_equal(together, products(x_TI, weight)[0])

    @pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
    def test_what_is_no_number_spoils_its_own_row(self, wrong):
        x_TI, weight = draw(6, 64), pack(draw(20, 64), "int8", native=True)
        (expected,) = products(jnp.asarray(x_TI), weight)
        x_TI[2, 5] = wrong
        (y_TO,) = products(jnp.asarray(x_TI), weight)
        assert not np.isfinite(y_TO[2]).any()
        np.testing.assert_array_equal(np.delete(y_TO, 2, 0), np.delete(expected, 2, 0))

    def test_the_type_of_the_activations_comes_back(self):
        x_TI = jnp.asarray(draw(2, 32), jnp.bfloat16)
        assert products(x_TI, pack(draw(16, 32), "int8", native=True))[0].dtype == jnp.bfloat16

    @pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cannot choose a number of cores here")
    def test_one_core_gives_the_bits_of_all(self):
        def digest(cores: int) -> str:
            command = [sys.executable, "-c", ON_CORES, str(cores)]
            return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout

        assert digest(1) == digest(64)

    @pytest.mark.skipif(platform.machine() != "x86_64", reason="flags of another processor")
    @pytest.mark.parametrize("processor", ["x86-64", "x86-64-v3", "native"])
    def test_every_processors_way_gives_the_same_product(self, processor, tmp_path):
        """The way without vectors, the one for AVX2, and this machine's own."""
        path, name = tmp_path / "kernels.so", f"jaxserve_linear_{processor}"
        flags = [flag for flag in library.FLAGS if not flag.startswith("-march")]
        source = str(library.Path(library.__file__).parent / "linear.c")
        how = [
            *library.find_compiler(),
            *flags,
            f"-march={processor}",
            f"-I{jax.ffi.include_dir()}",
            source,
            "-o",
            str(path),
        ]
        subprocess.run(how, check=True, capture_output=True, timeout=120)
        kernel = ctypes.CDLL(str(path)).jaxserve_linear
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(kernel), platform="cpu")
        x_TI = jnp.asarray(draw(23, 90)).at[0].set(0)
        check_blocks(name, draw(5, 256))
        for byte in (0, 127, 128, 255):  # the largest codes, times the largest activations
            check_blocks(name, np.full((5, 256), 0.5, np.float32), byte)
        for kind in KINDS:
            weight_OI = draw(40, 90) * np.logspace(-8, 3, 40, dtype=np.float32)[:, None]  # scales below the normal, too
            weight = pack(weight_OI, kind)
            call = jax.ffi.ffi_call(name, (jax.ShapeDtypeStruct((23, 40), jnp.float32),))
            (y_TO,) = call(x_TI, weight.data, forms=quant.form_attribute([weight]))
            (plain,) = products(x_TI, weight)
            assert (np.abs(y_TO - plain) <= 1e-5 * np.abs(plain).max(0)).all()

    @pytest.mark.skipif(platform.machine() != "x86_64", reason="flags of another processor")
    def test_a_processor_with_only_the_first_instructions_of_avx_512_has_a_way(self):
        flags = ["-std=gnu11", "-march=x86-64-v3", "-mavx512f", "-Werror=implicit-function-declaration"]
        source = str(library.Path(library.__file__).parent / "linear.c")
        how = [*library.find_compiler(), *flags, "-fsyntax-only", f"-I{jax.ffi.include_dir()}", source]
        subprocess.run(how, check=True, capture_output=True, timeout=120)

    def test_weights_that_do_not_fit_are_refused(self):
        weight = pack(draw(32, 64), "int8", native=True)
        with pytest.raises(Exception, match="does not fit"):
            products(jnp.zeros((1, 128)), weight)


def check_blocks(name: str, x_TI: np.ndarray, byte: int | None = None) -> None:
    """Compare a kernel's products of every kind of blocks with those of the values that a file means."""
    kinds, tolerance = tuple(FORMS), 2e-6 if byte is None else 1e-5  # codes that are alike round alike
    rounded = np.asarray(quant.round_activations(jnp.asarray(x_TI)))
    for some in (kinds[:6], kinds[6:]):
        rows = [random_rows(kind, 20, 256, seed=1, byte=byte) for kind in some]
        weights = [pack_rows(kind, each) for kind, each in zip(some, rows, strict=True)]
        call = jax.ffi.ffi_call(name, (jax.ShapeDtypeStruct((5, 20), jnp.float32),) * len(some))
        outputs = call(x_TI, *(weight.data for weight in weights), forms=quant.form_attribute(weights))
        for kind, y_TO, each in zip(some, outputs, rows, strict=True):
            value_IO = read_rows(kind, each).T
            least = np.abs(rounded).sum(-1, keepdims=True) * 2  # codes and minima are added apart
            assert (np.abs(y_TO - rounded @ value_IO) <= tolerance * (np.abs(rounded) @ np.abs(value_IO) + least)).all()


ON_CORES = """
import hashlib, os, sys
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(sys.argv[1])])
import jax.numpy as jnp, numpy as np
from tests.layers.test_quant import draw, pack, products
for kind in ("int8", "int4"):
    for rows in (1, 3, 100):
        (y,) = products(jnp.asarray(draw(rows, 576)), pack(draw(1000, 576), kind, native=True))
        print(hashlib.sha256(np.asarray(y).tobytes()).hexdigest())
"""
