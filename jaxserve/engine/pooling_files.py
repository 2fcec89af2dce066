"""The task of a model: to generate, or to pool, as the settings and the model's files say."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from tokenizers import Tokenizer as TokenizerBackend

from jaxserve.config import EngineConfig
from jaxserve.engine.sentence_transformers import SentenceTransformersFiles
from jaxserve.errors import BadCheckpoint, BadConfig
from jaxserve.models.dense_params import DenseModule
from jaxserve.models.encoders import CLASSIFIER, find_score_pooling, is_encoder, is_headless
from jaxserve.models.pooling_spec import PoolingKind, PoolingSpec, PoolingTask, PoolingTaskName, ScoreActivation

DEFAULT_ANSWERS = ("no", "yes")  # what rerankers that are language models say of a pair of texts
# How these are asked for: the words of Qwen3-Reranker's model card.
QUESTION = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct"
    ' provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n<Instruct>: Given a web'
    " search query, retrieve relevant passages that answer the query\n<Query>: {query}\n<Document>: {document}"
    "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
)
ACTIVATIONS: Mapping[str, ScoreActivation] = {"Sigmoid": "sigmoid", "Identity": "none", "Softmax": "softmax"}


def find_task(
    config: EngineConfig, model_config: Mapping[str, Any], files: SentenceTransformersFiles, path: Path
) -> PoolingTask | None:
    """Return what a model pools for, None if it generates.

    model_config   Its config.json.
    files          Those of sentence-transformers beside it.
    path           Its directory or file.

    Raises BadConfig if it cannot be served for the task that the settings name, BadCheckpoint if its files ask for what
    is not computed here.
    """
    detected, reason = _detect(model_config, files)
    name = detected if config.task == "auto" else config.task
    if name == "pool":
        name = "embed" if detected == "generate" else detected
    if config.task not in ("auto", detected):
        reason = f"--task {config.task}"
    if name == "generate":
        if is_encoder(model_config):
            raise BadConfig(f"task={config.task!r}: this model has no logits to generate from; try --task embed.")
        return None
    spec, num_labels = _choose_pooling(config, model_config, files, name, path)
    modules = _choose_modules(spec, files, path) if name == "embed" else ()
    return PoolingTask(
        name=cast(PoolingTaskName, name),
        spec=spec,
        normalizes=name == "embed" and (files.normalizes or not files.is_there),
        dimensions=_read_dimensions(config, model_config),
        activation=_choose_activation(model_config, name, num_labels),
        labels=_read_labels(model_config, num_labels),
        prompts=files.prompts if name == "embed" else {},
        default_prompt=files.default_prompt if name == "embed" else None,
        pair_format=files.pair_format or (QUESTION if spec.answer_ids is not None else None),
        modules=modules,
        max_tokens=files.max_tokens,
        reason=reason,
    )


def count_labels(task: PoolingTask) -> int | None:
    """Return the outputs of the score head that the task needs; None: it needs no such head."""
    return len(task.labels) if task.name != "embed" and task.spec.answer_ids is None else None


def _detect(model_config: Mapping[str, Any], files: SentenceTransformersFiles) -> tuple[PoolingTaskName | str, str]:
    """Return the task that the files ask for, and the reason."""
    architecture = next(iter(model_config.get("architectures") or []), "")
    if files.answer_ids is not None or model_config.get("classifier_from_token") is not None:
        return "score", "the files name the tokens of a yes and a no"
    if architecture.endswith(CLASSIFIER):
        return ("score" if _count_labels(model_config) == 1 else "classify"), architecture
    if files.pooling is not None:
        return "embed", "modules.json"
    if is_encoder(model_config):
        return "embed", f"the model_type {model_config['model_type']}"
    if is_headless(model_config):
        return "embed", architecture
    return "generate", ""


def _choose_pooling(
    config: EngineConfig,
    model_config: Mapping[str, Any],
    files: SentenceTransformersFiles,
    name: str,
    path: Path,
) -> tuple[PoolingSpec, int]:
    """Return the pooling for a task, and the number of labels."""
    encoder = is_encoder(model_config)
    if name == "embed":
        default = files.pooling or ("mean" if encoder else "last")
        kind = default if config.pooling is None else cast(PoolingKind, config.pooling.lower())
        return PoolingSpec(kind=kind, is_whole=encoder), 0
    if config.pooling is not None:
        raise BadConfig(f"pooling={config.pooling!r} is of models that embed; a {name} model's head decides its own.")
    has_head = next(iter(model_config.get("architectures") or []), "").endswith(CLASSIFIER)
    if has_head and model_config.get("classifier_from_token") is None and files.answer_ids is None:
        num_labels = _count_labels(model_config)
        if name == "score" and num_labels != 1:
            raise BadConfig(f"task='score' needs a model with one label; this one has {num_labels}: try classify.")
        return PoolingSpec(kind=find_score_pooling(model_config), is_whole=encoder), num_labels
    if encoder or name == "classify":
        raise BadConfig(f"task={name!r} needs a model with a score head; this one has none: try --task embed.")
    return PoolingSpec(kind="last", answer_ids=files.answer_ids or _find_answers(model_config, path)), 1


def _choose_modules(spec: PoolingSpec, files: SentenceTransformersFiles, path: Path) -> tuple[DenseModule, ...]:
    """Return the dense layers over pooled vectors.

    Raises BadCheckpoint if they read a mean of chunks, which only the host knows.
    """
    if files.modules and spec.kind == "mean" and not spec.is_whole:
        raise BadCheckpoint(
            f"{path} has a module Dense behind the mean of a decoder that reads chunk by chunk, which is not computed"
            " here; known are the last token, the first one, and the mean of models whose tokens see all others."
        )
    return files.modules


def _find_answers(model_config: Mapping[str, Any], path: Path) -> tuple[int, ...]:
    """Return the ids of the two tokens that the files name, else those of "no" and "yes"."""
    names = model_config.get("classifier_from_token") or DEFAULT_ANSWERS
    file = path / "tokenizer.json"
    backend = TokenizerBackend.from_file(str(file)) if file.is_file() else None
    ids = tuple(None if backend is None else backend.token_to_id(str(name)) for name in names)
    if len(ids) != 2 or None in ids:
        raise BadConfig(
            f"task='score': the tokens {names!r}, whose logits are compared, are not two tokens of {file}; name others"
            ' by --hf-overrides \'{"classifier_from_token": ["no", "yes"]}\'.'
        )
    return tuple(each for each in ids if each is not None)


def _count_labels(model_config: Mapping[str, Any]) -> int:
    """Return the number of labels, as transformers counts them."""
    labels = model_config.get("id2label")
    return len(labels) if labels else int(model_config.get("num_labels") or 2)


def _read_labels(model_config: Mapping[str, Any], num_labels: int) -> tuple[str, ...]:
    given = {str(key): str(label) for key, label in (model_config.get("id2label") or {}).items()}
    return tuple(given.get(str(index), f"LABEL_{index}") for index in range(num_labels))


def _choose_activation(model_config: Mapping[str, Any], name: str, num_labels: int) -> ScoreActivation:
    """Return what becomes of scores: what sentence-transformers has written, else by the number of labels."""
    if name == "embed":
        return "none"
    own = model_config.get("sentence_transformers") or {}
    given = own.get("activation_fn") or model_config.get("sbert_ce_default_activation_function")
    if isinstance(given, str) and given.rpartition(".")[2] in ACTIVATIONS:
        return ACTIVATIONS[given.rpartition(".")[2]]
    if model_config.get("problem_type") == "regression":
        return "none"
    return (
        "softmax" if num_labels > 1 and model_config.get("problem_type") != "multi_label_classification" else "sigmoid"
    )


def _read_dimensions(config: EngineConfig, model_config: Mapping[str, Any]) -> Any:
    """Return the lengths to which embeddings may be cut."""
    given = config.matryoshka_dimensions or model_config.get("matryoshka_dimensions")
    if given:
        return tuple(sorted(int(size) for size in given))
    return True if model_config.get("is_matryoshka") else ()
