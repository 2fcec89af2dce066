"""The real all-MiniLM-L6-v2: its embeddings are those of transformers, the mean of all tokens at length 1."""

import numpy as np
import pytest
import torch
import transformers

from jaxserve import LLM
from tests import assets
from tests.pooling.models import unit

TEXTS = (
    "The cat sat on the mat.",
    "A feline rested on a rug.",
    "Stock markets fell sharply on Tuesday after the central bank raised interest rates.",
    "",
    "word " * 200,
    "Ünïcödé, 数字 and emoji 🙂",
)


@pytest.mark.assets
def test_embeddings_are_those_of_transformers() -> None:
    path = assets.model("all-minilm-l6-v2")
    network = transformers.BertModel.from_pretrained(path, dtype=torch.float32).eval()
    with LLM(str(path), quiet=True, max_num_batched_tokens=256, max_num_seqs=4) as llm:
        assert llm.config.max_model_len == 256
        outputs = llm.embed([text for text in TEXTS if text], use_tqdm=False)
    for output in outputs:
        with torch.no_grad():
            vectors = network(torch.tensor([output.prompt_token_ids])).last_hidden_state[0].numpy()
        np.testing.assert_allclose(output.embedding, unit(vectors.mean(0)), atol=1e-4)
    first, same, other = (np.array(output.embedding) for output in outputs[:3])
    assert first @ same > 0.5 > first @ other
