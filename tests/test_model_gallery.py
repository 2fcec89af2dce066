"""What builds the small real models reads its sources with what a plain install has."""

import numpy as np
import pytest

from scripts import model_gallery
from tests import clean_environment


def varint(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value & (1 << 64) - 1)
    return varint(number << 3 | 2) + varint(len(value)) + value


def tensor(name: str, value: np.ndarray, stored_in: int) -> bytes:
    """A TensorProto with its numbers in field 4 (floats), 5 (integers, packed) or 9 (raw)."""
    kind = {dtype: number for number, dtype in model_gallery.ONNX_TYPES.items()}[value.dtype.str.lstrip("|")]
    numbers = b"".join(varint(int(item)) for item in value.flat) if stored_in == 5 else value.tobytes()
    shape = b"".join(field(1, size) for size in value.shape)
    return field(5, shape + field(2, kind) + field(8, name.encode()) + field(stored_in, numbers))


@pytest.mark.parametrize(
    ("value", "stored_in"),
    [(np.float32(0.5), 4), (np.uint8([1, 200]), 5), (np.uint8([[1, 2], [3, 4]]), 9), (np.float32([[1], [2]]), 9)],
)
def test_a_tensor_of_an_onnx_file_is_read_however_it_is_stored(value, stored_in):
    node = field(1, field(1, b"x") + field(1, b"w") + field(3, b"/model/layers.0/q") + field(4, b"MatMulInteger"))
    tensors, nodes = model_gallery.read_onnx(field(7, node + tensor("w", np.asarray(value), stored_in)))
    np.testing.assert_array_equal(tensors["w"], value, strict=True)
    assert [(node.name, node.op_type, node.inputs) for node in nodes] == [
        ("/model/layers.0/q", "MatMulInteger", ["x", "w"])
    ]


def test_fetching_models_needs_nothing_of_the_test_extra(tmp_path):
    site = clean_environment.link_packages(tmp_path)
    (site / "scripts").symlink_to(clean_environment.REPO / "scripts")
    code = "from scripts import model_gallery as g; print(*g.MODELS); g.read_onnx(bytes([58, 0]))"
    done = clean_environment.run(site, "-c", code)
    assert (done.returncode, done.stderr) == (0, "")
    assert "minimind2-small" in done.stdout
