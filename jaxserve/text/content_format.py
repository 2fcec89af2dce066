"""Analyze from a template's syntax tree whether it expects content as one string or as a list of parts."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from jinja2 import nodes

from jaxserve.text.messages import ContentFormat
from jaxserve.text.sandbox import parse_template


@dataclass(frozen=True, slots=True)
class ContentUsage:
    """The ways in which a template uses content.

    loops_over_parts   It loops over the content.
    tests_for_string   It tests whether the content is a string.
    tests_for_none     It tests whether the content is none.
    """

    loops_over_parts: bool
    tests_for_string: bool
    tests_for_none: bool

    @property
    def format(self) -> ContentFormat:
        """The format that fits the template."""
        return "openai" if self.loops_over_parts else "string"


@lru_cache(maxsize=64)
def analyze_content(source: str) -> ContentUsage:
    """Analyze how a template uses the content of messages; the last 64 results are cached.

    A message is what a loop over `messages` yields (also over a slice, a filtered form or a renamed copy), or an item
    of it; a macro's parameter is not followed. A name that stands for content in one branch and for another field of
    the message in another one (Mistral Nemo's tool_calls) does not count as content.

    Raises jinja2.TemplateSyntaxError if the source has one.
    """
    tree = parse_template(source)
    lists = _add_aliases({"messages"}, tree, _is_list)
    items = {name for loop in tree.find_all(nodes.For) if _is_list(loop.iter, lists) for name in _targets(loop.target)}
    items = _add_aliases(items, tree, lambda node, known: _is_message(node, known, lists))
    contents = _add_aliases(set(), tree, lambda node, known: _is_content(node, items, lists, known))
    contents -= {
        target
        for assign in tree.find_all(nodes.Assign)
        if _is_other_field(assign.node, items, lists)
        for target in _targets(assign.target)
    }

    def is_content(node: nodes.Node) -> bool:
        return _is_content(node, items, lists, contents)

    tests = {test.name for test in tree.find_all(nodes.Test) if is_content(test.node)}
    return ContentUsage(
        loops_over_parts=any(is_content(loop.iter) for loop in tree.find_all(nodes.For)),
        tests_for_string="string" in tests,
        tests_for_none="none" in tests,
    )


def _add_aliases(names: set[str], tree: nodes.Template, is_alias: Callable[[nodes.Node, set[str]], bool]) -> set[str]:
    """Return the names and, repeatedly, all names that are assigned from them."""
    names = set(names)
    while True:
        aliases = {
            target
            for assign in tree.find_all(nodes.Assign)
            if is_alias(assign.node, names)
            for target in _targets(assign.target)
        }
        if aliases <= names:
            return names
        names |= aliases


def _targets(node: nodes.Node) -> list[str]:
    """Return the names that a loop or an assignment sets; a namespace attribute is `ns.attribute`."""
    if isinstance(node, nodes.Name):
        return [node.name]
    if isinstance(node, nodes.NSRef):
        return [f"{node.name}.{node.attr}"]
    if isinstance(node, nodes.Tuple):
        return [name for item in node.items for name in _targets(item)]
    return []


def _name_of(node: nodes.Node) -> str | None:
    if isinstance(node, nodes.Name):
        return node.name
    if isinstance(node, nodes.Getattr) and isinstance(node.node, nodes.Name):
        return f"{node.node.name}.{node.attr}"
    return None


def _inner(node: nodes.Node) -> nodes.Node:
    """Return the node inside filters, slices and conditions."""
    while True:
        if isinstance(node, nodes.Filter) and node.node is not None:
            node = node.node
        elif isinstance(node, nodes.CondExpr):
            node = node.expr1
        elif isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice):
            node = node.node
        else:
            return node


def _is_list(node: nodes.Node, lists: set[str]) -> bool:
    return _name_of(_inner(node)) in lists


def _is_message(node: nodes.Node, items: set[str], lists: set[str]) -> bool:
    node = _inner(node)
    if _name_of(node) in items:
        return True
    return isinstance(node, nodes.Getitem) and not isinstance(node.arg, nodes.Slice) and _is_list(node.node, lists)


def _is_content(node: nodes.Node, items: set[str], lists: set[str], contents: set[str]) -> bool:
    return _name_of(_inner(node)) in contents or _field(node, items, lists) == "content"


def _is_other_field(node: nodes.Node, items: set[str], lists: set[str]) -> bool:
    return _field(node, items, lists) not in (None, "content")


def _field(node: nodes.Node, items: set[str], lists: set[str]) -> str | None:
    """Return the name of the message's field that is read here; None if none is."""
    node = _inner(node)
    if isinstance(node, nodes.Getattr) and _is_message(node.node, items, lists):
        return node.attr
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const) and _is_message(node.node, items, lists):
        return node.arg.value if isinstance(node.arg.value, str) else None
    return None
