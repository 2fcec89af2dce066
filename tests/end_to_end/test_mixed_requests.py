"""Fifty mixed requests to the default model have the same tokens together and alone.

Packed products on a CPU give a row the same bits in any batch, so nothing has to be far from a tie.
"""

import json
from pathlib import Path

import pytest

from jaxserve import LLM, SamplingParams
from jaxserve.native import library

REQUESTS = json.loads((Path(__file__).parents[1] / "data/mixed_requests.json").read_text())["requests"]
pytestmark = pytest.mark.skipif(library.find_compiler() is None, reason="no C compiler here")


def test_tokens_are_the_same_together_and_alone():
    texts = [request["prompt"] for request in REQUESTS]
    params = [SamplingParams(**fields(request["params"])) for request in REQUESTS]
    with LLM(max_model_len=256, max_num_seqs=16, max_num_batched_tokens=128, quiet=True) as llm:
        together = [tokens(output) for output in llm.generate(texts, params, use_tqdm=False)]
        alone = [tokens(llm.generate([text], each)[0]) for text, each in zip(texts, params, strict=True)]
    assert together == alone


def fields(params: dict) -> dict:
    bias = params.get("logit_bias")
    return params | ({"logit_bias": {int(token): value for token, value in bias.items()}} if bias else {})


def tokens(output) -> list[list[int]]:
    return [list(choice.token_ids) for choice in output.choices]
