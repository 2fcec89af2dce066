"""A quantization's name finds its file, however the repository writes it."""

import pytest

from jaxserve.errors import BadConfig
from jaxserve.weights.gguf_files import (
    choose_file,
    describe_choices,
    describe_missing_parts,
    find_only_model,
    list_parts,
    quant_of_file,
)

NAMES = {
    "Model-Q4_K_M.gguf": "Q4_K_M",
    "model.q4_k_m.gguf": "Q4_K_M",
    "sub/Model-UD-Q4_K_XL.gguf": "UD-Q4_K_XL",
    "Q8_0/whole.gguf": "Q8_0",
    "model-iq2_xxs.gguf": "IQ2_XXS",
    "model-BF16-00001-of-00002.gguf": "BF16",
    "model-fp16.gguf": "FP16",
    "model.gguf": None,
    "Qwen3.gguf": None,
}


@pytest.mark.parametrize("name", NAMES)
def test_a_file_tells_its_quantization(name):
    assert quant_of_file(name) == NAMES[name]


@pytest.mark.parametrize("quant", ["Q4_K_M", "q4_k_m", "Q4_K_m"])
def test_the_file_is_found_in_either_case(quant):
    assert choose_file("o/n", quant, ["M-Q4_K_S.gguf", "M-q4_k_m.gguf", "M-Q3_K_M.gguf"]) == "M-q4_k_m.gguf"


@pytest.mark.parametrize("name", [name for name, quant in NAMES.items() if quant and "-of-" not in name])
def test_every_way_of_writing_it_is_found(name):
    assert choose_file("o/n", NAMES[name], [name, "other-Q2_K.gguf"]) == name


def test_of_a_model_in_parts_the_first_is_found():
    parts = [f"M-Q8_0-0000{index}-of-00003.gguf" for index in (1, 2, 3)]
    assert choose_file("o/n", "Q8_0", ["M-Q4_0.gguf", *reversed(parts)]) == parts[0]
    assert all(list_parts(part) == parts for part in parts)
    assert find_only_model(reversed(parts)) == parts[0]
    assert find_only_model(parts[:2]) is find_only_model([*parts, "M-Q4_0.gguf"]) is find_only_model([]) is None
    assert find_only_model(["a.gguf"]) == "a.gguf"


def test_parts_that_are_missing_are_named():
    parts = [f"m-0000{index}-of-00003.gguf" for index in (1, 2, 3)]
    assert describe_missing_parts(parts[1:]) == parts[0]
    assert describe_missing_parts(parts[:1]) == f"{parts[1]}, {parts[2]}"
    for names in (parts, [], ["a.gguf"], [parts[0], "a.gguf"]):
        assert describe_missing_parts(names) == ""


@pytest.mark.parametrize("name", ["m-00001-of-00000.gguf", "m-00000-of-00002.gguf", "m-00003-of-00002.gguf"])
def test_numbers_that_count_no_parts_are_part_of_a_name(name):
    assert list_parts(name) == [name]
    assert describe_choices("o/n", [name]) == f"name one of them: o/n/{name}"


@pytest.mark.parametrize(
    ("quant", "names", "reason"),
    [
        ("Q6_K", ["M-Q4_K_M.gguf", "M-Q8_0.gguf"], "no .gguf file of Q6_K; choose one of them: o/n:Q4_K_M, o/n:Q8_0"),
        ("Q6_K", ["a.gguf", "M-Q8_0.gguf"], "name one of them: o/n/M-Q8_0.gguf, o/n/a.gguf"),
        ("Q8_0", ["a-Q8_0.gguf", "b-Q8_0.gguf"], "2 .gguf files of Q8_0; name one of them: o/n/a-Q8_0.gguf"),
        ("Q8_0", ["M-Q8_0-00001-of-00002.gguf", "M-Q4_0.gguf"], "lacks parts of its Q8_0: M-Q8_0-00002-of-00002.gguf."),
        ("4_K_M", ["M-Q4_K_M.gguf"], "no .gguf file of 4_K_M"),
        ("F16", ["mmproj-F16.gguf", "M-Q8_0.gguf"], "no .gguf file of F16"),
        ("F16", [], "has no .gguf files"),
    ],
)
def test_what_is_not_there_or_not_one_is_answered_with_what_is(quant, names, reason):
    with pytest.raises(BadConfig) as refused:
        choose_file("o/n", quant, names)
    assert reason in str(refused.value)
