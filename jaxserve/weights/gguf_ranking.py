"""The score head of a reranker in a GGUF file: the rows of "yes" and "no", of which transformers has the difference.

Source: llama.cpp's conversion/qwen.py, which takes both rows from the logits' matrix, and its pooling of type rank,
which takes the softmax over both: the sigmoid of the difference.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxserve.errors import BadCheckpoint
from jaxserve.weights.gguf_metadata import GGUFMetadata

RANK = 4  # a pooling_type
RANK_TENSOR, SCORE_TENSOR = "cls.output.weight", "score.weight"
LABELS = ["yes", "no"]


def read_ranking(metadata: GGUFMetadata, shapes: Mapping[str, tuple[int, ...]], class_name: str) -> dict[str, Any]:
    """Return the keys of config.json of a reranker, nothing of another model.

    Raises BadCheckpoint for a reranker without a head, or with another one.
    """
    kind, labels = metadata.find(".pooling_type"), metadata.find(".classifier.output_labels")
    shape = shapes.get(RANK_TENSOR)
    if shape is None:
        if kind == RANK:
            raise BadCheckpoint(f"{metadata.path} pools by rank and has no tensor {RANK_TENSOR!r}; convert it anew.")
        return {}
    if len(shape) != 2 or shape[0] != len(LABELS) or labels != LABELS:
        expected = f"{LABELS}, of which {RANK_TENSOR!r} has the rows"
        raise metadata.unsupported(".classifier.output_labels", labels, expected)
    name = class_name.replace("ForCausalLM", "ForSequenceClassification")
    return {"architectures": [name], "id2label": {"0": "LABEL_0"}}


def subtract_answers(value_LD: np.ndarray) -> np.ndarray:
    """Return score.weight [1, D] of the rows of both answers."""
    value_LD = value_LD.astype(np.float32)
    return value_LD[:1] - value_LD[1:]
