"""What a chat template can write by itself, and what it asks for: read from its syntax tree, without rendering it."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from jinja2 import meta, nodes

from jaxserve.text.sandbox import parse_template

PLACEHOLDER = "…"  # stands where a value goes


@dataclass(frozen=True, slots=True)
class TemplateText:
    """written: the template's own words in the order of its source, VALUE where others go. What it only looks for in
    messages, to split at it or to compare, is not written.
    asks_for: the variables that it reads without setting them first.
    """

    text: str
    variables: frozenset[str]


@lru_cache(maxsize=64)
def extract_template_text(source: str) -> TemplateText:
    """Of every branch, whatever its condition. Raises Jinja's TemplateSyntaxError. Cached by source."""
    tree = parse_template(source)
    return TemplateText("".join(_statement(tree, _constants(tree))), frozenset(meta.find_undeclared_variables(tree)))


def _constants(tree: nodes.Template) -> dict[str, str]:
    """Names that are set once, to a text: `{% set end = "</think>" %}`."""
    assigned: dict[str, list[nodes.Node]] = {}
    for assign in tree.find_all(nodes.Assign):
        if isinstance(assign.target, nodes.Name):
            assigned.setdefault(assign.target.name, []).append(assign.node)
    return {
        name: values[0].value
        for name, values in assigned.items()
        if len(values) == 1 and isinstance(values[0], nodes.Const) and isinstance(values[0].value, str)
    }


def _statement(node: nodes.Node, known: dict[str, str]) -> Iterator[str]:
    """The words of a statement and of those inside it."""
    if isinstance(node, nodes.Output):
        for part in node.nodes:
            yield from _words(part, known)
    elif isinstance(node, nodes.Assign) and not isinstance(node.node, nodes.Const):
        yield from _words(node.node, known)
    else:
        for child in node.iter_child_nodes():
            if isinstance(child, nodes.Stmt | nodes.Template):
                yield from _statement(child, known)


def _words(node: nodes.Node, known: dict[str, str]) -> Iterator[str]:
    """The words that an expression contributes to the text that it makes."""
    if isinstance(node, nodes.TemplateData):
        yield node.data
    elif isinstance(node, nodes.Const):
        yield node.value if isinstance(node.value, str) else ""
    elif isinstance(node, nodes.Name):
        yield known.get(node.name, PLACEHOLDER)
    elif isinstance(node, nodes.Add):
        yield from _words(node.left, known)
        yield from _words(node.right, known)
    elif isinstance(node, nodes.Concat):
        for part in node.nodes:
            yield from _words(part, known)
    elif isinstance(node, nodes.CondExpr):
        yield from _words(node.expr1, known)
        yield from _words(node.expr2, known) if node.expr2 else ()
    elif isinstance(node, nodes.Filter) and node.node is not None:
        yield from _words(node.node, known)
    elif isinstance(node, nodes.Call):
        yield from _call(node, known)
    else:
        yield PLACEHOLDER


def _call(node: nodes.Call, known: dict[str, str]) -> Iterator[str]:
    """A method's text is that of its owner (`text.strip()`), a macro's that of its arguments."""
    if isinstance(node.node, nodes.Getattr):
        yield from _words(node.node.node, known)
    else:
        for argument in [*node.args, *(pair.value for pair in node.kwargs)]:
            yield from _words(argument, known)
