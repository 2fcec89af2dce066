"""TemplateText: the literal text and the variables of a chat template, from its syntax tree, without rendering."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from jinja2 import meta, nodes

from jaxserve.text.sandbox import parse_template

PLACEHOLDER = "…"  # stands for a value


@dataclass(frozen=True, slots=True)
class TemplateText:
    """The parts of a template that show what it writes and reads.

    text        The literals that it writes, in the order of its source, with PLACEHOLDER for values. Literals that it
                only compares with or splits at are left out.
    variables   The variables that it reads without setting them first.
    """

    text: str
    variables: frozenset[str]


@lru_cache(maxsize=64)
def extract_template_text(source: str) -> TemplateText:
    """Return the text of all branches of a template, whatever their conditions; the last 64 are cached.

    Raises jinja2.TemplateSyntaxError if the source has one.
    """
    tree = parse_template(source)
    return TemplateText("".join(_statement(tree, _constants(tree))), frozenset(meta.find_undeclared_variables(tree)))


def _constants(tree: nodes.Template) -> dict[str, str]:
    """Return the names that are set once, to a text, as in `{% set end = "</think>" %}`."""
    assigned: dict[str, list[nodes.Node]] = {}
    for assign in tree.find_all(nodes.Assign):
        if isinstance(assign.target, nodes.Name):
            assigned.setdefault(assign.target.name, []).append(assign.node)
    return {
        name: values[0].value
        for name, values in assigned.items()
        if len(values) == 1 and isinstance(values[0], nodes.Const) and isinstance(values[0].value, str)
    }


def _statement(node: nodes.Node, constants: dict[str, str]) -> Iterator[str]:
    """Yield the texts of a statement and of those inside it."""
    if isinstance(node, nodes.Output):
        for part in node.nodes:
            yield from _expression(part, constants)
    elif isinstance(node, nodes.Assign) and not isinstance(node.node, nodes.Const):
        yield from _expression(node.node, constants)
    else:
        for child in node.iter_child_nodes():
            if isinstance(child, nodes.Stmt | nodes.Template):
                yield from _statement(child, constants)


def _expression(node: nodes.Node, constants: dict[str, str]) -> Iterator[str]:
    """Yield the texts that an expression contributes to its result."""
    if isinstance(node, nodes.TemplateData):
        yield node.data
    elif isinstance(node, nodes.Const):
        yield node.value if isinstance(node.value, str) else ""
    elif isinstance(node, nodes.Name):
        yield constants.get(node.name, PLACEHOLDER)
    elif isinstance(node, nodes.Add):
        yield from _expression(node.left, constants)
        yield from _expression(node.right, constants)
    elif isinstance(node, nodes.Concat):
        for part in node.nodes:
            yield from _expression(part, constants)
    elif isinstance(node, nodes.CondExpr):
        yield from _expression(node.expr1, constants)
        yield from _expression(node.expr2, constants) if node.expr2 else ()
    elif isinstance(node, nodes.Filter) and node.node is not None:
        yield from _expression(node.node, constants)
    elif isinstance(node, nodes.Call):
        yield from _call(node, constants)
    else:
        yield PLACEHOLDER


def _call(node: nodes.Call, constants: dict[str, str]) -> Iterator[str]:
    """Yield the texts of a method's owner (`text.strip()`), or of a macro's arguments."""
    if isinstance(node.node, nodes.Getattr):
        yield from _expression(node.node.node, constants)
    else:
        for argument in [*node.args, *(pair.value for pair in node.kwargs)]:
            yield from _expression(argument, constants)
