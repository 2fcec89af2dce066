"""A second start on the same devices finds every program, and so does one with built programs."""

from jaxserve import LLM, EngineConfig, build_programs
from tests.parallel.eight_devices.models import write

SIZES = {"max_model_len": 64, "max_num_seqs": 1, "max_num_batched_tokens": 16}
SETTINGS = {**SIZES, "quiet": True, "roofline": False}


def test_a_second_start_finds_its_programs(tmp_path):
    directory, results = write(tmp_path / "llama", "llama"), []
    for _ in range(2):
        with LLM(str(directory), **SETTINGS, tensor_parallel_size=2, compilation_cache_dir=str(tmp_path)) as llm:
            [completion] = llm.generate(["Two devices"], temperature=0.8, seed=3, max_tokens=9)
            results.append((llm.description["programs"].split(" in ")[0], completion.text))
    (first, text), (second, again) = results
    num = first.split()[0]
    assert (first, second) == (
        f"{num} compiled, 0 of them from the cache",
        f"{num} compiled, {num} of them from the cache",
    )
    assert text == again


def test_what_is_built_for_replicas_of_several_devices_serves_them(tmp_path):
    directory, devices = write(tmp_path / "llama", "llama"), {"tensor_parallel_size": 2, "data_parallel_size": 2}
    built = build_programs(EngineConfig(model=str(directory), **SIZES, **devices), tmp_path / "built")
    with LLM(str(directory), **SETTINGS, **devices, programs=str(built.path), compilation_cache_dir="none") as llm:
        assert llm.description["programs"].endswith("built, 0 compiled"), llm.description["programs"]
        assert len(llm.generate(["Two devices"], temperature=0.8, seed=3, max_tokens=9)) == 1
