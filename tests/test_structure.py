"""The structure of the sources: which package imports which, unique class names, and texts of refusals.

Every import counts: inside functions, under TYPE_CHECKING, relative ones, and `import_module("...")` with a literal.
Only `jaxserve/__init__.py` is exempt: it lists the public names and stands between the library and the server.
"""

import ast
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.sources import REPO, called_name, modules, write

# Packages and top-level modules of jaxserve by level. Imports run downwards only, never to the same level.
LEVELS = (
    (
        *("config", "errors", "exact_json", "sampling_params", "structured_outputs", "chat_output_spec", "outputs"),
        "engine_snapshot",
        *(
            "progress_bars",
            "lora_request",
            "memory",
            "parameter_numbers",
            "output_constraints",
            "prompt_input",
            "private_files",
        ),
        *("model_files", "new_directory", "pooling_params", "processor"),
    ),
    ("faults",),
    ("parallel", "native", "generation_defaults", "workers", "admission", "fair_threads"),
    ("layers", "cache"),
    ("attention",),
    ("models", "sampling", "structured", "weights"),
    ("engine", "text"),
    ("grammar_store", "llm_options", "router"),
    ("output_trackers",),
    ("output_plan",),
    ("config_check", "text_components", "llm_inputs", "request_limits", "replica", "adapter_registry", "prompt_hasher"),
    ("pooled_outputs",),
    ("preparation", "loading", "model_store", "conversion", "doctor"),
    ("pooling_preparation",),
    ("output_stream", "completion", "program_directory"),
    ("engine_client", "running_request"),
    ("blocking_client",),
    ("llm_requests",),
    ("llm_generate", "llm_chat", "llm_stream", "llm_pool"),
    ("llm", "async_llm"),
)
LEVEL_OF = {package: level for level, packages in enumerate(LEVELS) for package in packages}
LEVEL_OF |= {"jaxserve": len(LEVELS) - 1, "server": len(LEVELS), "ray": len(LEVELS) + 1}
ABOVE_SERVER = {"ray"}  # jaxserve.ray is a name for who deploys the server, and no part of the library
SHARED = {"errors", "structured_outputs", "parameter_numbers"}  # may be imported from the same level, too
ARRAY_LIBRARIES = {"jax", "jaxlib", "flax"}
EXPECTED_ROOTS = {"README.md", "jaxserve", "pyproject.toml", "scripts", "server", "tests"}
GENERATED = {".git", ".venv", "__pycache__", ".pytest_cache", ".ruff_cache", ".hypothesis", ".cache", "node_modules"}
GENERATED |= {"dist", "build"}
# Calls that make an error whose text a caller reads. A second place with the same text would be a second check.
REFUSALS = {
    *("RequestError", "InvalidParameter", "PromptTooLong", "Unsupported", "Overloaded", "EngineStopped", "BadConfig"),
    *("ApiError", "unavailable"),
}


@dataclass(frozen=True)
class Import:
    """One import statement. `target` is a module of this repository if there is one, else the name as written."""

    source: str
    target: str
    line: int
    path: str


def imports(root: Path) -> list[Import]:
    """List every import of every module, each name resolved to the module that it comes from."""
    own = modules(root)
    packages = {parent for name in own for parent in _parents(name)}
    links = []
    for name, file in own.items():
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), str(file))):
            for target in _targets(node, package, own.keys() | packages):
                links.append(Import(name, target, getattr(node, "lineno", 0), str(file.relative_to(root))))
    return links


def _parents(name: str) -> Iterator[str]:
    while "." in name:
        name = name.rpartition(".")[0]
        yield name


