"""What becomes of pooled vectors on the host: embeddings of some length, scores, and probabilities of labels."""

from collections.abc import Mapping, Sequence

import numpy as np

from jaxserve.errors import InvalidParameter
from jaxserve.models.pooling_spec import PoolingTask

PROMPT_ALIASES: Mapping[str, str] = {"search_query": "query", "search_document": "document", "passage": "document"}
"""Other words for what a text is, and the name of the prompt that is meant."""


def check_dimensions(dimensions: int | None, task: PoolingTask, width: int) -> None:
    """Check the length to which embeddings are to be cut; None: they are whole.

    Raises InvalidParameter if the model's files do not allow it.
    """
    if dimensions is None:
        return
    allowed = task.dimensions
    if not allowed:
        raise InvalidParameter(
            "dimensions: this model's embeddings are not made to be cut (matryoshka); leave it out, or name lengths"
            " with --matryoshka-dimensions.",
            "dimensions",
        )
    if dimensions > width or (allowed is not True and dimensions not in (*allowed, width)):
        which = f"from 1 to {width}" if allowed is True else f"one of {', '.join(map(str, (*allowed, width)))}"
        raise InvalidParameter(f"dimensions is {dimensions} and must be {which}.", "dimensions")


def check_one_vector(task: PoolingTask) -> None:
    """Check that a text has one vector. Raises InvalidParameter for a model that is served with --pooling ALL."""
    if task.spec.kind == "all":
        raise InvalidParameter("This model is served with --pooling ALL: /pooling and LLM.encode return its vectors.")


def find_prompt(name: str | None, task: PoolingTask) -> str:
    """Return the text that goes before a text; name: what the request calls the text, None: the model's default.

    Raises InvalidParameter if the model has no prompt of this name.
    """
    if name is None:
        return "" if task.default_prompt is None else task.prompts[task.default_prompt]
    for each in (name, PROMPT_ALIASES.get(name, name)):
        if each in task.prompts:
            return task.prompts[each]
    if PROMPT_ALIASES.get(name, name) == "document" and task.prompts:
        return ""  # files write down only the prompts that are not empty
    known = ", ".join(task.prompts) or "none"
    raise InvalidParameter(f"input_type is {name!r}; the prompts of this model are: {known}.", "input_type")


def make_embedding(
    pooled: np.ndarray, task: PoolingTask, *, dimensions: int | None = None, normalize: bool | None = None
) -> np.ndarray:
    """Return an embedding, float32 [X], or one for each token.

    pooled       What the engine has pooled.
    dimensions   The length to which it is cut.
    normalize    It gets length 1; None: as the model's files say.
    """
    vector = pooled if dimensions is None else pooled[..., :dimensions]
    if task.normalizes if normalize is None else normalize:
        length = np.linalg.norm(vector, axis=-1, keepdims=True)
        vector = vector / np.maximum(length, 1e-12)
    return np.ascontiguousarray(vector, np.float32)


def make_probabilities(pooled: np.ndarray, task: PoolingTask, *, activates: bool = True) -> np.ndarray:
    """Return the probability of each label, or the score, float32: what the model's activation makes of its scores.

    activates    False: the scores themselves, without the activation.
    """
    scores = pooled.astype(np.float64)
    if task.spec.answer_ids is not None:
        scores = scores[1:] - scores[:1]  # the softmax over two logits is the sigmoid of their difference
    if not activates:
        return scores.astype(np.float32)
    if task.activation == "sigmoid":
        scores = 0.5 * (1 + np.tanh(scores / 2))  # the same as 1 / (1 + exp(-x)), which overflows
    elif task.activation == "softmax":
        scores = np.exp(scores - scores.max())
        scores /= scores.sum()
    return scores.astype(np.float32)


def compute_cosine(first: np.ndarray, second: np.ndarray) -> float:
    """Return the cosine of the angle between two vectors."""
    lengths = np.linalg.norm(first.astype(np.float64)) * np.linalg.norm(second.astype(np.float64))
    return float(first.astype(np.float64) @ second.astype(np.float64) / max(lengths, 1e-12))


def pair_texts(text_1: str | Sequence[str], text_2: str | Sequence[str]) -> list[tuple[str, str]]:
    """Return the pairs of texts that are scored: one with one or many, or each with the one at its place.

    Raises InvalidParameter if there are none, or neither.
    """
    first, second = ([text] if isinstance(text, str) else list(text) for text in (text_1, text_2))
    for name, texts in (("text_1", first), ("text_2", second)):
        if not texts or not all(isinstance(text, str) and text for text in texts):
            raise InvalidParameter(f"{name} has to be a text, or a list of texts, none of them empty.", name)
    if len(first) == 1:
        first = first * len(second)
    if len(first) != len(second):
        raise InvalidParameter(
            f"text_1 has {len(first)} texts and text_2 {len(second)}; they need equally many, or text_1 only one.",
            "text_1",
        )
    return list(zip(first, second, strict=True))
