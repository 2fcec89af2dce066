"""Adapters in the APIs: named by LoRARequest or by lora_modules, read once, and kept by the requests that run."""

import pytest
from safetensors.numpy import load_file

from jaxserve import (
    LLM,
    BadCheckpoint,
    BadConfig,
    EngineConfig,
    InvalidParameter,
    LoRARequest,
    SamplingParams,
    Unsupported,
)
from jaxserve.adapter_registry import AdapterRegistry
from jaxserve.engine.compile import compile_counter
from jaxserve.models.registry import find_architecture
from tests.models.tiny import tiny_config, write
from tests.weights.peft_writer import write_adapter, write_config

GREEDY = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
SETTINGS = {"max_model_len": 64, "max_num_seqs": 2, "max_num_batched_tokens": 32, "num_gpu_blocks_override": 40}
SETTINGS |= {"max_logprobs": 0, "roofline": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("lora")


@pytest.fixture(scope="module")
def paths(folder):
    """A model and three adapters."""
    model = write(folder / "model", "llama", seed=3)
    weights = load_file(model / "model.safetensors")
    adapters = [folder / name for name in ("a", "b", "c")]
    for seed, path in enumerate(adapters):
        write_adapter(path, weights, seed=seed, size=1.0)
    return str(model), *map(str, adapters)


@pytest.fixture(scope="module")
def llm(paths):
    model, a, *_ = paths
    with LLM(model, quiet=True, lora_modules=(f"a={a}",), max_loras=2, **SETTINGS) as llm:
        yield llm


def texts(llm, prompts, adapters):
    return [completion.text for completion in llm.generate(prompts, GREEDY, lora_request=adapters, use_tqdm=False)]


def test_each_prompt_has_its_adapter_and_nothing_is_compiled_for_a_new_one(llm, paths):
    before = compile_counter.compiled
    requests = [
        None,
        *(LoRARequest(name, number, path) for number, (name, path) in enumerate(zip("abc", paths[1:], strict=True), 1)),
    ]
    alone = [texts(llm, "Once upon a time", request)[0] for request in requests]
    assert len(set(alone)) == 4
    assert texts(llm, ["Once upon a time"] * 4, requests) == alone
    chats = [llm.chat("Hello", GREEDY, lora_request=request).text for request in requests]
    assert len(set(chats)) == 4
    streamed = "".join(delta.text for delta in llm.stream("Once upon a time", GREEDY, lora_request=requests[3]))
    assert streamed == alone[3]
    assert compile_counter.compiled == before
    assert "for 2 at a time" in llm.description["adapters"]


@pytest.mark.parametrize(
    ("request_of", "words"),
    [
        (lambda paths: "a", "must be a LoRARequest"),
        (lambda paths: [None, None], "2 values for 1 prompts"),
        (lambda paths: LoRARequest("x", 1, paths[0]), "no adapter at"),
    ],
)
def test_a_wrong_request_is_refused(llm, paths, request_of, words):
    with pytest.raises(InvalidParameter, match=words):
        texts(llm, "Hi", request_of(paths))


def test_a_running_request_keeps_an_adapter_that_is_removed(llm, paths):
    adapter = LoRARequest("b", 1, paths[2])
    [expected] = texts(llm, "Once upon a time", adapter)
    deltas = llm.stream("Once upon a time", GREEDY, lora_request=adapter)
    first = next(deltas).text
    assert llm._client.adapters.unload("b")
    assert first + "".join(delta.text for delta in deltas) == expected
    assert llm._client.adapters.find("b") is None


def test_an_adapter_is_read_again_from_another_place_alone(llm, paths):
    first = llm._client.adapters.get_or_load("same", paths[1])
    assert llm._client.adapters.get_or_load("same", paths[1]) is first
    other = llm._client.adapters.get_or_load("same", paths[2])
    assert other != first and other.name == "same"


def test_who_names_an_adapter_gets_it_although_another_one_takes_its_name_meanwhile(llm, paths, monkeypatch):
    adapters = llm._client.adapters

    def load_other(*_):
        monkeypatch.undo()
        adapters.load("shared", paths[2], replace=True)

    monkeypatch.setattr("jaxserve.adapter_registry.log.info", load_other)
    adapter = adapters.get_or_load("shared", paths[1])
    assert adapter == adapters.get_or_load("same files", paths[1]) != adapters.find("shared")


@pytest.mark.parametrize("text", ["sql", "=x", "x=", '{"name": "a"}', '{"name": "a", "path": 3}', '{"nam": "a"}', "{"])
def test_a_module_that_cannot_be_understood_is_named(text):
    with pytest.raises(BadConfig, match="lora_modules"):
        EngineConfig(lora_modules=(text,))


def test_two_modules_of_one_name_are_refused():
    with pytest.raises(BadConfig, match="'a' twice"):
        EngineConfig(lora_modules=("a=x", '{"name": "a", "path": "y"}'))


def test_a_bad_adapter_ends_the_start_before_weights_are_read(folder, paths):
    config = tiny_config("llama")
    architecture = find_architecture(config)
    write_adapter(folder / "dora", load_file(folder / "model" / "model.safetensors"))
    write_config(folder / "dora", use_dora=True)
    settings = EngineConfig(lora_modules=(f"bad={folder / 'dora'}",))
    with pytest.raises(BadCheckpoint, match="DoRA"):
        AdapterRegistry(settings, architecture.params(architecture.spec(config)))


def test_adapters_need_their_switch(paths):
    registry = AdapterRegistry(EngineConfig(), {})
    with pytest.raises(Unsupported, match="start with --enable-lora"):
        registry.load("a", paths[1])