def _targets(node: ast.AST, package: str, known: set[str]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        parts = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
        base = ".".join([*parts, *([node.module] if node.module else [])])
        for alias in node.names:
            yield f"{base}.{alias.name}" if f"{base}.{alias.name}" in known else base
    elif isinstance(node, ast.Call) and called_name(node.func) in ("import_module", "__import__") and node.args:
        first = node.args[0]
        if isinstance(first, ast.Constant) and isinstance(first.value, str) and not first.value.startswith("."):
            yield first.value


def package_of(module: str) -> str:
    """Return the package: jaxserve.engine.plan → engine, jaxserve.llm → llm, anything of the server → server."""
    parts = module.split(".")
    return parts[1] if parts[0] == "jaxserve" and len(parts) > 1 else parts[0]


def find_fault(link: Import) -> str | None:
    """Explain what is wrong with one import; None if nothing is."""
    source, target, top = package_of(link.source), package_of(link.target), link.target.split(".")[0]
    if source not in LEVEL_OF:
        return f"the package {source!r} has no level; give it one in LEVELS"
    if top not in ("jaxserve", "server"):
        return _find_foreign_fault(link.source, top)
    if link.source == "jaxserve" and top == "jaxserve":
        return None
    if source == "server":
        return None if top == "server" or link.target == "jaxserve" else "the server sees only jaxserve's public names"
    if source in ABOVE_SERVER:
        return None if top == "server" else "names above the server come from the server"
    if top == "server":
        return "the library never imports the server"
    if link.target == "jaxserve":
        return "nothing inside jaxserve imports through its __init__.py"
    if target not in LEVEL_OF:
        return f"the package {target!r} has no level; give it one in LEVELS"
    rise = LEVEL_OF[target] - LEVEL_OF[source]
    if source == target or rise < 0 or (rise == 0 and target in SHARED):
        return None
    direction = "upward" if rise else "into another package of the same level"
    return f"{direction}: {source} has level {LEVEL_OF[source]}, {target} level {LEVEL_OF[target]}"


def _find_foreign_fault(source: str, top: str) -> str | None:
    """Explain why a module from outside may not be imported here; None if it may."""
    package = package_of(source)
    if top in ARRAY_LIBRARIES and (LEVEL_OF[package] == 0 or package == "text"):
        return f"{package} must not use arrays"
    if top == "numpy" and package == "text":
        return "text must not use arrays"
    if top == "asyncio" and package not in ("async_llm", "server"):
        return "inside jaxserve, only async_llm.py may use asyncio"
    return None


def cycles(links: list[Import]) -> list[str]:
    """List the cycles of modules that import each other."""
    graph: dict[str, set[str]] = {}
    for link in links:
        if link.source != link.target:
            graph.setdefault(link.source, set()).add(link.target)
    circles, done = [], set()

    def walk(module: str, path: list[str]) -> None:
        if module in path:
            circles.append(" → ".join([*path[path.index(module) :], module]))
        elif module not in done:
            for target in sorted(graph.get(module, ())):
                walk(target, [*path, module])
            done.add(module)

    for module in sorted(graph):
        walk(module, [])
    return circles


def import_faults(root: Path) -> list[str]:
    """List all imports that LEVELS does not allow, a line each."""
    links = imports(root)
    wrong = [
        f"{link.path}:{link.line} imports {link.target}: {reason}" for link in links if (reason := find_fault(link))
    ]
    return wrong + [f"a cycle of imports: {circle}" for circle in cycles(links)]


def source_files(root: Path) -> Iterator[Path]:
    """Yield every file of the repository but generated ones."""
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in GENERATED and not name.endswith(".egg-info")]
        yield from (Path(folder, name) for name in files)


def duplicate_classes(root: Path) -> set[str]:
    """Return the names that more than one class of the library and the server has."""
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in modules(root).values()]
    names = Counter(node.name for tree in trees for node in tree.body if isinstance(node, ast.ClassDef))
    return {name for name, count in names.items() if count > 1}


def refusals(root: Path) -> Counter[str]:
    """Count the texts of errors for callers, values left out: the first text of every call that makes such an error."""
    texts: Counter[str] = Counter()
    for file in modules(root).values():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and called_name(node.func) in REFUSALS:
                parts = [text for argument in node.args if (text := _text_of(argument)) is not None]
                texts.update(parts[:1])
    return texts


def _text_of(node: ast.expr) -> str | None:
    """Return a text with {} for each value; None for a name, and for a form that begins with the name of any field."""
    values = node.values if isinstance(node, ast.JoinedStr) else [node]
    if not all(isinstance(value, ast.Constant | ast.FormattedValue) for value in values):
        return None
    text = "".join(str(value.value) if isinstance(value, ast.Constant) else "{}" for value in values)
    return None if text.startswith("{}") or " " not in text else text


def test_no_refusal_is_written_twice():
    assert {text for text, count in refusals(REPO).items() if count > 1} == set()


def test_no_class_name_occurs_twice():
    assert duplicate_classes(REPO) == set()


def test_imports_run_downwards_only():
    faults = import_faults(REPO)
    assert not faults, "imports that LEVELS does not allow:\n  " + "\n  ".join(faults)


def device_lists(root: Path) -> list[str]:
    """List the places outside of jaxserve/parallel that ask JAX for its devices."""
    return [
        f"{file.relative_to(root)}:{node.lineno}"
        for module, file in modules(root).items()
        if package_of(module) != "parallel"
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in ("devices", "local_devices")
        if isinstance(node.value, ast.Name) and node.value.id == "jax"
    ]


def test_only_the_placement_asks_for_devices(tmp_path):
    assert device_lists(REPO) == []
    source = "import jax\nfirst = jax.devices()[0]"
    sources = {"jaxserve/engine/a.py": source, "jaxserve/parallel/mesh.py": source}
    assert device_lists(write(tmp_path, sources)) == ["jaxserve/engine/a.py:2"]


def test_nothing_is_called_utils():
    assert not [str(file) for file in source_files(REPO) if file.name == "utils.py"]


def test_the_paths_in_the_readme_exist():
    paths = re.findall(
        r"`((?:jaxserve|server|tests|scripts)/[^`\s]*)`", (REPO / "README.md").read_text(encoding="utf-8")
    )
    assert len(paths) > 30
    assert [path for path in paths if not (REPO / path).exists()] == []


def test_nothing_points_out_of_the_repository():
    outside = b"../" + b"shared"
    assert not [str(file) for file in source_files(REPO) if file.is_file() and outside in file.read_bytes()]


