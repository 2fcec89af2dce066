"""What tests show of each architecture: the tests by name, their cases, and which of them have passed.

Cases are read from the tables that the tests themselves are parametrized with, results from tests/results.json, which
`scripts/family_table --record` makes of pytest's JUnit files. A case without a result is a failure of
tests/models/test_family_table.py, so the tables cannot say more than has been seen.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

from jaxserve.models.registry import MODEL_TYPES
from jaxserve.models.text_part import WRAPPERS
from tests.models.cases import CASES
from tests.models.published import PUBLISHED
from tests.models.tiny import FAMILIES, OF_EACH_KIND, tiny_config
from tests.text.families import FAMILIES as TOKENIZED
from tests.text.families import KNOWN_TEMPLATES
from tests.weights.gguf_cases import CASES as GGUF_CASES
from tests.weights.packed_cases import ALWAYS_PACKED, PACKED_CASES

RESULTS = Path(__file__).resolve().parents[2] / "tests" / "results.json"
WITHOUT_CLASS = frozenset({"internlm2"})  # in transformers; its logits are those of Llama over rearranged weights
SAME_ARCHITECTURE = {"kimi_k2": "deepseek_v3"}  # by the `architectures` of its config.json
MODEL_FAMILIES_TEST = "tests/engine/test_model_families.py"


@dataclass(frozen=True, slots=True)
class Evidence:
    """A test, each of whose cases shows something of one architecture, or of several.

    name    What it shows, in a word.
    test    The test's node id, without a case.
    cases   Case → the model types that it concerns.
    long    Those of the cases that take minutes together: without a result they are just not in the tables.
    """

    name: str
    test: str
    cases: Mapping[str, tuple[str, ...]]
    long: Set[str] = frozenset()


@cache
def all_evidence() -> tuple[Evidence, ...]:
    """Return every test that the tables are made from."""
    tiny_types = {family: (str(tiny_config(family)["model_type"]),) for family in FAMILIES}
    around = {f"{family}-{params}": types for family, types in tiny_types.items() for params in ("greedy", "sampled")}
    unbuilt = set(FAMILIES) - set(OF_EACH_KIND)
    packed = {f"{family}-{form}": tiny_types[family] for family, form in PACKED_CASES}
    dialects = {each.name: (text_type(each.model_type),) for each in (*TOKENIZED, *KNOWN_TEMPLATES)}
    tokenized = {family.name for family in TOKENIZED}
    return (
        Evidence(
            "logits", "tests/models/test_parity.py::test_whole_prompt_matches_transformers", types_of_configs(CASES)
        ),
        Evidence("tokens", f"{MODEL_FAMILIES_TEST}::test_greedy_tokens_are_those_of_transformers", tiny_types, unbuilt),
        Evidence(
            "engine",
            f"{MODEL_FAMILIES_TEST}::test_tokens_do_not_depend_on_what_happens_around_a_request",
            around,
            {case for case in around if case.rpartition("-")[0] in unbuilt},
        ),
        Evidence(
            "sizes",
            "tests/models/test_published_sizes.py::test_a_published_model_has_the_tensors_of_transformers",
            types_of_configs({name: config for name, (config, _) in PUBLISHED.items() if has_class(config)}),
        ),
        Evidence(
            "devices",
            "tests/parallel/eight_devices/check_families.py::test_four_devices_are_one",
            tiny_types,
            set(tiny_types),
        ),
        Evidence(
            "packed",
            "tests/weights/test_packed_families.py::test_a_packed_checkpoint_has_the_leaves_of_the_unpacked_one",
            packed,
            {case for case in packed if not case.endswith(f"-{ALWAYS_PACKED}")},
        ),
        Evidence(
            "GGUF",
            "tests/weights/test_gguf_families.py::test_every_leaf_is_the_original_s",
            types_of_configs(GGUF_CASES),
        ),
        Evidence(
            "dialects",
            "tests/text/test_families.py::test_their_dialects_are_found",
            {name: types for name, types in dialects.items() if name in tokenized},
        ),
        Evidence(
            "dialects",
            "tests/text/test_families.py::test_dialects_are_found_in_templates_alone",
            {name: types for name, types in dialects.items() if name not in tokenized},
        ),
    )


def has_class(config: Mapping[str, object]) -> bool:
    """Return whether transformers has a class for an architecture, whose tensors can be compared with ours."""
    return config["model_type"] not in WITHOUT_CLASS


def types_of_configs(configs: Mapping[str, Mapping[str, object]]) -> dict[str, tuple[str, ...]]:
    """Return the model type of each config, by the config's name."""
    return {name: (str(config["model_type"]),) for name, config in configs.items()}


def text_type(model_type: str) -> str:
    """Return the model type whose architecture a config.json of this type has: of the text model inside, or itself."""
    texts = {wrapper.model_type: wrapper.text_model_type for wrapper in WRAPPERS.values()} | SAME_ARCHITECTURE
    return texts.get(model_type, model_type)


def read_results() -> dict[str, list[str]]:
    """Return the cases that have passed, by test."""
    return json.loads(RESULTS.read_text(encoding="utf-8"))


def find_missing(results: Mapping[str, Iterable[str]]) -> list[str]:
    """Return the node ids of all cases that have not passed, but for long ones."""
    return [
        f"{evidence.test}[{case}]"
        for evidence in all_evidence()
        for case in evidence.cases
        if case not in evidence.long and case not in results.get(evidence.test, ())
    ]


def passed_cases(results: Mapping[str, Iterable[str]]) -> dict[str, dict[str, list[str]]]:
    """Return what has been shown: model type → name of the evidence → cases."""
    shown: dict[str, dict[str, list[str]]] = {model_type: {} for model_type in MODEL_TYPES}
    for evidence in all_evidence():
        for case, model_types in evidence.cases.items():
            if case in results.get(evidence.test, ()):
                for model_type in model_types:
                    shown.setdefault(model_type, {}).setdefault(evidence.name, []).append(case)
    return shown


def record(files: Iterable[Path]) -> list[str]:
    """Add the results of JUnit files to tests/results.json; return the ids of cases that have failed there.

    Cases that no longer exist are dropped, and so are those that failed.
    """
    passed = {test: set(cases) for test, cases in (read_results() if RESULTS.exists() else {}).items()}
    known = {evidence.test: evidence.cases.keys() for evidence in all_evidence()}
    failed = []
    for file in files:
        for test, case, is_passed in _read_junit(file):
            if case not in known.get(test, ()):
                continue
            if is_passed:
                passed.setdefault(test, set()).add(case)
            else:
                passed.get(test, set()).discard(case)
                failed.append(f"{test}[{case}]")
    kept = {test: sorted(passed.get(test, set()) & set(cases)) for test, cases in known.items()}
    RESULTS.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return failed


def _read_junit(file: Path) -> Iterator[tuple[str, str, bool]]:
    """Yield test, case and whether it passed; what was skipped has not."""
    for each in ElementTree.parse(file).iter("testcase"):
        name, _, case = each.get("name", "").partition("[")
        module = each.get("classname", "").replace(".", "/")
        is_passed = not any(each.find(outcome) is not None for outcome in ("failure", "error", "skipped"))
        yield f"{module}.py::{name}", case.removesuffix("]"), is_passed
