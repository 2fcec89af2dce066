"""The plan of the house, drawn from the sources: who imports whom, and on which floor.

Every import counts: inside functions, under TYPE_CHECKING (floors hold for types, too), relative ones, and
`import_module("...")` with a literal. Nothing is exempt but `jaxserve/__init__.py`, which lists the public names
and stands between the library and the server.
"""

import ast
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
FLOORS = (
    (
        *("config", "errors", "exact_json", "sampling_params", "structured_outputs", "chat_output_spec", "outputs"),
        *("progress_bars", "memory"),
    ),
    ("parallel", "native", "generation_defaults", "workers"),
    ("layers", "kvcache"),
    ("attention",),
    ("models", "sampling", "structured", "weights"),
    ("engine", "text"),
    ("output_plan", "llm_options"),
    ("output_stream", "config_check", "text_components", "llm_inputs"),
    ("engine_client", "completion", "model_store", "doctor"),
    ("blocking_client",),
    ("llm", "async_llm"),
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
FLOOR_OF |= {"jaxserve": len(FLOORS) - 1, "server": len(FLOORS)}
SHARED = {"errors", "structured_outputs"}  # what a floor has in common: open to the neighbours, too
ARRAYS = {"jax", "jaxlib", "flax"}
EXPECTED_ROOTS = {"README.md", "jaxserve", "pyproject.toml", "scripts", "server", "tests"}
NOT_OURS = {".git", ".venv", "__pycache__", ".pytest_cache", ".ruff_cache", ".hypothesis", ".cache", "node_modules"}
NOT_OURS |= {"dist", "build"}


@dataclass(frozen=True)
class Import:
    """One import as it stands in a source: target is a module of ours where there is one, else as written."""

    source: str
    target: str
    line: int
    path: str


def modules(root: Path) -> dict[str, Path]:
    """Dotted name → file, for every module of the library and the server."""
    files = [file for top in ("jaxserve", "server") for file in sorted((root / top).rglob("*.py"))]
    return {".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


def imports(root: Path) -> list[Import]:
    """Every import in every module, each name resolved to the module that it comes from."""
    ours = modules(root)
    packages = {parent for name in ours for parent in _parents(name)}
    found = []
    for name, file in ours.items():
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), str(file))):
            for target in _targets(node, package, ours.keys() | packages):
                found.append(Import(name, target, getattr(node, "lineno", 0), str(file.relative_to(root))))
    return found


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
    elif isinstance(node, ast.Call) and _name(node.func) in ("import_module", "__import__") and node.args:
        first = node.args[0]
        if isinstance(first, ast.Constant) and isinstance(first.value, str) and not first.value.startswith("."):
            yield first.value


def _name(function: ast.expr) -> str | None:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", None)


def room_of(module: str) -> str:
    """jaxserve.engine.plan → engine; jaxserve.llm → llm; anything of the server → server."""
    parts = module.split(".")
    return parts[1] if parts[0] == "jaxserve" and len(parts) > 1 else parts[0]


def complaint(link: Import) -> str | None:
    """What is wrong with one import, or None."""
    source, target, top = room_of(link.source), room_of(link.target), link.target.split(".")[0]
    if source not in FLOOR_OF:
        return f"the room {source!r} has no floor; give it one in FLOORS"
    if top not in ("jaxserve", "server"):
        return _stranger(link.source, top)
    if link.source == "jaxserve" and top == "jaxserve":
        return None
    if source == "server":
        return None if top == "server" or link.target == "jaxserve" else "the server sees only jaxserve's public names"
    if top == "server":
        return "the library never imports the server"
    if link.target == "jaxserve":
        return "nothing inside jaxserve imports through its __init__.py"
    if target not in FLOOR_OF:
        return f"the room {target!r} has no floor; give it one in FLOORS"
    up = FLOOR_OF[target] - FLOOR_OF[source]
    if source == target or up < 0 or (up == 0 and target in SHARED):
        return None
    way = "upward" if up else "into a neighbour on the same floor"
    return f"{way}: {source} is on floor {FLOOR_OF[source]}, {target} on floor {FLOOR_OF[target]}"


def _stranger(source: str, top: str) -> str | None:
    """What may not be imported from outside, and where."""
    room = room_of(source)
    if top in ARRAYS and (FLOOR_OF[room] == 0 or room == "text"):
        return f"{room} has never seen an array"
    if top == "numpy" and room == "text":
        return "text has never seen an array"
    if top == "asyncio" and room not in ("async_llm", "server"):
        return "inside jaxserve, only async_llm.py knows that event loops exist"
    return None


def cycles(links: list[Import]) -> list[str]:
    """Modules that import each other in a circle, each circle once."""
    graph: dict[str, set[str]] = {}
    for link in links:
        if link.source != link.target:
            graph.setdefault(link.source, set()).add(link.target)
    found, done = [], set()

    def walk(module: str, path: list[str]) -> None:
        if module in path:
            found.append(" → ".join([*path[path.index(module) :], module]))
        elif module not in done:
            for target in sorted(graph.get(module, ())):
                walk(target, [*path, module])
            done.add(module)

    for module in sorted(graph):
        walk(module, [])
    return found


