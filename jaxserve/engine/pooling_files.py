"""The task of a model: to generate, or to pool, as the settings and the model's files say."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from tokenizers import Tokenizer as TokenizerBackend

from jaxserve.config import EngineConfig
from jaxserve.engine.sentence_transformers import SentenceTransformersFiles, read_files
from jaxserve.errors import BadConfig
from jaxserve.models.encoders import CLASSIFIER, is_encoder, is_headless
from jaxserve.models.pooling_spec import PoolingKind, PoolingSpec, PoolingTask, PoolingTaskName, ScoreActivation

DEFAULT_ANSWERS = ("no", "yes")  # what rerankers that are language models say of a pair of texts
ACTIVATIONS: Mapping[str, ScoreActivation] = {"Sigmoid": "sigmoid", "Identity": "none", "Softmax": "softmax"}


def find_task(config: EngineConfig, model_config: Mapping[str, Any], path: Path) -> PoolingTask | None:
    """Return what a model pools for, None if it generates.

    model_config   Its config.json.
    path           Its directory or file.

    Raises BadConfig if it cannot be served for the task that the settings name, BadCheckpoint if its files ask for what
    is not computed here.
    """
    files = read_files(path)
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
    return PoolingTask(
        name=cast(PoolingTaskName, name),
        spec=spec,
        normalizes=name == "embed" and (files.normalizes or not files.is_there),
        dimensions=_read_dimensions(config, model_config),
        activation=_choose_activation(model_config, name, num_labels),
        labels=_read_labels(model_config, num_labels),
        prompts=files.prompts if name == "embed" else {},
        default_prompt=files.default_prompt if name == "embed" else None,
        max_tokens=files.max_tokens,
        is_encoder=is_encoder(model_config),
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
        return PoolingSpec(kind=kind), 0
    if config.pooling is not None:
        raise BadConfig(f"pooling={config.pooling!r} is of models that embed; a {name} model's head decides its own.")
    has_head = next(iter(model_config.get("architectures") or []), "").endswith(CLASSIFIER)
    if has_head and model_config.get("classifier_from_token") is None and files.answer_ids is None:
        num_labels = _count_labels(model_config)
        if name == "score" and num_labels != 1:
            raise BadConfig(f"task='score' needs a model with one label; this one has {num_labels}: try classify.")
        return PoolingSpec(kind="cls" if encoder else "last"), num_labels
    if encoder or name == "classify":
        raise BadConfig(f"task={name!r} needs a model with a score head; this one has none: try --task embed.")
    return PoolingSpec(kind="last", answer_ids=files.answer_ids or _find_answers(model_config, path)), 1


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
