"""A second start on the same devices finds every program, and has the tokens of the first."""

from jaxserve import LLM
from tests.parallel.eight_devices.models import write

SETTINGS = {"max_model_len": 64, "max_num_seqs": 1, "max_num_batched_tokens": 16, "quiet": True, "roofline": False}


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
