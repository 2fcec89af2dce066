"""The tables of families say what the tests have shown, of every architecture. Mended by scripts/family_table."""

import runpy

import pytest

from jaxserve.models.registry import MODEL_TYPES
from scripts.family_tables.evidence import WITHOUT_CLASS, all_evidence, find_missing, passed_cases, read_results
from tests.models.tiny import SCRIPTS

FEWEST_ARCHITECTURES = 40


@pytest.mark.parametrize("name", ["logits", "sizes"])
def test_every_architecture_is_held_to_transformers(name):
    [cases] = [evidence.cases for evidence in all_evidence() if evidence.name == name]
    without = WITHOUT_CLASS if name == "sizes" else frozenset()
    assert {model_type for model_types in cases.values() for model_type in model_types} == set(MODEL_TYPES) - without
    assert len(MODEL_TYPES) >= FEWEST_ARCHITECTURES


def test_every_case_has_passed():
    """A new case is run, and its result given to scripts/family_table --record. Long ones may be missing."""
    assert find_missing(read_results()) == []


def test_a_case_without_a_result_is_not_in_the_tables():
    [evidence] = [evidence for evidence in all_evidence() if evidence.name == "logits"]
    first, *others = evidence.cases
    assert find_missing({evidence.test: others})[0] == f"{evidence.test}[{first}]"
    assert first not in passed_cases({evidence.test: others})["llama"]["logits"]


def test_the_tables_are_those_of_the_results():
    made = runpy.run_path(str(SCRIPTS / "family_table"))["make_files"]()
    assert [path.name for path, text in made.items() if path.read_text(encoding="utf-8") != text] == []
