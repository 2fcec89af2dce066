"""What pyproject.toml declares is what the sources import: no more, no less, extras included."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterable
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
OURS = {"jaxserve", "server", "tests", "scripts"}
NEEDED_WITHOUT_IMPORT = {  # what is needed although no source of ours imports it → why
    "h2": "Hypercorn imports it, and takes older versions",
    "ipykernel": "the kernel that runs the notebook",
    "ipywidgets": "tqdm draws its bars with it in notebooks",
    "pyright": "scripts/test runs it",
    "pytest-asyncio": "the plugin behind asyncio_mode",
    "pytest-timeout": "the plugin behind timeout",
    "pytest-xdist": "scripts/test runs the suite in two processes",
    "ruff": "scripts/test runs it",
    "sentencepiece": "transformers reads tokenizer.model with it",
    "ziglang": "jaxserve/native/library.py runs it as a module",
}


# What the package imports only if it is wanted → the extra that brings it.
OPTIONAL = {"opentelemetry": "otel", "zmq": "events", "msgpack": "events", "ray": "ray"}


def names(requirements: Iterable[str]) -> set[str]:
    """The distributions that these requirements ask for, as PEP 503 spells them."""
    return {canonical(re.match(r"[\w.-]+", requirement).group()) for requirement in requirements}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imported(files: Iterable[Path]) -> set[str]:
    """Top-level modules of others that these files import, also inside functions and under TYPE_CHECKING."""
    return {top for file in files for top in _imports(file) - _own(file) - sys.stdlib_module_names}


def _own(file: Path) -> set[str]:
    """What is ours: the packages, and outside of them also a file's neighbours."""
    in_package = file.relative_to(ROOT).parts[0] in ("jaxserve", "server")
    return OURS if in_package else OURS | {neighbour.stem for neighbour in file.parent.glob("*.py")}


@cache
def _imports(file: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"), str(file))))
    plain = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    froms = [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level]
    return {name.partition(".")[0] for name in (*plain, *froms)}


def distributions(modules: Iterable[str]) -> dict[str, set[str]]:
    """Module → the distributions that bring it; its own name where it is not installed here."""
    known = packages_distributions()
    return {module: {canonical(name) for name in known.get(module, [module])} for module in modules}


def sources(*tops: str) -> list[Path]:
    return [file for top in tops for file in sorted((ROOT / top).rglob("*.py"))]


def programs() -> list[Path]:
    """Everything of tests and scripts; those in tests/clients/programs run in environments of their own."""
    commands = [file for file in sorted((ROOT / "scripts").iterdir()) if file.is_file() and _is_python(file)]
    foreign = ROOT / "tests" / "clients" / "programs"
    return [*(file for file in sources("tests", "scripts") if not file.is_relative_to(foreign)), *commands]


def _is_python(file: Path) -> bool:
    first = file.read_bytes()[:80].split(b"\n")[0]
    return first.startswith(b"#!") and b"python" in first


def test_the_package_declares_exactly_what_it_imports():
    declared = names(PROJECT["dependencies"])
    needed = distributions(imported(sources("jaxserve", "server")) - OPTIONAL.keys())
    assert {module for module, brings in needed.items() if not brings & declared} == set(), "imported, not declared"
    used = set.union(*needed.values()) | NEEDED_WITHOUT_IMPORT.keys()
    assert declared - used == set(), "declared, not imported"


def test_tests_and_scripts_import_what_is_declared():
    declared = names([*PROJECT["dependencies"], *EXTRAS["test"], *EXTRAS["notebook"]])
    needed = distributions(imported(programs()) - OPTIONAL.keys())
    assert {module for module, brings in needed.items() if not brings & declared} == set()


@pytest.mark.parametrize("extra", EXTRAS)
def test_nothing_in_an_extra_is_unused(extra):
    found = imported([*sources("jaxserve", "server"), *programs()])
    used = set.union(*distributions(found).values())
    for module, bringing in OPTIONAL.items():
        if module in found and extra == bringing:
            used |= {name for name in names(EXTRAS[extra]) if name.startswith(module)}
    assert EXTRAS[extra] and names(EXTRAS[extra]) - used - NEEDED_WITHOUT_IMPORT.keys() == set()


def test_what_is_needed_without_an_import_is_declared():
    declared = names([*PROJECT["dependencies"], *(line for extra in EXTRAS.values() for line in extra)])
    assert NEEDED_WITHOUT_IMPORT.keys() <= declared
