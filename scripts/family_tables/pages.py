"""The tables of families: FAMILIES.md, the README's short one, and families.json for the server's /docs."""

import json
import textwrap
from collections.abc import Iterable, Sequence

from scripts.family_tables.rows import NOTHING, ORDER, TableRow
from tests.weights.packed_cases import PACKED_FORMS

CHECKS = {  # of the long table, by evidence
    "logits": "logits",
    "tokens": "tokens",
    "engine": "around",
    "sizes": "sizes",
    "devices": "devices",
}
HEAD = """# Model families

Made by `scripts/family_table --write` from the registry, the tables of test cases and their results in
[tests/results.json](../../tests/results.json); do not edit. A number is that of test cases that have passed.

* **logits**: those of transformers in float32 within 1e-4, after each of 100 tokens, of tiny random weights, in so many
  configs (`tests/models/test_parity.py`).
* **tokens**: 32 greedy tokens of the engine are those of transformers (`tests/engine/test_model_families.py`).
* **around**: the same tokens, greedy and sampled, in chunks, from the cache, with others and after preemption.
* **sizes**: the names, shapes and number of parameters of so many published models are those of transformers
  (`tests/models/test_published_sizes.py`).
* **devices**: the logits on four devices are those of one (`tests/parallel/eight_devices/check_families.py`).
* **formats**: beside safetensors, packed forms whose weights are those of the unpacked checkpoint
  (`tests/weights/test_packed_families.py`), and GGUF (`tests/weights/test_gguf_families.py`).
* **tool calls**, **reasoning**: the parsers that are detected in real chat templates of its models
  (`tests/text/test_families.py`); none: they show no tools or calls of an unknown form, or no reasoning.
  – : no template of its models is in a package registry, where the tests could fetch it.

"""


def write_page(rows: Sequence[TableRow]) -> str:
    """Return the text of jaxserve/models/FAMILIES.md."""
    titles = ("models", "architecture", "layers", "formats", *CHECKS.values(), "tool calls", "reasoning")
    lines = [_line(titles), _line(["---"] * len(titles))]
    for row in rows:
        checks = [str(row.cases.get(name, NOTHING)) for name in CHECKS]
        cells = (row.models, f"`{row.architecture}`", _join(row.layers), formats(row), *checks)
        lines.append(_line((*cells, _join(row.tools), _join(row.reasoning))))
    return HEAD + "\n".join(lines) + "\n"


def formats(row: TableRow) -> str:
    """Return the formats beside plain safetensors, in words."""
    packed = "all packed" if len(row.packed) == len(PACKED_FORMS) else ", ".join(row.packed)
    return _join(part for part in (packed, "GGUF" if row.has_gguf else "") if part)


def write_summary(rows: Sequence[TableRow]) -> str:
    """Return the README's part: what is verified of how many, and a line for each series."""
    counts = {name: sum(name in row.cases for row in rows) for name in CHECKS}
    num_configs = sum(row.cases.get("logits", 0) for row in rows)
    text = (
        f"Of {len(rows)} architectures, {counts['logits']} have the logits of transformers, in {num_configs} configs "
        f"of tiny random weights; {counts['tokens']} have its greedy tokens, {counts['engine']} the same tokens in "
        "chunks, from the cache, with others and after a preemption, "
        f"{counts['sizes']} the tensors of published models, and {counts['devices']} the same logits on four devices. "
        f"Packed checkpoints are {', '.join(PACKED_FORMS)}. "
        "[FAMILIES.md](jaxserve/models/FAMILIES.md) has a row for each, with its checks."
    )
    lines = [
        *textwrap.wrap(text, 120, break_long_words=False, break_on_hyphens=False),
        "",
        "| family | models | layers | formats | tool calls | reasoning |",
        "|---|---|---|---|---|---|",
    ]
    for series in dict.fromkeys(row.series for row in rows):
        of_series = [row for row in rows if row.series == series]
        models = "; ".join(row.models.removeprefix(f"{series} ") for row in of_series)
        cells = (series, models, *_merge(of_series))
        lines.append(_line(cells))
    return "\n".join(lines)


def _merge(rows: Sequence[TableRow]) -> tuple[str, ...]:
    """Return layers, formats and parsers of all rows together; of GGUF, which of them."""
    gguf = [row.models.removeprefix(f"{row.series} ") for row in rows if row.has_gguf]
    packed = [form for form in PACKED_FORMS if any(form in row.packed for row in rows)]
    formats_ = ["all packed" if len(packed) == len(PACKED_FORMS) else ", ".join(packed)]
    if gguf:
        formats_.append("GGUF" if len(gguf) == len(rows) else f"GGUF: {'; '.join(gguf)}")
    return (
        _join(kind for kind in ORDER if any(kind in row.layers for row in rows)),
        _join(part for part in formats_ if part),
        _join_parsers(row.tools for row in rows),
        _join_parsers(row.reasoning for row in rows),
    )


def _join_parsers(parts: Iterable[Iterable[str]]) -> str:
    names = dict.fromkeys(name for part in parts for name in part)
    return _join([name for name in names if name != "none"] or names)


def write_json(rows: Sequence[TableRow]) -> str:
    """Return the text of jaxserve/models/families.json: the rows as /docs shows them."""
    shown = [
        {
            "models": row.models,
            "architecture": row.architecture,
            "layers": _join(row.layers),
            "formats": _join(("safetensors", formats(row))),
            "checks": ", ".join(f"{title} {row.cases[name]}" for name, title in CHECKS.items() if name in row.cases),
            "tool calls": _join(row.tools),
            "reasoning": _join(row.reasoning),
        }
        for row in rows
    ]
    return json.dumps(shown, indent=1, ensure_ascii=False) + "\n"


def _join(names: Iterable[str]) -> str:
    return ", ".join(names) or NOTHING


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
