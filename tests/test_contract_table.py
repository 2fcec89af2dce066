"""CONTRACT.md has a row for each thing of the reliability contract, and what its rows name is there."""

import ast
import re
from dataclasses import dataclass, fields
from pathlib import Path

import pytest

from jaxserve.config import EngineConfig
from jaxserve.faults import DEFAULT_ARGUMENTS
from server.config import ServerConfig
from tests.sources import REPO, write

TABLE = REPO / "tests" / "CONTRACT.md"
TEST = re.compile(r"`(tests/[\w/]+\.py)::((?:\w+::)?\w+)`")
MEASURED = re.compile(r"measured: `(scripts/measurements/[\w.-]+\.md)` ?")
PROOF = re.compile(rf"(?P<tests>(?:{TEST.pattern} ?)*)(?:{MEASURED.pattern})?(?P<open>open: \S.*)?")
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def number(letter: str, count: int) -> list[str]:
    return [f"{letter}{index}" for index in range(1, count + 1)]


SECTIONS = {
    "Promises": number("P", 12),
    "Limits": [
        *("--max-body-bytes", "--max-inflight-body-bytes", "--body-timeout-s", "--max-header-bytes --max-headers"),
        *("--head-timeout-s", "--max-connections --max-connections-per-ip", "JSON nesting", "JSON numbers"),
        *("messages and parts", "prompt characters", "--max-n", "--max-logprobs", "logprob_token_ids", "labels"),
        *("--max-reply-bytes", "--max-stop-strings", "stop_token_ids", "bad_words"),
        *("logit_bias and allowed_token_ids", "--max-tools", "sources of grammars", "regex", "choice and enum"),
        *("--grammar-compile-timeout-s", "--grammar-cache-entries --grammar-cache-bytes"),
        *("--request-template-timeout-s", "--template-timeout-s", "chat_template_kwargs"),
        *("--max-num-queued-reqs", "--max-num-queued-tokens", "--max-concurrency-per-key"),
        *("--queue-timeout-s --request-timeout-s", "--send-stall-timeout-s", "--max-unsent-bytes"),
        "--responses-store-size --responses-store-bytes --responses-store-age-s",
        *("--step-timeout-s", "error messages"),
    ],
    "HTTP rules": number("H", 18),
    "Authentication": number("A", 9),
    "Templates": number("T", 8),
    "Structured outputs": number("S", 6),
    "Error boundary": number("B", 7),
    "Invariants": number("I", 22),
    "Equalities": number("E", 16),
    "Lifecycle and files": number("L", 17),
    "Metrics": [
        *("kv_pages", "requests", "requests_total", "preemptions_total", "engine_steps_total", "engine_rebuilds_total"),
        *("compilations_total", "nonfinite_logits_total", "event_loop_lag_seconds", "open_connections"),
        *("grammar_cache_entries", "helper_restarts_total", "process", "/debug/state"),
    ],
    "Fault points": [
        *("step_raise", "step_hang", "nan_row", "alloc_fail", "slow_step_ms", "engine_exit", "helper_kill"),
        *("detok_raise", "disk_full", "clock_jump", "switch", "syntax"),
    ],
}


@dataclass(frozen=True)
class Row:
    """A row: what it is about, what holds, and the tests that show it, as they stand there."""

    id: str
    fact: str
    proof: str

    @property
    def tests(self) -> list[tuple[str, str]]:
        """The path of each test, and its name with that of its class."""
        return TEST.findall(self.proof)


def read_tables(text: str) -> dict[str, list[Row]]:
    """Return the rows below each heading; those of a table without three columns raise TypeError."""
    tables: dict[str, list[Row]] = {}
    for part in text.split("\n## ")[1:]:
        heading, *lines = part.splitlines()
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
        tables[heading] = [Row(id.replace("`", ""), *rest) for id, *rest in rows[2:]]
    return tables


