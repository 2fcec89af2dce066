"""Codes of four-bit floats and of powers of two have the values that ml_dtypes gives them."""

import ml_dtypes
import numpy as np

from jaxserve.weights.float4 import FLOAT4_VALUES, decode_powers, unpack_float4


def test_every_code_has_the_value_of_its_type():
    np.testing.assert_array_equal(
        FLOAT4_VALUES, np.arange(16, dtype=np.uint8).view(ml_dtypes.float4_e2m1fn).astype(np.float32)
    )


def test_the_low_half_of_a_byte_comes_first():
    np.testing.assert_array_equal(unpack_float4(np.array([[0x21, 0x9F]], np.uint8)), [[0.5, 1.0, -6.0, -0.5]])


def test_powers_reach_from_the_smallest_to_the_largest_code():
    expected = [2.0**-127, 2.0**-126, 0.5, 1.0, 2.0, 2.0**127, np.nan]
    np.testing.assert_array_equal(decode_powers(np.array([0, 1, 126, 127, 128, 254, 255], np.uint8)), expected)
