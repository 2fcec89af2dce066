"""Nothing that a request or a model file holds is executed, and no process is forked."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sources import REPO, modules, write

FORBIDDEN_CALLS = {
    *("eval", "exec", "compile", "__import__", "execfile"),
    *("import_module", "run_path", "run_module", "exec_module", "find_spec", "entry_points"),
    *("os.fork", "os.forkpty", "os.system", "os.popen", "os.execv", "os.execve", "os.posix_spawn"),
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.load", "marshal.loads", "shelve.open"),
    *("torch.load", "joblib.load", "dill.loads", "cloudpickle.loads", "yaml.load", "yaml.unsafe_load"),
}
FORBIDDEN_MODULES = {"marshal", "shelve", "dill", "cloudpickle", "joblib", "torch", "runpy", "imp", "code", "pty"}
ALLOWED = {  # file, what it calls → why that is neither a request's nor a model file's
    ("jaxserve/__init__.py", "import_module"): "names of a constant table",
    ("jaxserve/native/library.py", "find_spec"): "ziglang, a constant",
    ("jaxserve/parallel/targets.py", "import_module"): "JAX's CUDA plugin, a constant",
    ("jaxserve/structured/compiler.py", "compile"): "a parameter of that name",
    ("jaxserve/weights/wheels.py", "find_spec"): "pip, a constant",
    ("jaxserve/workers/worker.py", "import_module"): "modules and functions that the parent's source names",
    ("server/chat/command.py", "import_module"): "a constant",
    ("server/cli.py", "import_module"): "names of a constant table",
    ("server/custom_middleware.py", "import_module"): "--middleware, which the operator writes",
    ("jaxserve/engine/programs.py", "pickle.loads"): "programs of a private directory, after owner, mode and digest",
}


def dotted(node: ast.expr) -> str:
    """Return the dotted name of what is called; "" for anything else, as a call of a call."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def executed(source: str) -> Iterator[str]:
    """Yield what a source calls or imports that executes data, loads code by name, or forks."""
    tree = ast.parse(source)
    names = {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module in {name.partition(".")[0] for name in FORBIDDEN_CALLS}
        for alias in node.names
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            imported = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            yield from (name for name in imported if name.partition(".")[0] in FORBIDDEN_MODULES)
            yield from (name for name in imported if name in ("multiprocessing", "multiprocessing.pool"))
        elif isinstance(node, ast.Call):
            called = names.get(dotted(node.func), dotted(node.func))
            last = called.rpartition(".")[2]
            if called in FORBIDDEN_CALLS:
                yield called
            elif last in FORBIDDEN_CALLS and (last != "compile" or called == "builtins.compile"):
                yield last
            for keyword in node.keywords:
                if keyword.arg in ("trust_remote_code", "allow_pickle", "shell") and not (
                    isinstance(keyword.value, ast.Constant) and keyword.value.value is False
                ):
                    yield f"{keyword.arg}=True"
        elif isinstance(node, ast.Name | ast.Attribute) and dotted(node) in FORBIDDEN_CALLS - {"compile"}:
            yield dotted(node)  # handed on, as to a thread


def executed_in(root: Path) -> set[tuple[str, str]]:
    """Return pairs (file, what it executes)."""
    files = modules(root).values()
    return {(str(file.relative_to(root)), call) for file in files for call in executed(file.read_text("utf-8"))}


def test_no_module_executes_data_loads_code_by_name_or_forks():
    assert executed_in(REPO) - ALLOWED.keys() == set()


def test_what_is_allowed_is_still_there():
    assert ALLOWED.keys() - executed_in(REPO) == set()


def test_programs_are_unpickled_after_their_file_and_their_digest_were_checked():
    tree = ast.parse(modules(REPO)["jaxserve.engine.programs"].read_text("utf-8"))
    functions = {node.name: ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    [loading] = [text for text in functions.values() if "pickle.loads(" in text]
    steps = ("self._read(", "sha256(", "raise ValueError", "pickle.loads(")
    assert sorted(steps, key=loading.index) == list(steps)
    assert "return None if self._files is None else self._files.read(name)" in functions["_read"]
    for module in ("program_files", "built_programs"):
        source = modules(REPO)[f"jaxserve.engine.{module}"].read_text("utf-8")
        readers = [
            node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef) and node.name == "read"
        ]
        assert any("read_private_file(" in ast.unparse(reader) for reader in readers)


@pytest.mark.parametrize(
    ("source", "call"),
    [
        ("eval('1')", "eval"),
        ("import pickle\npickle.loads(b'')", "pickle.loads"),
        ("from pickle import loads\nloads(b'')", "pickle.loads"),
        ("from pickle import loads as read\nread(b'')", "pickle.loads"),
        ("import importlib\nimportlib.import_module(name)", "import_module"),
        ("run(target=import_module)", "import_module"),
        ("import torch", "torch"),
        ("load(path, trust_remote_code=True)", "trust_remote_code=True"),
        ("np.load(path, allow_pickle=flag)", "allow_pickle=True"),
        ("import os\nos.fork()", "os.fork"),
        ("import multiprocessing", "multiprocessing"),
        ("from multiprocessing import Process", "multiprocessing"),
    ],
)
def test_what_is_forbidden_is_noticed(source, call, tmp_path):
    assert executed_in(write(tmp_path, {"jaxserve/a.py": source})) == {("jaxserve/a.py", call)}


@pytest.mark.parametrize(
    "source", ["re.compile('a')", "lowered.compile()", "load(path, trust_remote_code=False)", "cache.fork(a, b)"]
)
def test_what_is_harmless_is_not(source, tmp_path):
    assert executed_in(write(tmp_path, {"jaxserve/a.py": source})) == set()
