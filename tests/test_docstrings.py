"""Docstrings of public names: an imperative sentence or a noun phrase first, and what they raise by name."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.sources import REPO, called_name, modules, write

# First words of docstrings that are verbs in the third person; other words with an s are if a determiner follows.
_VERBS = """aborts accepts adds advances allows appends applies asks assigns binds brings bundles cancels chooses cleans
    clears collects combines compares compiles computes contains converts copies creates decides decodes defines deletes
    describes determines does drops emits encodes enqueues ensures evaluates executes fetches fills finds forgets frees
    generates gets gives goes handles has holds is iterates joins keeps kills knows leaves lets maintains makes merges
    notices opens owns parses passes performs picks provides puts raises receives refuses registers rejects removes
    replaces represents resolves returns says sees selects sends serves speaks strips submits takes talks tells
    truncates validates verifies wakes yields"""
THIRD_PERSON = frozenset(_VERBS.split())
DETERMINERS = {"a", "all", "an", "any", "each", "every", "its", "no", "one", "the", "these", "this", "what", "whether"}
# First words of questions and fragments: neither an imperative sentence nor a noun phrase.
_FRAGMENTS = """as at by can everything for from he how if in is it nobody of on she they this to what when where which
    who whose why with without"""
FRAGMENTS = frozenset(_FRAGMENTS.split())


@dataclass(frozen=True)
class Definition:
    """A public class, function or method. `name` has the class in front for a method."""

    path: str
    name: str
    node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef

    def __str__(self) -> str:
        return f"{self.path}:{self.node.lineno} {self.name}"


def public_definitions(root: Path) -> Iterator[Definition]:
    """Yield the public classes, functions and methods of all modules."""
    for file in modules(root).values():
        tree = ast.parse(file.read_text(encoding="utf-8"), str(file))
        yield from _definitions(tree, str(file.relative_to(root)), "")


def _definitions(parent: ast.Module | ast.ClassDef, path: str, prefix: str) -> Iterator[Definition]:
    for node in parent.body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) or node.name.startswith("_"):
            continue
        if any(called_name(one) in ("overload", "setter") for one in node.decorator_list):
            continue
        yield Definition(path, prefix + node.name, node)
        if isinstance(node, ast.ClassDef):
            yield from _definitions(node, path, f"{node.name}.")


def docstring_fault(definition: Definition) -> str | None:
    """Explain what is wrong with a docstring; None if nothing is."""
    text = ast.get_docstring(definition.node)
    if not text:
        return "has no docstring"
    first_line = text.splitlines()[0]
    fault = first_line_fault(first_line)
    if fault is not None:
        return f"{fault}: {first_line!r}"
    if not isinstance(definition.node, ast.ClassDef):
        missing = sorted(name for name in raised(definition.node) if not re.search(rf"\b{name}\b", text))
        if missing:
            return f"raises {', '.join(missing)}, which its docstring does not name"
    return None


def first_line_fault(line: str) -> str | None:
    """Explain why a line is neither an imperative sentence nor a noun phrase; None if it may be."""
    words = [word.strip(".,:;()").lower() for word in line.split()] + [""]
    if line.rstrip().endswith("?"):
        return "begins with a question"
    if words[0] in FRAGMENTS:
        return "begins with a fragment or a question"
    is_plural_or_verb = words[0].endswith("s") and not words[0].endswith("ss") and "'" not in words[0]
    if words[0] in THIRD_PERSON or (is_plural_or_verb and words[1] in DETERMINERS):
        return "begins with a verb in the third person"
    return None


def raised(function: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    """Return the names of the exceptions that a function raises in its own body, not in functions inside it."""
    names, pending = set(), list(function.body)
    while pending:
        node: ast.AST = pending.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            continue
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            name = called_name(node.exc.func) or ""
            names |= {name} if name[:1].isupper() else set()
        pending.extend(ast.iter_child_nodes(node))
    return names


def test_public_names_are_documented():
    faults = [f"{one} {fault}" for one in public_definitions(REPO) if (fault := docstring_fault(one)) is not None]
    assert not faults, f"{len(faults)} docstrings:\n  " + "\n  ".join(faults)


@pytest.mark.parametrize(
    ("line", "is_fine"),
    [
        ("Return the rows.", True),
        ("Rows of the batch.", True),
        ("Whether the queue is full.", True),
        ("Process the queue.", True),
        ("Limits of one request.", True),
        ("Returns the rows.", False),
        ("Makes rows.", False),
        ("Rows the boat.", False),
        ("What is in a row.", False),
        ("Is it full?", False),
        ("Of the rows, in order.", False),
    ],
)
def test_a_first_line_is_an_imperative_sentence_or_a_noun_phrase(line, is_fine):
    assert (first_line_fault(line) is None) == is_fine


def test_a_missing_docstring_and_an_unnamed_exception_are_found(tmp_path):
    source = (
        "class A:\n    def f(self):\n        raise KeyError(1)\n"
        "    def g(self):\n        '''Find x. Raises KeyError if there is none.'''\n        raise KeyError(1)\n"
        "def h():\n    '''Find y.'''\n    raise KeyError(1)\n"
        "def _i():\n    raise KeyError(1)\n"
    )
    definitions = public_definitions(write(tmp_path, {"jaxserve/a.py": source}))
    faults = {one.name: docstring_fault(one) for one in definitions}
    assert faults == {
        "A": "has no docstring",
        "A.f": "has no docstring",
        "A.g": None,
        "h": "raises KeyError, which its docstring does not name",
    }
