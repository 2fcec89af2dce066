"""Four-bit floats (E2M1), two in a byte, and scales that are powers of two (E8M0): MXFP4, and the values of NVFP4.

Source: OCP Microscaling Formats (MX) Specification 1.0, sections 5.3.3 and 5.4.1.
"""

import ml_dtypes
import numpy as np

_POSITIVE = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
FLOAT4_VALUES = np.array([*_POSITIVE, *(-value for value in _POSITIVE)], np.float32)
"""The value of each of the 16 codes; the highest bit is the sign."""
_PAIRS = np.stack([np.tile(FLOAT4_VALUES, 16), np.repeat(FLOAT4_VALUES, 16)], axis=-1)  # [byte, 2]
_POWERS = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e8m0fnu).astype(np.float32)


def unpack_float4(byte: np.ndarray) -> np.ndarray:
    """Return the values float32 [..., 2 n] of bytes uint8 [..., n]: the low four bits are the first of each pair."""
    return _PAIRS[byte].reshape(*byte.shape[:-1], 2 * byte.shape[-1])


def decode_powers(code: np.ndarray) -> np.ndarray:
    """Return 2 ** (code - 127) as float32 for codes uint8; that of 255 is not a number."""
    return _POWERS[code]
