"""scripts/check_models on a tiny random Llama: what agrees passes, and what differs is found."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind

from jaxserve.weights.checkpoint import open_checkpoint
from scripts.model_checks.forms import FLOAT32, FORMS, Bounds
from scripts.model_checks.perplexity import TEXT, ExactDistributions, compare_forms, cut_windows
from scripts.model_checks.reader import Reader, open_reader
from scripts.model_checks.tokens import Answer, compare_with_transformers
from tests.models.tiny import write
from tests.weights import gguf_writer

PROMPT = tuple(b"to be, or not")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(write(tmp_path_factory.mktemp("model") / "llama", "llama"))


@pytest.fixture(scope="module")
def reader(model: Path) -> Reader:
    return open_reader(FLOAT32.config(str(model)))


@pytest.fixture(scope="module")
def exact(model: Path, reader: Reader) -> Iterator[ExactDistributions]:
    with closing(ExactDistributions(reader, cut_windows(model, TEXT.read_text(), 2, 48))) as distributions:
        yield distributions


@pytest.fixture(scope="module")
def answer(reader: Reader) -> Answer:
    tokens: tuple[int, ...] = ()
    for _ in range(8):
        tokens += (int(reader([*PROMPT, *tokens])[-1].argmax()),)
    return Answer(PROMPT, tokens)


def compare(model: Path, cache: Path, answer: Answer, logits: np.ndarray) -> dict[str, Any]:
    return compare_with_transformers(model, cache, [answer], [logits])


def test_what_transformers_says_passes(model: Path, reader: Reader, answer: Answer, tmp_path: Path) -> None:
    result = compare(model, tmp_path, answer, reader([*PROMPT, *answer.tokens[:-1]]))
    assert result["is_good"] and result["same_tokens"] == 8


def test_another_token_is_counted_from_where_it_stands(
    model: Path, reader: Reader, answer: Answer, tmp_path: Path
) -> None:
    tokens = (*answer.tokens[:5], (answer.tokens[5] + 1) % 256, *answer.tokens[6:])
    result = compare(model, tmp_path, replace(answer, tokens=tokens), reader([*PROMPT, *tokens[:-1]]))
    assert not result["is_good"] and result["same_tokens"] == 5


def test_other_logits_are_an_error_though_their_order_is_the_same(
    model: Path, reader: Reader, answer: Answer, tmp_path: Path
) -> None:
    result = compare(model, tmp_path, answer, 1.01 * reader([*PROMPT, *answer.tokens[:-1]]))
    assert not result["is_good"] and result["same_tokens"] == 8


def test_float32_is_as_surprised_as_itself(model: Path, exact: ExactDistributions) -> None:
    same = replace(FLOAT32, bounds=Bounds(1 + 1e-6, 1e-6))
    result = compare_forms(model, [same], exact, lambda name, found: None)["float32"]
    assert result["is_good"] and result["same_best"] == 1


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_every_form_differs_and_is_held_to_its_bounds(model: Path, exact: ExactDistributions, form: Any) -> None:
    if form.needs_blocks:
        pytest.skip("the model has no blocks")
    strict = replace(form, bounds=Bounds(2, 1e-9), small_bounds=None)
    result = compare_forms(model, [strict], exact, lambda name, found: None)[form.name]
    assert 0 < result["kl"] < 0.2 and not result["is_good"]


@pytest.mark.parametrize(("kind", "names"), [(Kind.F16, []), (Kind.Q8_0, ["blocks"])])
def test_blocks_are_measured_where_a_file_has_some(
    model: Path, exact: ExactDistributions, tmp_path: Path, kind: Kind, names: list[str]
) -> None:
    checkpoint = open_checkpoint(model)
    tensors = {name: checkpoint.read(name) for name in checkpoint.tensors}
    file = gguf_writer.write(tmp_path / "m.gguf", checkpoint.config, tensors, kind=kind)
    forms = [form for form in FORMS if form.needs_blocks]
    assert list(compare_forms(file, forms, exact, lambda name, found: None)) == names


def test_few_weights_have_bounds_of_their_own() -> None:
    form = replace(FLOAT32, bounds=Bounds(1.1, 0.1), small_bounds=Bounds(1.2, 0.2))
    assert form.bounds_of(25_000_000).max_kl == 0.2
    assert form.bounds_of(500_000_000).max_kl == 0.1


def test_a_text_that_is_too_short_is_refused(model: Path) -> None:
    with pytest.raises(ValueError, match="fewer, or shorter"):
        cut_windows(model, "to be", 2, 48)
