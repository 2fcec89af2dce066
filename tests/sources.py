"""The sources of the repository, or of a small one that a test writes."""

import ast
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]


def modules(root: Path) -> dict[str, Path]:
    """Map the dotted name of every module of the library and the server to its file."""
    files = [file for top in ("jaxserve", "server") for file in sorted((root / top).rglob("*.py"))]
    return {".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


def called_name(function: ast.expr) -> str | None:
    """Return the last name of a called function or of a decorator: g of f.g."""
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", None)


def write(root: Path, sources: dict[str, str]) -> Path:
    """Write modules by their paths below `root`, which is returned."""
    for path, source in sources.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source, encoding="utf-8")
    return root
