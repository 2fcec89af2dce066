"""Published weights load, and each greedy output equals that of transformers on the same weights."""

import gc

import pytest
import torch

from jaxserve import LLM, SamplingParams
from jaxserve.weights.checkpoint import open_checkpoint
from tests import assets
from tests.models.torch_model import TorchModel

pytestmark = pytest.mark.assets

FRANCE = [{"role": "user", "content": "What is the capital of France?"}]
SETTINGS = {
    "quantization": "none",
    "max_model_len": 256,
    "max_num_seqs": 1,
    "max_num_batched_tokens": 64,
    "max_logprobs": 0,
}
# name → (what it is asked, what its answer contains)
MODELS = {
    "minimind2-small": (FRANCE, "Paris"),
    "stories15m": ("Once upon a time", "Lily"),
    "qwen2.5-coder-0.5b": (FRANCE, "Paris"),
    "gemma-3-270m": ("The three primary colors are", "red, blue, and yellow"),
}


@pytest.mark.parametrize("name", MODELS)
def test_it_says_what_transformers_says(name):
    asked, expected = MODELS[name]
    path = assets.model(name)
    with LLM(str(path), **SETTINGS) as llm:
        params = SamplingParams(temperature=0, max_tokens=40)
        answer = llm.chat(asked, params) if isinstance(asked, list) else llm.generate(asked, params)[0]
    assert expected in answer.text
    assert list(answer.choices[0].token_ids) == greedy_of_transformers(path, answer)
    gc.collect()


def greedy_of_transformers(path, answer):
    """As many tokens as ours has, from one forward pass over prompt and answer: each must be the best at its place.

    By induction that is the greedy answer itself.
    """
    checkpoint = open_checkpoint(path)
    model = TorchModel(checkpoint.config, {name: checkpoint.read(name) for name in checkpoint.tensors})
    tokens = [*answer.prompt_token_ids, *answer.choices[0].token_ids]
    with torch.inference_mode():
        logits = model.logits(tokens)
    return logits[len(answer.prompt_token_ids) - 1 : -1].argmax(-1).tolist()
