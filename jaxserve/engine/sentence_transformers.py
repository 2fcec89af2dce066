"""The files that sentence-transformers writes beside a model: which vectors are pooled, and what becomes of them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxserve.engine.dense_files import read_dense
from jaxserve.errors import BadCheckpoint
from jaxserve.model_files import read_model_file
from jaxserve.models.dense_params import DenseModule
from jaxserve.models.pooling_spec import PoolingKind
from jaxserve.weights.protocol import MAX_JSON_BYTES, read_json

POOLING_SWITCHES: Mapping[str, PoolingKind] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last",
}
POOLING_NAMES: Mapping[str, PoolingKind] = {"cls": "cls", "mean": "mean", "lasttoken": "last"}
OTHER_SWITCHES = (
    *("pooling_mode_max_tokens", "pooling_mode_mean_sqrt_len_tokens", "pooling_mode_weightedmean_tokens"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SentenceTransformersFiles:
    """The contents of the files; every field is empty or None where they say nothing.

    is_there         There is a modules.json.
    pooling          How vectors are pooled.
    modules          Dense layers over the pooled vector.
    normalizes       What they give is brought to length 1.
    answer_ids       The tokens whose logits are compared, the one of a bad pair first.
    max_tokens       The longest sequence.
    prompts          Texts that go before a text, by name.
    default_prompt   The one of them that goes before a text by default.
    pair_format      The text in which a language model is asked about a pair, with {query} and {document} in it.
    """

    is_there: bool = False
    pooling: PoolingKind | None = None
    modules: tuple[DenseModule, ...] = ()
    normalizes: bool = False
    answer_ids: tuple[int, int] | None = None
    max_tokens: int | None = None
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    pair_format: str | None = None


def read_files(directory: Path) -> SentenceTransformersFiles:
    """Read modules.json and the files that it names.

    Raises BadCheckpoint for modules and ways of pooling that are not computed here, naming them.
    """
    path = directory / "modules.json"
    if not directory.is_dir() or not path.is_file():
        return SentenceTransformersFiles()
    values, is_unit, modules = dict[str, Any](is_there=True), False, list[DenseModule]()
    for module in _read_list(path):
        name, folder = str(module.get("type", "")).rpartition(".")[2], str(module.get("path") or "")
        place = directory / folder
        if name == "Transformer":
            values["max_tokens"] = _read_max_tokens(place / "sentence_bert_config.json")
        elif name == "Pooling":
            values["pooling"] = _read_pooling(place / "config.json")
        elif name == "Dense" and "pooling" in values:
            modules.append(read_dense(place / "config.json", folder, normalizes_input=is_unit))
            is_unit = False
        elif name == "Normalize":
            is_unit = True
        elif name == "LogitScore":
            values["answer_ids"] = _read_answers(place / "config.json")
        elif name != "Dropout":  # which is of training
            where = "before any Pooling" if name == "Dense" else "which is not computed here"
            raise BadCheckpoint(
                f"{path} has a module {name or module}, {where}; known are Transformer, Pooling, and behind it Dense,"
                " Normalize and Dropout; and LogitScore."
            )
    settings = read_json(directory / "config_sentence_transformers.json", missing_ok=True)
    prompts = {str(name): str(text) for name, text in (settings.get("prompts") or {}).items() if text}
    default = settings.get("default_prompt_name")
    return SentenceTransformersFiles(
        **values,
        normalizes=is_unit,
        modules=tuple(modules),
        prompts=prompts,
        default_prompt=default if default in prompts else None,
    )


def _read_list(path: Path) -> list[dict[str, Any]]:
    try:
        modules = json.loads(read_model_file(path, MAX_JSON_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise BadCheckpoint(f"{path} cannot be read as JSON: {error}.") from error
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise BadCheckpoint(f"{path} should hold a list of modules.")
    return modules


def _read_max_tokens(path: Path) -> int | None:
    config = read_json(path, missing_ok=True)
    if config.get("do_lower_case"):
        raise BadCheckpoint(f"{path}: 'do_lower_case' is true; lower case is made here by the tokenizer's own files.")
    max_tokens = config.get("max_seq_length")
    if max_tokens is not None and (isinstance(max_tokens, bool) or not isinstance(max_tokens, int) or max_tokens < 1):
        raise BadCheckpoint(f"{path}: 'max_seq_length' is {max_tokens!r}; it must be a number of tokens.")
    return max_tokens


def _read_pooling(path: Path) -> PoolingKind:
    config = read_json(path)
    if config.get("include_prompt") is False:
        raise BadCheckpoint(f"{path}: 'include_prompt' is false; vectors of prompts are always pooled here.")
    mode = config.get("pooling_mode")
    kinds: list[PoolingKind] = [kind for key, kind in POOLING_SWITCHES.items() if config.get(key)]
    others = [key for key in OTHER_SWITCHES if config.get(key)]
    if mode is not None:
        names = [mode] if isinstance(mode, str) else list(mode)
        kinds = [POOLING_NAMES[name] for name in names if name in POOLING_NAMES]
        others = [str(name) for name in names if name not in POOLING_NAMES]
    if others or len(kinds) != 1:
        found = ", ".join([*others, *kinds]) or "none"
        raise BadCheckpoint(f"{path} asks for the pooling {found}; one of cls, mean and last is computed here.")
    return kinds[0]


def _read_answers(path: Path) -> tuple[int, int]:
    config = read_json(path)
    yes, no = config.get("true_token_id"), config.get("false_token_id")
    if not isinstance(yes, int) or not isinstance(no, int):
        raise BadCheckpoint(f"{path} needs 'true_token_id' and 'false_token_id', got {yes!r} and {no!r}.")
    return no, yes
