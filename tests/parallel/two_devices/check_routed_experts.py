"""Two devices that hold a model together return the experts of one."""

import pytest

from jaxserve import LLM
from tests.models.tiny import write

SETTINGS = {"max_model_len": 64, "max_num_seqs": 2, "max_num_batched_tokens": 32, "num_gpu_blocks_override": 20}
PROMPTS = [[(11 * i + j) % 250 for j in range(5 + 20 * i)] for i in range(2)]


@pytest.mark.parametrize("has_expert_parallelism", [False, True])
def test_two_devices_return_the_experts_of_one(tmp_path, has_expert_parallelism):
    path = str(write(tmp_path, "qwen3_moe", seed=3))
    experts = []
    for sizes in ({}, {"tensor_parallel_size": 2, "enable_expert_parallel": has_expert_parallelism}):
        with LLM(path, quiet=True, enable_return_routed_experts=True, **SETTINGS, **sizes) as llm:
            completions = llm.generate(PROMPTS, max_tokens=9, temperature=0, ignore_eos=True, use_tqdm=False)
            experts.append([completion.choices[0].routed_experts for completion in completions])
    for one, two in zip(*experts, strict=True):
        assert (one == two).all()