def differences(root: Path) -> list[str]:
    """All in which the sources differ from the plan, a line each."""
    links = imports(root)
    wrong = [
        f"{link.path}:{link.line} imports {link.target}: {reason}" for link in links if (reason := complaint(link))
    ]
    return wrong + [f"a circle of imports: {circle}" for circle in cycles(links)]


def our_files(root: Path) -> Iterator[Path]:
    """Every file of the repository; what builds and caches leave behind is not ours."""
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in NOT_OURS and not name.endswith(".egg-info")]
        yield from (Path(folder, name) for name in files)


def test_imports_run_downstairs_only():
    wrong = differences(REPO)
    assert not wrong, "the sources differ from the plan of the house:\n  " + "\n  ".join(wrong)


def test_nothing_is_called_utils():
    assert not [str(file) for file in our_files(REPO) if file.name == "utils.py"]


def test_nothing_points_out_of_the_repository():
    outside = b"../" + b"shared"
    assert not [str(file) for file in our_files(REPO) if file.is_file() and outside in file.read_bytes()]


def test_the_root_holds_six_things():
    roots = {name for name in os.listdir(REPO) if not name.startswith(".")}
    assert roots - NOT_OURS - EXPECTED_ROOTS == set()


def write(root: Path, sources: dict[str, str]) -> Path:
    for path, source in sources.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source, encoding="utf-8")
    return root


@pytest.mark.parametrize(
    ("path", "source", "reason"),
    [
        ("jaxserve/kvcache/pool.py", "import jaxserve.engine.plan", "upward"),
        ("jaxserve/models/llama.py", "from jaxserve.weights.load import load", "neighbour"),
        ("jaxserve/engine/plan.py", "from jaxserve import text", "neighbour"),
        ("jaxserve/engine/plan.py", "def f():\n    from ..text import stream", "neighbour"),
        ("jaxserve/llm.py", "from jaxserve.async_llm import AsyncLLM", "neighbour"),
        ("jaxserve/engine_client.py", "from jaxserve.llm import LLM", "upward"),
        ("jaxserve/engine/a.py", "from jaxserve.engine_client import EngineClient", "upward"),
        ("jaxserve/outputs.py", "from jaxserve.config import GIB", "neighbour"),
        ("jaxserve/layers/a.py", "if TYPE_CHECKING:\n    from jaxserve.engine.plan import Plan", "upward"),
        ("jaxserve/engine/a.py", 'import_module("jaxserve.text.stream")', "neighbour"),
        ("jaxserve/engine/a.py", "import server.app", "never imports the server"),
        ("jaxserve/__init__.py", "import server", "never imports the server"),
        ("server/app.py", "from jaxserve.config import EngineConfig", "only jaxserve's public names"),
        ("server/app.py", "from jaxserve import config", "only jaxserve's public names"),
        ("jaxserve/engine/a.py", "from jaxserve import LLM", "through its __init__.py"),
        ("jaxserve/engine/a.py", "from .. import LLM", "through its __init__.py"),
        ("jaxserve/config.py", "import jax.numpy as jnp", "never seen an array"),
        ("jaxserve/text/stream.py", "import numpy", "never seen an array"),
        ("jaxserve/engine/a.py", "from asyncio import Queue", "only async_llm.py"),
        ("jaxserve/cellar/a.py", "import os", "has no floor"),
        ("jaxserve/engine/a.py", "from jaxserve.cellar import b", "has no floor"),
    ],
)
def test_a_wrong_import_is_shown_with_its_place(tmp_path, path, source, reason):
    rooms = {f"jaxserve/{name}/__init__.py": "" for name in ("text", "engine")} | {"jaxserve/config.py": "GIB = 1"}
    [difference] = differences(write(tmp_path, rooms | {path: source}))
    assert difference.startswith(f"{path}:{source.count(chr(10)) + 1} ")
    assert reason in difference


def test_a_circle_is_shown_even_inside_one_room(tmp_path):
    circle = {
        "jaxserve/engine/a.py": "from jaxserve.engine import b",
        "jaxserve/engine/b.py": "from .c import f",
        "jaxserve/engine/c.py": "def f():\n    import jaxserve.engine.a",
    }
    [difference] = differences(write(tmp_path, circle))
    assert difference.endswith("jaxserve.engine.a → jaxserve.engine.b → jaxserve.engine.c → jaxserve.engine.a")


def test_what_the_plan_allows_is_not_complained_about(tmp_path):
    sources = {
        "jaxserve/__init__.py": "from jaxserve.llm import LLM\nfrom jaxserve.errors import JaxServeError",
        "jaxserve/errors.py": "",
        "jaxserve/config.py": "from jaxserve.errors import JaxServeError",
        "jaxserve/llm.py": "from jaxserve.engine.plan import Plan\nfrom jaxserve.engine_client import EngineClient",
        "jaxserve/engine_client.py": "from jaxserve.text import stream",
        "jaxserve/async_llm.py": "import asyncio",
        "jaxserve/engine/plan.py": "import jax\nfrom . import batch\nfrom jaxserve import kvcache",
        "jaxserve/engine/batch.py": "import numpy",
        "jaxserve/kvcache/pool.py": "from jaxserve.errors import JaxServeError",
        "jaxserve/text/stream.py": "import json",
        "server/app.py": "import asyncio\nfrom jaxserve import LLM\nfrom . import routes",
        "server/routes/chat.py": "from jaxserve import errors_like_this",
    }
    assert differences(write(tmp_path, sources)) == []
