"""The forms of packed checkpoints in which every family is loaded, by what people call them."""

from tests.models.tiny import FAMILIES

PACKED_FORMS = {  # → form of tests/weights/quantized_writer.py; the other forms of each are tested with Llama
    "fp8": "fp8 blocks",
    "compressed-tensors": "int4 words",
    "AWQ": "awq",
    "GPTQ": "gptq",
    "MXFP4": "mxfp4, compressed-tensors",
    "NVFP4": "nvfp4, compressed-tensors",
}
ALWAYS_PACKED = "fp8"  # the one that is tested every time; the others are marked long
PACKED_CASES = [(family, form) for family in FAMILIES for form in PACKED_FORMS]