def test_the_root_holds_six_things():
    roots = {name for name in os.listdir(REPO) if not name.startswith(".")}
    assert roots - GENERATED - EXPECTED_ROOTS == set()


@pytest.mark.parametrize(
    ("path", "source", "reason"),
    [
        ("jaxserve/cache/pool.py", "import jaxserve.engine.plan", "upward"),
        ("jaxserve/models/llama.py", "from jaxserve.weights.load import load", "same level"),
        ("jaxserve/engine/plan.py", "from jaxserve import text", "same level"),
        ("jaxserve/engine/plan.py", "def f():\n    from ..text import stream", "same level"),
        ("jaxserve/llm.py", "from jaxserve.async_llm import AsyncLLM", "same level"),
        ("jaxserve/engine_client.py", "from jaxserve.llm import LLM", "upward"),
        ("jaxserve/engine/a.py", "from jaxserve.engine_client import EngineClient", "upward"),
        ("jaxserve/outputs.py", "from jaxserve.config import GIB", "same level"),
        ("jaxserve/layers/a.py", "if TYPE_CHECKING:\n    from jaxserve.engine.plan import Plan", "upward"),
        ("jaxserve/engine/a.py", 'import_module("jaxserve.text.stream")', "same level"),
        ("jaxserve/engine/a.py", "import server.app", "never imports the server"),
        ("jaxserve/ray.py", "from jaxserve.config import GIB", "come from the server"),
        ("jaxserve/llm.py", "import jaxserve.ray", "upward"),
        ("server/app.py", "import jaxserve.ray", "only jaxserve's public names"),
        ("jaxserve/__init__.py", "import server", "never imports the server"),
        ("server/app.py", "from jaxserve.config import EngineConfig", "only jaxserve's public names"),
        ("server/app.py", "from jaxserve import config", "only jaxserve's public names"),
        ("jaxserve/engine/a.py", "from jaxserve import LLM", "through its __init__.py"),
        ("jaxserve/engine/a.py", "from .. import LLM", "through its __init__.py"),
        ("jaxserve/config.py", "import jax.numpy as jnp", "must not use arrays"),
        ("jaxserve/text/stream.py", "import numpy", "must not use arrays"),
        ("jaxserve/engine/a.py", "from asyncio import Queue", "only async_llm.py"),
        ("jaxserve/unlisted/a.py", "import os", "has no level"),
        ("jaxserve/engine/a.py", "from jaxserve.unlisted import b", "has no level"),
    ],
)
def test_a_wrong_import_is_shown_with_its_place(tmp_path, path, source, reason):
    others = {f"jaxserve/{name}/__init__.py": "" for name in ("text", "engine")} | {"jaxserve/config.py": "GIB = 1"}
    [fault] = import_faults(write(tmp_path, others | {path: source}))
    assert fault.startswith(f"{path}:{source.count(chr(10)) + 1} ")
    assert reason in fault


def test_a_cycle_is_shown_even_inside_one_package(tmp_path):
    sources = {
        "jaxserve/engine/a.py": "from jaxserve.engine import b",
        "jaxserve/engine/b.py": "from .c import f",
        "jaxserve/engine/c.py": "def f():\n    import jaxserve.engine.a",
    }
    [fault] = import_faults(write(tmp_path, sources))
    assert fault.endswith("jaxserve.engine.a → jaxserve.engine.b → jaxserve.engine.c → jaxserve.engine.a")


def test_allowed_imports_are_not_faults(tmp_path):
    sources = {
        "jaxserve/__init__.py": "from jaxserve.llm import LLM\nfrom jaxserve.errors import JaxServeError",
        "jaxserve/errors.py": "",
        "jaxserve/config.py": "from jaxserve.errors import JaxServeError",
        "jaxserve/llm.py": "from jaxserve.engine.plan import Plan\nfrom jaxserve.engine_client import EngineClient",
        "jaxserve/engine_client.py": "from jaxserve.text import stream",
        "jaxserve/async_llm.py": "import asyncio",
        "jaxserve/engine/plan.py": "import jax\nfrom . import batch\nfrom jaxserve import cache",
        "jaxserve/engine/batch.py": "import numpy",
        "jaxserve/cache/pool.py": "from jaxserve.errors import JaxServeError",
        "jaxserve/text/stream.py": "import json",
        "server/app.py": "import asyncio\nfrom jaxserve import LLM\nfrom . import routes",
        "server/routes/chat.py": "from jaxserve import errors_like_this",
    }
    assert import_faults(write(tmp_path, sources)) == []


def test_a_class_name_that_occurs_twice_is_found(tmp_path):
    sources = {"jaxserve/a.py": "class A: ...\nclass B: ...", "server/b.py": "class A: ..."}
    assert duplicate_classes(write(tmp_path, sources)) == {"A"}


def test_no_two_test_modules_have_one_name():
    names = Counter(file.name for file in (REPO / "tests").rglob("test_*.py"))
    assert not [name for name, count in names.items() if count > 1], "pytest imports only the first of them"
