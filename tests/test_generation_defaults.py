"""Which of the layers of generation configs holds, name by name."""

import json

import pytest

from jaxserve import BadConfig, EngineConfig
from jaxserve.generation_defaults import SAMPLING_DEFAULT_KEYS, GenerationDefaults

OWN = {"temperature": 0.6, "top_k": 20, "do_sample": True, "max_new_tokens": 50, "eos_token_id": [7, 8]}
MODEL = {"eos_token_id": 9}
EVERY = {
    "repetition_penalty": 1.1,
    "temperature": 0.5,
    "top_k": 4,
    "top_p": 0.9,
    "min_p": 0.1,
    "presence_penalty": 0.2,
    "frequency_penalty": -0.2,
    "skip_special_tokens": False,
}


def of(own=OWN, model=MODEL, **config) -> GenerationDefaults:
    return GenerationDefaults.from_configs(EngineConfig(**config), own, model)


def test_every_name_that_is_read_becomes_a_parameter():
    found = of(EVERY | {"max_new_tokens": 5})
    assert set(found.values) == set(SAMPLING_DEFAULT_KEYS)
    assert {name: getattr(found.params, name) for name in EVERY} == EVERY
    assert found.params.max_tokens is None


def test_the_models_own_preferences_are_read_unless_told_not_to():
    assert of().values == {"temperature": 0.6, "top_k": 20, "max_new_tokens": 50}
    assert str(of()) == "temperature 0.6, top_k 20, max_new_tokens 50"
    assert (of(generation_config="vllm").values, str(of(generation_config="vllm"))) == ({}, "none")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_given_directory_stands_in_for_the_models_own(tmp_path, encoding):
    text = json.dumps({"top_p": 0.5, "eos_token_id": 3})
    (tmp_path / "generation_config.json").write_text(text, encoding=encoding)
    found = of(generation_config=str(tmp_path))
    assert (found.values, found.eos_ids) == ({"top_p": 0.5}, {3})


def test_an_override_wins_name_by_name_and_null_overrides_nothing():
    found = of(override_generation_config={"top_k": 3, "temperature": None, "min_p": 0.1})
    assert found.values == {"temperature": 0.6, "top_k": 3, "min_p": 0.1, "max_new_tokens": 50}


def test_only_the_operators_length_is_a_ceiling(tmp_path):
    assert of().hard_max_tokens is None
    assert of(override_generation_config={"max_new_tokens": 9}).hard_max_tokens == 9
    (tmp_path / "generation_config.json").write_text(json.dumps({"max_new_tokens": 8}))
    assert of(generation_config=str(tmp_path)).hard_max_tokens == 8
    both = of(generation_config=str(tmp_path), override_generation_config={"max_new_tokens": 9})
    assert (both.hard_max_tokens, both.values["max_new_tokens"]) == (9, 9)


@pytest.mark.parametrize(
    ("own", "model", "ends"),
    [
        ({}, {}, set()),
        ({}, MODEL, {9}),
        (OWN, MODEL, {7, 8}),
        ({"eos_token_id": 7}, MODEL, {7}),
        ({}, OWN, {7, 8}),
        ({}, {"text_config": MODEL}, {9}),
        ({}, {"text_config": MODEL} | OWN, {7, 8}),
    ],
)
@pytest.mark.parametrize("mode", ["auto", "vllm"])
def test_end_ids_are_read_in_every_mode(own, model, ends, mode):
    assert of(own, model, generation_config=mode).eos_ids == ends


@pytest.mark.parametrize(
    "wrong", [{"temperature": 3}, {"max_new_tokens": 0}, {"top_p": "x"}, {"repetition_penalty": 0}]
)
def test_defaults_that_no_request_could_ask_for_stop_the_start(wrong):
    with pytest.raises(BadConfig, match="sampling defaults"):
        of(override_generation_config=wrong)


def test_a_directory_without_the_file_stops_the_start(tmp_path):
    with pytest.raises(BadConfig, match=r"holds no readable generation_config\.json"):
        of(generation_config=str(tmp_path))
