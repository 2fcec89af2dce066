"""Two hundred mixed requests have the tokens of one device: greedy and sampled, with all that acts on logits."""

import random

import pytest

from jaxserve import LLM, SamplingParams
from tests.parallel.eight_devices.models import PACKABLE, keep_activations, write

NUM_REQUESTS, NUM_TOKENS = 200, 6
SETTINGS = {"max_model_len": 64, "max_num_seqs": 2, "max_num_batched_tokens": 32, "num_gpu_blocks_override": 40}
SETTINGS |= {"max_logprobs": 3, "quiet": True, "roofline": False, "compilation_cache_dir": "none"}
CASES = [("llama", 2, False, "none"), ("gemma3", 4, False, "none"), ("qwen3_moe", 8, True, "none")]
CASES += [("llama", 4, False, "int4"), ("qwen3_moe", 2, False, "int4"), ("qwen3_moe", 8, True, "int8")]


def make_params(rng: random.Random) -> SamplingParams:
    """A request that is greedy or sampled, and has some of the other parameters."""
    options = [
        {"repetition_penalty": 1.3, "frequency_penalty": 0.4},
        {"presence_penalty": 0.7},
        {"logit_bias": {rng.randrange(256): 3.0, rng.randrange(256): -5.0}},
        {"allowed_token_ids": rng.sample(range(256), 20)},
        {"logprobs": 3},
        {"prompt_logprobs": 2},
        {"min_tokens": 3},
    ]
    sampled = {
        "temperature": 0.9,
        "seed": rng.randrange(2**40),
        "top_k": rng.choice([0, 9]),
        "min_p": rng.choice([0, 0.02]),
    }
    sampled |= {"top_p": rng.choice([1.0, 0.8])}
    sampled |= {"n": rng.choice([1, 1, 2])}
    fields = sampled if rng.random() < 0.6 else {"temperature": 0.0}
    for option in rng.sample(options, rng.randrange(4)):
        fields = fields | option
    return SamplingParams(**fields, max_tokens=NUM_TOKENS)


def make_requests() -> tuple[list[list[int]], list[SamplingParams]]:
    rng = random.Random(4)
    prompts = [[rng.randrange(256) for _ in range(rng.randrange(2, 36))] for _ in range(NUM_REQUESTS)]
    return prompts, [make_params(rng) for _ in prompts]


def run(directory, **sizes) -> list:
    prompts, params = make_requests()
    with LLM(str(directory), **SETTINGS, **sizes) as llm:
        completions = llm.generate([{"prompt_token_ids": prompt} for prompt in prompts], params, use_tqdm=False)
    return [[(list(choice.token_ids), choice.finish_reason) for choice in each.choices] for each in completions]


def test_tokens_that_come_together_are_those_that_come_alone_on_one_device(tmp_path):
    directory = write(tmp_path / "llama", "llama")
    assert run(directory, tensor_parallel_size=2, num_scheduler_steps=4) == run(directory)


@pytest.mark.parametrize(("family", "size", "has_expert_parallelism", "quantization"), CASES)
def test_tokens_are_those_of_one_device(tmp_path, family, size, has_expert_parallelism, quantization, monkeypatch):
    """But for the rounding of activations beside packed weights, see check_packed.py."""
    if quantization != "none":
        keep_activations(monkeypatch)
    directory = write(tmp_path / family, family, **({} if quantization == "none" else PACKABLE[family]))
    sizes = {"tensor_parallel_size": size, "enable_expert_parallel": has_expert_parallelism}
    assert run(directory, quantization=quantization, **sizes) == run(directory, quantization=quantization)
