"""The methods of LLM for models that pool: `embed`, `score`, `classify` and `encode`."""

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

from jaxserve.llm_inputs import Prompt, parse_prompts
from jaxserve.llm_requests import LoadedModel, shows_progress
from jaxserve.models.pooling_spec import PoolingTask
from jaxserve.outputs import ClassificationOutput, EmbeddingOutput, ScoreOutput
from jaxserve.pooled_outputs import (
    check_dimensions,
    check_one_vector,
    compute_cosine,
    find_prompt,
    make_embedding,
    make_probabilities,
    pair_texts,
)
from jaxserve.pooling_params import PoolingParams
from jaxserve.prompt_input import PoolingInput, TextPair, TextPrompt

T = TypeVar("T")
Pooled = tuple[np.ndarray, tuple[int, ...], int]


def embed(
    self: LoadedModel,
    prompts: Prompt | Sequence[Prompt],
    *,
    pooling_params: PoolingParams | None = None,
    input_type: str | None = None,
    use_tqdm: bool = True,
) -> list[EmbeddingOutput]:
    """Embed texts, all at once. Returns one EmbeddingOutput for each text, in order.

    prompts          a text, token ids, {"prompt": …} or {"prompt_token_ids": …}, or a list of these
    pooling_params   truncation, dimensions and length of the embeddings
    input_type       the name of the model's prompt that goes before each text, such as "query"; None: its default
    use_tqdm         show a progress bar over several texts

    Raises RequestError for a request that cannot be served, or a model that is not served for the task embed.
    """
    client, params = self._blocking_client.client, pooling_params or PoolingParams()
    task = client.limits.get_task("embed")
    check_one_vector(task)
    check_dimensions(params.dimensions, task, client.width)
    before = find_prompt(input_type, task)
    results = _pool(self, _parse(prompts, before), params, use_tqdm)
    options = {"dimensions": params.dimensions, "normalize": params.normalize}
    return [EmbeddingOutput(make_embedding(pooled, task, **options).tolist(), ids, num) for pooled, ids, num in results]


def classify(
    self: LoadedModel,
    prompts: Prompt | Sequence[Prompt],
    *,
    pooling_params: PoolingParams | None = None,
    use_tqdm: bool = True,
) -> list[ClassificationOutput]:
    """Classify texts, all at once. Returns one ClassificationOutput for each text, in order.

    The parameters are those of `embed`.

    Raises RequestError for a request that cannot be served, or a model that has no labels.
    """
    task = self._blocking_client.client.limits.get_task("classify", "score")
    results = _pool(self, _parse(prompts), pooling_params or PoolingParams(), use_tqdm)
    return [_to_classification(pooled, ids, task) for pooled, ids, _ in results]


def score(
    self: LoadedModel,
    text_1: str | Sequence[str],
    text_2: str | Sequence[str],
    *,
    pooling_params: PoolingParams | None = None,
    use_tqdm: bool = True,
) -> list[ScoreOutput]:
    """Score pairs of texts, all at once: one text with one or many, or each with the one at its place.

    Embedding models score the cosine of both embeddings.

    Raises RequestError for a request that cannot be served, or a model that is served for another task.
    """
    client, params = self._blocking_client.client, pooling_params or PoolingParams()
    task = client.limits.get_task("embed", "score")
    check_one_vector(task)
    pairs = pair_texts(text_1, text_2)
    if task.name == "score":
        results = _pool(self, [TextPair(*pair) for pair in pairs], params, use_tqdm)
        return [ScoreOutput(float(make_probabilities(pooled, task)[0]), ids) for pooled, ids, _ in results]
    texts = list(dict.fromkeys(text for pair in pairs for text in pair))
    pooled = _pool(self, [TextPrompt(text) for text in texts], params, use_tqdm)
    by_text = dict(zip(texts, pooled, strict=True))
    both = [(by_text[first], by_text[second]) for first, second in pairs]
    return [ScoreOutput(compute_cosine(first[0], second[0]), first[1] + second[1]) for first, second in both]


def encode(
    self: LoadedModel,
    prompts: Prompt | Sequence[Prompt],
    *,
    pooling_params: PoolingParams | None = None,
    use_tqdm: bool = True,
) -> list[np.ndarray]:
    """Return what the model pools of each text, in order: an embedding, one for each token, or probabilities.

    The parameters are those of `embed`.

    Raises RequestError for a request that cannot be served.
    """
    client, params = self._blocking_client.client, pooling_params or PoolingParams()
    task = client.limits.get_task("embed", "score", "classify")
    check_dimensions(params.dimensions, task, client.width)
    results = _pool(self, _parse(prompts), params, use_tqdm)
    if task.name != "embed":
        return [make_probabilities(pooled, task) for pooled, _, _ in results]
    options = {"dimensions": params.dimensions, "normalize": params.normalize}
    return [make_embedding(pooled, task, **options) for pooled, _, _ in results]


def _parse(prompts: Any, before: str = "") -> list[PoolingInput]:
    parsed = parse_prompts(prompts)
    return [TextPrompt(before + prompt) if isinstance(prompt, str) else prompt for prompt in parsed]


def _pool(self: LoadedModel, inputs: Sequence[PoolingInput], params: PoolingParams, use_tqdm: bool) -> list[Pooled]:
    client = self._blocking_client
    requests = client.client.pooling_preparer.prepare_all(inputs, params)
    deltas = client.run_all(requests, show_progress=shows_progress(self, use_tqdm, requests))
    return [
        (own[-1].pooled, ready.prompt_ids, own[-1].num_cached_tokens)
        for ready, own in zip(requests, deltas, strict=True)
    ]


def _to_classification(pooled: np.ndarray, ids: tuple[int, ...], task: PoolingTask) -> ClassificationOutput:
    probs = make_probabilities(pooled, task)
    return ClassificationOutput(probs.tolist(), task.labels[int(probs.argmax())], ids)