def list_tests(file: Path) -> set[str]:
    """Return the names of the tests of a file as pytest has them, those of classes and state machines included."""
    names: set[str] = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body if file.is_file() else ():
        if isinstance(node, FUNCTIONS):
            names.add(node.name)
        elif isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            names |= {f"{node.name}::{one.name}" for one in node.body if isinstance(one, FUNCTIONS)}
        elif isinstance(node, ast.Assign) and ast.unparse(node.value).endswith(".TestCase"):
            names |= {f"{ast.unparse(target)}::runTest" for target in node.targets}
    return {name for name in names if name.rpartition("::")[2].startswith(("test_", "runTest"))}


def missing_tests(rows: list[Row], root: Path) -> list[str]:
    """List the tests that rows name and that are not there."""
    known = {path: list_tests(root / path) for path in {path for row in rows for path, _ in row.tests}}
    return [f"{row.id}: {path}::{name}" for row in rows for path, name in row.tests if name not in known[path]]


def unproved(rows: list[Row]) -> list[str]:
    """List the rows that name no test and give no reason, or that hold anything else."""
    return [row.id for row in rows if not (row.fact and row.proof and PROOF.fullmatch(row.proof))]


TABLES = read_tables(TABLE.read_text(encoding="utf-8"))
ROWS = [row for rows in TABLES.values() for row in rows]


def test_there_is_a_table_for_each_section():
    assert list(TABLES) == list(SECTIONS)


@pytest.mark.parametrize("section", SECTIONS)
def test_everything_in_a_section_has_one_row(section):
    assert [row.id for row in TABLES[section]] == SECTIONS[section]


def test_every_test_that_a_row_names_is_there():
    assert missing_tests(ROWS, REPO) == []


def test_every_page_of_measurements_that_a_row_names_is_there():
    pages = {page for row in ROWS for page in MEASURED.findall(row.proof)}
    assert pages and all((REPO / page).is_file() for page in pages)


def test_every_row_names_a_test_or_says_what_is_open():
    assert unproved(ROWS) == []


def test_no_row_names_a_test_twice():
    assert [row.id for row in ROWS if len(set(row.tests)) < len(row.tests)] == []


def test_every_flag_of_a_limit_is_a_setting():
    settings = {field.name for config in (ServerConfig, EngineConfig) for field in fields(config)}
    text = " ".join(f"{row.id} {row.fact} {row.proof}" for row in TABLES["Limits"])
    flags = {flag.replace("-", "_") for flag in re.findall(r"--([a-z][a-z-]*)", text)}
    assert len(flags) > 20
    assert flags - settings == set()


def test_every_fault_that_can_be_injected_has_a_row():
    assert DEFAULT_ARGUMENTS.keys() <= {row.id for row in TABLES["Fault points"]}


SOURCE = """
def test_a(): ...
async def test_b(): ...
def helper(): ...
class TestC:
    def test_d(self): ...
    def helper(self): ...
class Machine:
    def test_e(self): ...
TestMachine = Machine.TestCase
"""


def test_a_test_that_is_not_there_is_noticed(tmp_path):
    root = write(tmp_path, {"tests/x/test_a.py": SOURCE})
    good = ["test_a", "test_b", "TestC::test_d", "TestMachine::runTest"]
    bad = ["test_d", "helper", "TestC::helper", "TestC::test_a", "Machine::test_e", "Machine::runTest"]
    proof = " ".join(f"`tests/x/test_a.py::{name}`" for name in (*good, *bad))
    rows = [Row("P1", "It holds.", proof), Row("P2", "It holds.", "`tests/x/test_b.py::test_a`")]
    assert missing_tests(rows, root) == [
        *(f"P1: tests/x/test_a.py::{name}" for name in bad),
        "P2: " + rows[1].proof[1:-1],
    ]


@pytest.mark.parametrize("proof", ["", "open:", "open: ", "soon", "`tests/a.py`", "`test_a`", "tests/a.py::test_a"])
def test_a_row_without_a_test_and_a_reason_is_noticed(proof):
    assert unproved([Row("P1", "It holds.", proof)]) == ["P1"]
    page = "measured: `scripts/measurements/a.md`"
    good = (
        page,
        f"`tests/a.py::test_a` {page}",
        "`tests/a.py::test_a`",
        "open: not built",
        "`tests/a.py::A::test_a` `tests/a.py::b` open: the rest",
    )
    assert unproved([Row("P1", "It holds.", one) for one in good]) == []
