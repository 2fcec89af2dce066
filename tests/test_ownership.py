"""State with one writer: which attributes of the scheduler's classes are assigned outside of the file of their class.

An attribute is recognised by its name, and an object by not being `self`; a file may write the attributes of its own
classes. `x.attr = …`, `x.attr += …`, `x.attr[i] = …`, `del x.attr[i]`, `insort(x.attr, …)` and calls of methods that
change a list or a dictionary, as `x.attr.append(…)`, are assignments.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.sources import REPO, called_name, modules, write

OWNERS = tuple(
    f"jaxserve.engine.{name}" for name in ("sequence", "request_table", "row_table", "decode_batch_cache", "stats")
)
FILLS_INPUTS = "jaxserve.engine.batch"  # writes StepInputs, whose fields have names of the decode batch's
CHANGING_METHODS = {
    *("append", "extend", "insert", "remove", "pop", "clear", "sort", "reverse"),
    *("add", "discard", "update", "setdefault", "popitem", "fill"),
}


def written_attributes(tree: ast.AST) -> Iterator[ast.Attribute]:
    """Yield every attribute that is assigned or changed, self's own ones included."""
    for node in ast.walk(tree):
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign | ast.Delete):
            targets = node.targets
        elif isinstance(node, ast.AugAssign | ast.AnnAssign):
            targets = [node.target]
        elif isinstance(node, ast.Call) and called_name(node.func) == "insort":
            targets = node.args[:1]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CHANGING_METHODS:
            targets = [node.func.value]
        yield from (attribute for target in targets for attribute in _attributes(target))


def _attributes(target: ast.expr) -> Iterator[ast.Attribute]:
    if isinstance(target, ast.Tuple | ast.List):
        for element in target.elts:
            yield from _attributes(element)
    elif isinstance(target, ast.Subscript | ast.Starred):
        yield from _attributes(target.value)
    elif isinstance(target, ast.Attribute):
        yield target


def is_of_self(attribute: ast.Attribute) -> bool:
    """Whether it is an attribute of self."""
    return isinstance(attribute.value, ast.Name) and attribute.value.id == "self"


def own_attributes(tree: ast.Module) -> set[str]:
    """Return the names of the attributes of a file's classes: their fields, and what their methods assign to self."""
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    fields = {node.target for one in classes for node in one.body if isinstance(node, ast.AnnAssign)}
    names = {field.id for field in fields if isinstance(field, ast.Name)}
    return names | {attribute.attr for attribute in written_attributes(tree) if is_of_self(attribute)}


def foreign_writes(root: Path) -> list[str]:
    """List the places that write an attribute of one of the OWNERS' classes in another file, as path:line attribute."""
    trees = {name: ast.parse(file.read_text(encoding="utf-8")) for name, file in modules(root).items()}
    owned = {attribute for name in OWNERS if name in trees for attribute in own_attributes(trees[name])}
    writes = []
    for name, tree in trees.items():
        is_checked = name.startswith("jaxserve.engine.") and name != FILLS_INPUTS
        foreign = owned - own_attributes(tree) if is_checked else set()
        path = modules(root)[name].relative_to(root)
        writes += [
            f"{path}:{attribute.lineno} {attribute.attr}"
            for attribute in written_attributes(tree)
            if attribute.attr in foreign and not is_of_self(attribute)
        ]
    return writes


def test_the_state_of_sequences_requests_and_rows_is_written_by_its_class_only():
    assert foreign_writes(REPO) == []


def test_every_field_of_a_sequence_is_covered():
    file = modules(REPO)["jaxserve.engine.sequence"]
    fields = own_attributes(ast.parse(file.read_text(encoding="utf-8")))
    assert {"tokens", "num_pending", "num_computed", "row", "epoch", "is_prefilled", "prompt_logprobs"} <= fields


def test_every_way_to_write_an_attribute_of_another_object_is_found(tmp_path):
    statements = (
        *("sequence.row = 1", "a, table.rows[0].row = 1, 2", "sequence.row += 1", "sequence.row: int = 1"),
        *("self.sequence.tokens[0] = 1", "del sequence.tokens[0]", "sequence.tokens.append(1)"),
        *("insort(table.sequence.tokens, 1)", "bisect.insort(sequence.tokens, 1)", "(a, *sequence.tokens) = 1, 2"),
    )
    sources = {
        "jaxserve/engine/sequence.py": "class Sequence:\n row: int\n tokens: list\n def start(self): self.row = 1",
        "jaxserve/engine/other.py": "\n".join(statements),
    }
    lines = [int(write.split(":")[1].split()[0]) for write in foreign_writes(write(tmp_path, sources))]
    assert sorted(lines) == list(range(1, len(statements) + 1))


def test_a_file_may_write_its_own_classes_and_read_all(tmp_path):
    sources = {
        "jaxserve/engine/sequence.py": "class Sequence:\n row: int\n\ndef reset(sequence): sequence.row = 0",
        "jaxserve/engine/beams.py": "class Beam:\n row: int\n\ndef reset(beam): beam.row = 0",
        "jaxserve/engine/other.py": "row = sequence.row\ntokens = [*sequence.tokens]\ntokens.append(1)",
    }
    assert foreign_writes(write(tmp_path, sources)) == []
